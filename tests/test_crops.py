"""Training batches: what is in a crop, and that it depends on the seed alone."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_corpus import RATE, toy_speech, write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.store import TokenStore
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.training import prefetched
from voxtok.tokenize.architecture import Architecture
from voxtok.tokenize.crops import Corpus, CropConfig, batches, load_corpus, plan_epoch, read_utterances, targets_of
from voxtok.tokenize.disguise import (
    Disguise,
    borrow_channel,
    change_speed,
    coloured_noise,
    equalize,
    mix,
    power_spectra,
    reverberate,
    stop_band,
)
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.masking import span_mask
from voxtok.tokenize.student import Shape, architecture_of, new_model

EVERYTHING = Disguise(speed=1.0, channel=1.0, equalizer=1.0, band=1.0, noise=1.0, voice=1.0, room=1.0)


def shape() -> Architecture:
    """Frames of 400 samples every 320."""
    model = new_model(
        Shape(
            width=8, blocks=1, heads=1, inner=8, channels=(4, 4), kernels=(80, 5), strides=(80, 4), positions=2,
            position_groups=2,
        )
    )  # fmt: skip
    found = architecture_of(model)
    assert (found.hop_samples, found.min_samples) == (320, 400)
    return found


def crops(disguise: Disguise, batch_s: float = 4.0) -> CropConfig:
    return CropConfig(batch_s=batch_s, crop_s=1.2, mask_share=0.8, mask_frames=5, disguise=disguise)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("crops")
    cuts = load_cuts(write_toy_corpus(folder / "corpus", [0.8 + 0.1 * i for i in range(10)]))
    for name, vocab_size in (("a", 12), ("b", 20)):
        encode_corpus(cuts, toy_tokenizer(vocab_size), folder / name, shard_size=4)
    return load_corpus([TokenStore.open(folder / "a"), TokenStore.open(folder / "b")], [], memory_gb=1)


def test_undisguised_crops_hold_their_utterance_and_its_tokens(corpus: Corpus) -> None:
    """A store's frame that sees the same samples as a frame of the crop is its target."""
    recipe = next(batches(corpus, crops(Disguise()), 0, Ranks(), shape(), 0))
    batch = recipe()
    assert torch.equal(batch.waveforms, batch.clean)
    assert torch.allclose(batch.waveforms.mean(1), torch.zeros(len(batch.mask)), atol=1e-5)
    assert torch.allclose(batch.waveforms.var(1, correction=0), torch.ones(len(batch.mask)), atol=1e-3)
    tokenizers = [toy_tokenizer(12), toy_tokenizer(20)]
    whole = [utterance.span(0, utterance.num_samples).astype(np.float32) for utterance in corpus.utterances]
    for waveform, target in zip(batch.waveforms.numpy(), batch.targets.numpy(), strict=True):
        source, start = _find(waveform, whole)
        for stream, tokenizer in enumerate(tokenizers):
            codes = tokenizer.encode(source, RATE).codes[:, 0]
            centres = start + 320 * np.arange(len(target)) + 200
            nearest = np.clip(np.round((centres - 200) / 160).astype(int), 0, len(codes) - 1)
            assert np.array_equal(target[:, stream], codes[nearest])


