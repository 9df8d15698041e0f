"""Conversion: the target's frames; interpolations exact at their ends, chunks as the whole, kills as without."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet

from tests import reference_matching as reference
from tests.tiny_vocoder import feature_facts, save_tiny_feature_vocoder, tiny_config, tiny_vocoder
from tests.toy_corpus import RATE, toy_speech, write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer, tree
from tests.toy_voices import LAYER, Voices, make_voices
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.commands import main
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import BadAudio, ConfigError, TokenizerMismatch
from voxtok.runtime.files import read_jsonl
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.windows import WindowConfig
from voxtok.vocoder.conversion import Blend, Converter, Samples, Search
from voxtok.vocoder.convert import ConvertConfig, convert_corpus
from voxtok.vocoder.pool import Measured, Pool
from voxtok.vocoder.vocoder import Vocoder

KNN_VC = Blend(k=4, weighting="uniform")


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Voices:
    return make_voices(tmp_path_factory.mktemp("voices"))


def converter(voices: Voices, blend: Blend, *, second: bool = False) -> Converter:
    pools = [Pool.load(folder) for folder in voices.pools]
    return Converter(Vocoder.load(voices.vocoder, device="cpu"), pools[0], blend, second=pools[1] if second else None)


def source_frames(voices: Voices) -> torch.Tensor:
    return voices.features.of_samples(toy_speech(1.2, seed=42)[0], None)


def test_each_frame_becomes_the_mean_of_the_nearest_by_the_loops(voices: Voices) -> None:
    frames = source_frames(voices)[:6]
    pool = Pool.load(voices.pools[0]).frames.tolist()
    for query, made in zip(frames.tolist(), converter(voices, KNN_VC).match(frames).tolist(), strict=True):
        assert made == pytest.approx(reference.matched(query, pool, 4, by_distance=False), rel=1e-4, abs=1e-5)


def test_ends_of_interpolations_are_exact(voices: Voices) -> None:
    frames = source_frames(voices)
    target = converter(voices, KNN_VC).match(frames)
    assert not torch.equal(target, frames)
    assert torch.equal(converter(voices, replace(KNN_VC, keep_source=1.0)).match(frames), frames)
    assert torch.equal(converter(voices, replace(KNN_VC, keep_source=0.0)).match(frames), target)
    other = Converter(Vocoder.load(voices.vocoder, device="cpu"), Pool.load(voices.pools[1]), KNN_VC).match(frames)
    assert torch.equal(converter(voices, replace(KNN_VC, second=1.0), second=True).match(frames), other)
    assert torch.equal(converter(voices, KNN_VC, second=True).match(frames), target)
    between = converter(voices, replace(KNN_VC, second=0.25, keep_source=0.5), second=True).match(frames)
    assert torch.allclose(between, (0.75 * target + 0.25 * other + frames) / 2, atol=1e-5)


def test_a_recording_of_another_rate_is_resampled(voices: Voices) -> None:
    samples = np.repeat(toy_speech(1.0, seed=3)[0], 2)
    made = converter(voices, KNN_VC).convert(np.stack([samples, samples]), 2 * RATE, voices.features, windows=None)
    assert made.shape == (voices.features.upstream.num_frames(RATE) * 320,) and np.isfinite(made).all()


@given(chunks=st.lists(st.integers(0, 9000), max_size=12), chunk_frames=st.integers(6, 40), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=6)
def test_chunks_together_are_the_whole(voices: Voices, chunks: list[int], chunk_frames: int, seed: int) -> None:
    samples = toy_speech(2.2, seed=seed)[0]
    windows = WindowConfig(window_s=1.0, overlap_s=0.4)
    knn = converter(voices, KNN_VC)
    whole = knn.convert(samples, RATE, voices.features, windows=windows)
    stream = knn.stream(voices.features, windows=windows, chunk_frames=chunk_frames)
    bounds = [0, *np.minimum(np.cumsum([0, *chunks]), len(samples)).tolist(), len(samples)]
    parts = [stream.push(samples[a:b]) for a, b in pairwise(bounds)]
    together = np.concatenate([*parts, stream.finish()])
    assert together.shape == whole.shape
    assert np.abs(together - whole).max() <= 1e-4 * np.abs(whole).max()


def test_sound_comes_out_before_all_has_gone_in(voices: Voices) -> None:
    windows = WindowConfig(window_s=0.6, overlap_s=0.2)
    stream = converter(voices, KNN_VC).stream(voices.features, windows=windows, chunk_frames=5)
    samples = toy_speech(4.0, seed=0)[0]
    heard = 0
    for start in range(0, len(samples), 800):
        heard += len(stream.push(samples[start : start + 800]))
        assert heard / RATE >= (start + 800) / RATE - stream.latency_s - 0.08
    assert heard > RATE


def test_a_model_that_normalises_over_the_recording_needs_an_enrolment(tmp_path: Path) -> None:
    """With the recording itself for one, the stream is the conversion of the whole, in windows or within one."""
    voices = make_voices(tmp_path, upstream="mini", normalization="checkpoint")
    windows = WindowConfig(window_s=1.0, overlap_s=0.4)
    knn = converter(voices, KNN_VC)
    with pytest.raises(ConfigError, match="mini normalises over the whole recording"):
        knn.stream(voices.features, windows=windows, chunk_frames=5)
    for duration_s in (2.2, 0.8):
        samples = toy_speech(duration_s, seed=1)[0]
        whole = knn.convert(samples, RATE, voices.features, windows=windows)

        def streamed(enrolment: Samples, heard: Samples = samples) -> Samples:
            stream = knn.stream(voices.features, windows=windows, chunk_frames=20, enrolment=enrolment)
            parts = [stream.push(heard[a : a + 5000]) for a in range(0, len(heard), 5000)]
            return np.concatenate([*parts, stream.finish()])

        assert np.abs(streamed(samples) - whole).max() <= 1e-4 * np.abs(whole).max()
        louder = streamed(4 * samples)  # as if it was spoken from further away
        assert louder.shape == whole.shape and np.abs(louder - whole).max() > 1e-3 * np.abs(whole).max()


def corpus_config(voices: Voices, out: Path, **options: object) -> ConvertConfig:
    settings = {"reference": str(voices.pools[0]), "vocoder": str(voices.vocoder), "device": "cpu", "name": "target"}
    return ConvertConfig(out=str(out), **{"source": str(voices.corpus), **settings, **options})  # type: ignore[arg-type]


def test_a_corpus_with_its_manifest(voices: Voices, tmp_path: Path) -> None:
    assert convert_corpus(corpus_config(voices, tmp_path / "out")) == {"utterances": 5, "rejected": 0}
    knn = converter(voices, KNN_VC)
    for cut, source in zip(load_cuts(tmp_path / "out"), load_cuts(voices.corpus), strict=True):
        (one,) = cut.supervisions
        assert cut.id == source.id and one.text == source.supervisions[0].text and one.speaker == "target"
        expected = knn.convert(source.load_audio(), RATE, voices.features, windows=None)
        assert np.abs(cut.load_audio()[0] - np.clip(expected, -1, 1)).max() <= 2**-15


@pytest.mark.parametrize("killed_after", [0, 1, 3, 4])
def test_a_killed_conversion_goes_on_to_the_same_bytes(
    voices: Voices, tmp_path: Path, killed_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_corpus(corpus_config(voices, tmp_path / "whole"))
    made: list[int] = []
    convert_frames = Converter.convert_frames

    def noted(self: Converter, frames: torch.Tensor) -> np.ndarray:
        if len(made) == killed_after:
            raise KeyboardInterrupt
        made.append(len(frames))
        return convert_frames(self, frames)

    monkeypatch.setattr(Converter, "convert_frames", noted)
    with pytest.raises(KeyboardInterrupt):
        convert_corpus(corpus_config(voices, tmp_path / "killed"))
    monkeypatch.setattr(Converter, "convert_frames", convert_frames)
    convert_corpus(corpus_config(voices, tmp_path / "killed"))
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    when = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "audio").iterdir()}
    convert_corpus(corpus_config(voices, tmp_path / "killed"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "audio").iterdir()} == when


def test_other_settings_redo_and_ranks_share(voices: Voices, tmp_path: Path) -> None:
    convert_corpus(corpus_config(voices, tmp_path / "a"))
    convert_corpus(corpus_config(voices, tmp_path / "a", k=2))
    assert convert_corpus(corpus_config(voices, tmp_path / "b", k=2), Ranks(1, 2)) is None
    assert convert_corpus(corpus_config(voices, tmp_path / "b", k=2), Ranks(0, 2)) is not None
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_bad_recordings_are_listed_and_do_not_stop_the_rest(voices: Voices, tmp_path: Path) -> None:
    folder = tmp_path / "sources"
    (folder / "a b").mkdir(parents=True)
    sf.write(folder / "a b" / "ü.wav", toy_speech(0.5, seed=1)[0], RATE)
    sf.write(folder / "short.wav", np.zeros(20), RATE)
    (folder / "broken.flac").write_bytes(b"text")
    summary = convert_corpus(corpus_config(voices, tmp_path / "out", source=str(folder)))
    assert summary == {"utterances": 1, "rejected": 2}
    rejected = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "out" / "rejected.jsonl")}
    assert rejected == {"broken": "unreadable", "short": "too short"}
    (cut,) = load_cuts(tmp_path / "out")
    assert cut.id == "a b/ü" and cut.load_audio().shape[1] == cut.num_samples
    with pytest.raises(BadAudio, match="broken"):
        convert_corpus(corpus_config(voices, tmp_path / "strict", source=str(folder), strict=True))


def test_ids_that_climb_out_of_the_folder_stay_in_it(voices: Voices, tmp_path: Path) -> None:
    cuts = load_cuts(write_toy_corpus(tmp_path / "corpus", [0.5]))
    CutSet.from_cuts([cut.with_id("../../climber") for cut in cuts]).to_file(tmp_path / "cuts.jsonl")
    convert_corpus(corpus_config(voices, tmp_path / "out" / "deep", source=str(tmp_path / "cuts.jsonl")))
    assert not list(tmp_path.glob("climber*")) and len(list((tmp_path / "out" / "deep" / "audio").iterdir())) == 1


def test_tokens_are_converted_through_their_centroids(voices: Voices, tmp_path: Path) -> None:
    tokenizer = toy_tokenizer(vocab_size=12, upstream=str(voices.model), layer=LAYER, dedup=True)
    encode_corpus(load_cuts(voices.corpus), tokenizer, tmp_path / "tokens", shard_size=3)
    options: dict[str, object] = {"source": None, "tokens": str(tmp_path / "tokens")}
    assert convert_corpus(corpus_config(voices, tmp_path / "out", **options)) == {"utterances": 5, "rejected": 0}
    knn = converter(voices, KNN_VC)
    for cut, source in zip(load_cuts(tmp_path / "out"), load_cuts(voices.corpus), strict=True):
        codes = tokenizer.with_dedup(False).encode(source.load_audio(), RATE).codes
        expected = knn.convert_frames(torch.from_numpy(tokenizer.centroids(codes)))
        assert np.abs(cut.load_audio()[0] - np.clip(expected, -1, 1)).max() <= 2**-15
    other = toy_tokenizer(vocab_size=12, upstream=str(voices.model), layer=1)
    encode_corpus(load_cuts(voices.corpus), other, tmp_path / "other", shard_size=3)
    with pytest.raises(TokenizerMismatch):
        convert_corpus(corpus_config(voices, tmp_path / "x", **{**options, "tokens": str(tmp_path / "other")}))


def test_a_vocoder_that_is_told_who_speaks_hears_of_the_pools_speaker(voices: Voices, tmp_path: Path) -> None:
    """Of the first pool's, the second's, or one between; a pool without one is refused."""
    frames, first = source_frames(voices), Pool.load(voices.pools[0])
    facts = feature_facts(first.frames.shape[1], first.features["fingerprint"], speaker_width=3, speaker_model="m")
    vocoder = tiny_vocoder(tiny_config("harmonic", speaker="embedding"), facts)
    known = [replace(first, speaker=Measured("m", tuple(row))) for row in np.eye(3).tolist()]
    for share, expected in ((0.0, [1.0, 0, 0]), (1.0, [0, 1.0, 0]), (0.5, [0.5**0.5, 0.5**0.5, 0])):
        knn = Converter(vocoder, known[0], replace(KNN_VC, second=share), second=known[1])
        target = vocoder.from_features(knn.match(frames), speaker=np.array(expected, dtype=np.float32))
        assert np.allclose(knn.convert_frames(frames), target, atol=1e-6)
    for pool in (first, replace(first, speaker=Measured("other", (1.0, 0.0, 0.0)))):
        with pytest.raises(ConfigError, match="--speaker-model"):
            Converter(vocoder, pool, KNN_VC)


@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_faiss_finds_the_same_neighbours(voices: Voices, index: Literal["flat", "ivf"]) -> None:
    pytest.importorskip("faiss")
    pool, vocoder = Pool.load(voices.pools[0]), Vocoder.load(voices.vocoder, device="cpu")
    frames = source_frames(voices)
    exact, found = (Converter(vocoder, pool, KNN_VC, search=Search(index=i, probes=999)) for i in ("exact", index))
    assert torch.allclose(exact.match(frames), found.match(frames), atol=1e-5)


def test_mismatches_and_impossible_options_are_named(voices: Voices, tmp_path: Path) -> None:
    other = save_tiny_feature_vocoder(tmp_path / "vocoder", voices.features.width, "f" * 64)
    with pytest.raises(TokenizerMismatch, match="SSL model and layer"):
        convert_corpus(corpus_config(voices, tmp_path / "x", vocoder=str(other)))
    pool = Pool.load(voices.pools[0])
    foreign = Pool(pool.frames, {**pool.features, "fingerprint": "f" * 64, "layer": 1}, 1.0)
    vocoder = Vocoder.load(voices.vocoder, device="cpu")
    with pytest.raises(TokenizerMismatch, match="the second pool has features of layer 1"):
        Converter(vocoder, pool, replace(KNN_VC, second=0.5), second=foreign)
    with pytest.raises(ConfigError, match="second pool"):
        Converter(vocoder, pool, replace(KNN_VC, second=0.5))
    with pytest.raises(ConfigError, match="k = 9999 neighbours"):
        Converter(vocoder, pool, replace(KNN_VC, k=9999))
    with pytest.raises(ConfigError, match="shares"):
        Blend(k=4, weighting="uniform", keep_source=1.5)
    with pytest.raises(ConfigError, match="k must be"):
        Blend(k=0, weighting="uniform")
    with pytest.raises(ConfigError, match="either --source or --tokens"):
        corpus_config(voices, tmp_path / "x", tokens="t")
    with pytest.raises(ConfigError, match=r"one \.wav file"):
        corpus_config(voices, tmp_path / "x", source="a.wav")
    with pytest.raises(ConfigError, match="given together"):
        corpus_config(voices, tmp_path / "x", second=0.5)
    with pytest.raises(ConfigError, match="or a pool as --reference"):
        convert_corpus(corpus_config(voices, tmp_path / "x", reference=str(voices.corpus)))


def test_the_command_on_one_file(voices: Voices, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = (str(voices.corpus.parent / "audio" / f"utt00{i}.wav") for i in (1, 0))
    vocoder = ["--vocoder", str(voices.vocoder)]
    words = ["convert", "--source", source, "--reference", target, *vocoder, *voices.options]
    assert main([*words, "--out", str(tmp_path / "b.wav")]) == 0
    assert "b.wav" in capsys.readouterr().out
    samples, rate = sf.read(tmp_path / "b.wav")
    assert rate == RATE and len(samples) == voices.features.upstream.num_frames(RATE) * 320
    pools = ["--reference", str(voices.pools[0]), "--second-reference", str(voices.pools[1]), "--second", "0.5"]
    assert (
        main(["convert", "--source", source, *pools, *vocoder, "--out", str(tmp_path / "c.wav"), "--device", "cpu"])
        == 0
    )
    (tmp_path / "bad.wav").write_bytes(b"text")
    words[2] = str(tmp_path / "bad.wav")
    assert main([*words, "--out", str(tmp_path / "d.wav")]) == 2
    assert "bad.wav" in capsys.readouterr().err and not (tmp_path / "d.wav").exists()