def _find(waveform: np.ndarray, whole: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """The utterance and the sample that a normalised crop comes from."""
    for source in whole:
        if len(source) < len(waveform):
            continue
        windows = np.lib.stride_tricks.sliding_window_view(source, len(waveform))
        match = windows[:, ::50] @ waveform[::50].astype(np.float32)
        for start in np.argsort(match)[-5:]:
            if np.corrcoef(windows[start], waveform)[0, 1] > 0.9999:
                return source, int(start)
    raise AssertionError("the crop is in no utterance")


def test_batches_do_not_depend_on_ranks_workers_or_where_one_begins(corpus: Corpus) -> None:
    config = crops(EVERYTHING)
    alone = batches(corpus, config, 0, Ranks(), shape(), 0)
    first = [next(alone)() for _ in range(9)]  # more than an epoch
    begun = prefetched(batches(corpus, config, 0, Ranks(), shape(), 7), threads=2)
    assert torch.equal(next(begun).waveforms, first[7].waveforms)
    parts = [batches(corpus, config, 0, Ranks(rank, 2), shape(), 0) for rank in (0, 1)]
    for batch in first[:4]:
        split = [next(part)() for part in parts]
        assert torch.equal(split[0].waveforms, batch.waveforms[0::2])
        assert torch.equal(split[1].targets, batch.targets[1::2])
        assert torch.equal(split[1].mask, batch.mask[1::2])
    other = next(batches(corpus, config, 1, Ranks(), shape(), 0))()
    assert other.waveforms.shape != first[0].waveforms.shape or not torch.equal(other.waveforms, first[0].waveforms)


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 2, 20])
def test_what_is_prepared_ahead_is_all_used(count: int, threads: int) -> None:
    assert list(prefetched((partial(int, i) for i in range(count)), threads)) == list(range(count))


@given(st.lists(st.integers(1000, 60000), min_size=1, max_size=40), st.integers(0, 5))
def test_an_epoch_has_every_utterance_once_in_batches_of_bounded_size(lengths: list[int], epoch: int) -> None:
    config = crops(Disguise())
    plan = plan_epoch(lengths, config, 0, epoch)
    assert sorted(item for batch in plan for item in batch) == list(range(len(lengths)))
    for batch in plan:
        length = min(config.crop_s * RATE, *(lengths[item] for item in batch))  # all are cut to the shortest
        assert len(batch) == 1 or len(batch) * length <= config.batch_s * RATE / 0.95


def test_one_short_utterance_does_not_shorten_the_others() -> None:
    config = crops(Disguise())
    whole = round(config.crop_s * RATE)
    plan = plan_epoch([round(0.5 * RATE), *[whole] * 40], config, 0, 0)
    assert [0] in plan


@pytest.mark.parametrize("memory_gb", [0.0, 1.0])
def test_the_shortest_and_what_cannot_be_read_are_left_out(
    memory_gb: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cuts = list(load_cuts(write_toy_corpus(tmp_path, [0.4, 0.6, 0.7])))
    next((tmp_path / "audio").glob(f"*{cuts[1].id}*")).unlink()
    found = read_utterances(((cut, ()) for cut in cuts), memory_gb)
    assert [utterance.cut.id for utterance in found] == [cuts[2].id]
    assert [cut.id in caplog.text for cut in cuts] == [True, True, False]


def test_targets_follow_the_speed() -> None:
    """At twice the speed, frame 3 of a crop from 0 is centred at sample 2 * (960 + 200).

    That is (2320 - 200) / 160 = 13.25 frames of a store with a hop of 160.
    """
    codes = np.arange(40)[:, None]
    found = targets_of([codes], [160.0], 5, shape(), start=0, speed=2.0)
    assert found[3, 0] == 13
    assert targets_of([], [], 5, shape(), start=0, speed=1.0).shape == (5, 0)


@settings(max_examples=200)
@given(st.integers(0, 300), st.floats(0.05, 1.5), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_masks_are_spans_and_leave_something_to_see(frames: int, share: float, span: int, seed: int) -> None:
    mask = span_mask(frames, share=share, span_frames=span, rng=np.random.default_rng(seed))
    assert mask.shape == (frames,)
    if frames < 2:
        assert not mask.any()
        return
    runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]]))).reshape(-1, 2)
    assert len(runs) >= 1
    assert all(stop - start >= min(span, frames - 1) for start, stop in runs)
    assert mask.sum() <= max(1, round(share * frames / span)) * span


def test_hubert_masks_about_half() -> None:
    """Starts without replacement: a frame stays visible when none of 10 places before it starts, (1 - 0.08) ** 10."""
    rng = np.random.default_rng(0)
    share = np.mean([span_mask(500, share=0.8, span_frames=10, rng=rng).mean() for _ in range(200)])
    assert share == pytest.approx(1 - 0.92**10, abs=0.02)


def test_disguises_do_what_they_say() -> None:
    rng = np.random.default_rng(0)
    speech = toy_speech(1.0, seed=3)[0].astype(np.float64)
    assert change_speed(np.array([0.0, 10, 20, 30]), 1.5, 2).tolist() == [0, 15]
    assert np.allclose(equalize(speech, np.zeros(8)), speech)
    assert np.allclose(equalize(speech, np.full(8, 20.0)), 10 * speech)
    power = np.square(np.abs(np.fft.rfft(stop_band(speech, 0.5, 0.75))))
    frequency = np.fft.rfftfreq(len(speech), 1 / RATE)
    stopped = (frequency >= 2000) & (frequency < 4500)
    assert power[stopped].max() < 1e-18 * power.max()
    assert np.allclose(power[~stopped], np.square(np.abs(np.fft.rfft(speech)))[~stopped])
    assert Disguise(band=1.0).is_active
    noise = coloured_noise(len(speech), 0.5, rng)
    ratio = np.square(speech).mean() / np.square(mix(speech, noise, 10.0) - speech).mean()
    assert 10 * np.log10(ratio) == pytest.approx(10.0)
    assert np.array_equal(mix(speech, np.zeros_like(speech), 0.0), speech)
    wet = reverberate(speech, RATE, 0.3, 0.5, rng)
    assert wet.shape == speech.shape
    assert np.corrcoef(wet, speech)[0, 1] > 0.5
    assert EVERYTHING.is_active and not Disguise(speed=1.0).is_active
    with pytest.raises(ConfigError, match=r"disguise\.noise"):
        Disguise(noise=1.5)


def test_audio_beyond_the_memory_is_read_from_disk(tmp_path: Path) -> None:
    cuts = load_cuts(write_toy_corpus(tmp_path / "corpus", [1.0, 1.5]))
    encode_corpus(cuts, toy_tokenizer(12), tmp_path / "store", shard_size=4)
    store = TokenStore.open(tmp_path / "store")
    kept, read = (load_corpus([store], [], memory_gb=memory).utterances for memory in (1.0, 0.0))
    assert all(utterance.samples is None for utterance in read)
    for one, other in zip(kept, read, strict=True):
        assert np.allclose(one.span(100, 30000), other.span(100, 30000), atol=1 / 32768)


def test_stores_after_dedup_are_refused(tmp_path: Path) -> None:
    cuts = load_cuts(write_toy_corpus(tmp_path / "corpus", [1.0]))
    encode_corpus(cuts, toy_tokenizer(12, dedup=True), tmp_path / "store", shard_size=4)
    with pytest.raises(ConfigError, match="dedup"):
        load_corpus([TokenStore.open(tmp_path / "store")], [], memory_gb=1)


def test_a_borrowed_channel_is_the_other_recordings_spectrum_and_noise() -> None:
    rng = np.random.default_rng(0)
    speech = np.concatenate([np.zeros(RATE), 0.1 * rng.standard_normal(RATE)])  # half of it silent
    hiss = np.concatenate([0.01 * coloured_noise(RATE, 0.5, rng), coloured_noise(RATE, 0.5, rng)])  # floor 40 dB below
    changed = borrow_channel(speech, hiss, rng)
    assert changed.std() == pytest.approx(speech.std(), rel=0.25)  # about the level that it had
    floor_db, level_db = (20 * np.log10(part.std()) for part in (changed[1000 : RATE - 1000], changed[RATE + 1000 :]))
    assert 37 < level_db - floor_db < 63  # the noise is lower by 0 to 20 dB
    for part in (changed[1000 : RATE - 1000], changed[RATE + 1000 :]):
        power = power_spectra(part).mean(axis=0)
        slope_db = 10 * np.log10(power[20:40].mean() / power[160:200].mean())
        assert slope_db == pytest.approx(10 * np.log10(180 / 30), abs=2)  # amplitude falls as frequency ** -0.5
    silence = np.zeros(2 * RATE)
    assert np.array_equal(borrow_channel(silence, hiss, rng), silence)
    assert np.array_equal(borrow_channel(speech, silence, rng), speech)
