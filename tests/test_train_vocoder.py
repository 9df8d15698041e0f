"""Training vocoders: a few steps on toy speech from every kind of input, resumed, on two ranks, and refused."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet

from tests.tiny_vocoder import tiny_config
from tests.toy_corpus import write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer, tree
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.store import TokenStore
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import read_json, read_jsonl, write_json
from voxtok.tokenize.encode import encode_corpus
from voxtok.vocoder.discriminators import DiscriminatorConfig
from voxtok.vocoder.features import FeatureConfig
from voxtok.vocoder.loop_config import LoopConfig
from voxtok.vocoder.losses import LossConfig
from voxtok.vocoder.model_config import IstftConfig
from voxtok.vocoder.segments import SegmentConfig
from voxtok.vocoder.train_vocoder import TrainVocoderConfig, main, train_vocoder
from voxtok.vocoder.vocoder import Vocoder

SMALL = DiscriminatorConfig(periods=(2,), resolutions=(256,), channels=4)
SEGMENTS = SegmentConfig(batch_size=4, segment_frames=24, stream_dropout=0.5)
LOSSES = LossConfig(resolutions=(512, 256))


def loop(steps: int, **changes: object) -> LoopConfig:
    known = {"adversarial_from": 2, "warmup_steps": 1, "report_steps": 1, "checkpoint_steps": 2, "heldout": 1}
    return LoopConfig(steps=steps, **{**known, **changes})  # type: ignore[arg-type]


def config(folder: Path, **changes: object) -> TrainVocoderConfig:
    """Of MFCC, whose hop is 160."""
    shape = tiny_config("harmonic", istft=IstftConfig(width=16, coarse_blocks=1, fine_blocks=1, bands=12, upsample=1))
    known = {
        "out": str(folder / "out"), "hop_samples": 160, "model": shape, "train": loop(4), "segments": SEGMENTS,
        "losses": LOSSES, "discriminators": SMALL, "device": "cpu",
    }  # fmt: skip
    return TrainVocoderConfig(**{**known, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cuts, a tokenizer and a token store."""
    folder = tmp_path_factory.mktemp("speech")
    write_toy_corpus(folder, [1.2, 0.7, 1.5, 1.0])
    tokenizer = toy_tokenizer()
    tokenizer.save(folder / "tokenizer")
    encode_corpus(load_cuts(folder / "cuts.jsonl.gz"), tokenizer, folder / "store", shard_size=10)
    return folder


def losses(folder: Path) -> list[tuple[int, float]]:
    return [
        tuple(row[name] for name in ("step", "mel")) for row in read_jsonl(folder / "metrics.jsonl") if "mel" in row
    ]


def test_tokens_of_a_store(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    shape = tiny_config("phases", "table", durations=True, f0_bins=8)
    shape = replace(shape, istft=replace(shape.istft, upsample=1))
    steps = loop(4, tensorboard=True)
    told = config(tmp_path, store=str(corpus / "store"), model=shape, train=steps)
    folder = train_vocoder(told)
    assert list((tmp_path / "out").glob("events.out.tfevents.*"))  # with samples and pictures
    vocoder = Vocoder.load(folder, device="cpu")
    _, tokens = next(iter(TokenStore.open(corpus / "store")))
    f0_hz = np.full(len(tokens), 120.0)
    samples = vocoder.from_tokens(tokens, speaker="s1", f0_hz=f0_hz)
    assert samples.shape == (len(tokens) * 160,) and np.isfinite(samples).all()
    rows = list(read_jsonl(tmp_path / "out" / "metrics.jsonl"))
    assert {"durations", "discriminator", "features"} <= rows[-1].keys() | rows[-2].keys()
    assert any("heldout_mel" in row for row in rows)
    assert train_vocoder(told) == folder  # done already
    before = losses(tmp_path / "out")
    (tmp_path / "out" / "done.json").unlink()  # as if killed after the last checkpoint
    train_vocoder(told)
    assert losses(tmp_path / "out") == before


def test_features_and_tokens_of_a_tokenizer_with_measured_speakers(corpus: Path, tmp_path: Path) -> None:
    told = config(
        tmp_path,
        cuts=str(corpus / "cuts.jsonl.gz"),
        tokenizer=str(corpus / "tokenizer"),
        model=replace(config(tmp_path, store="s").model, speaker="embedding", durations=True),
        speaker_model="mini",
        train=loop(3, dtype="bfloat16", saved_dtype="float16"),
    )
    vocoder = Vocoder.load(train_vocoder(told), device="cpu")
    assert vocoder.facts.tokenizer and vocoder.width == 39
    _, tokens = next(iter(TokenStore.open(corpus / "store")))
    speaker = np.zeros(32, dtype=np.float32)
    assert np.isfinite(vocoder.from_tokens(tokens, speaker=speaker)).all()
    assert len(vocoder.from_features(torch.zeros(10, 39), speaker=speaker)) == 1600


def test_features_of_a_model_from_another_vocoders_weights(corpus: Path, tmp_path: Path) -> None:
    features = FeatureConfig(upstream="mfcc", layer=0, normalization="checkpoint")
    first = config(tmp_path / "a", cuts=str(corpus / "cuts.jsonl.gz"), features=features, train=loop(2))
    folder = train_vocoder(first)
    frames = str(tmp_path / "a" / "out" / "frames")
    second = config(tmp_path / "b", frames=frames, init=str(folder), train=loop(2))
    assert Vocoder.load(train_vocoder(second), device="cpu").fingerprint
    wider = replace(second, out=str(tmp_path / "c"), model=replace(second.model, width=20))
    with pytest.raises(ConfigError, match="another shape"):
        train_vocoder(wider)


def test_killed_extraction_and_measuring_go_on(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cuts in parts of two: what was read before a kill, but for the part under way, is not read again."""
    features = FeatureConfig(upstream="mfcc", layer=0, normalization="checkpoint")
    whole = config(tmp_path / "a", cuts=str(corpus / "cuts.jsonl.gz"), features=features, train=loop(2))
    train_vocoder(whole)
    monkeypatch.setattr("voxtok.vocoder.train_vocoder.PART_CUTS", 2)
    monkeypatch.setattr("voxtok.vocoder.speech.MEASURED_AT_ONCE", 1)
    for name, again in (("frame_store._half", 2), ("speech.pitch", 1)):
        stopped = replace(whole, out=str(tmp_path / name))
        calls = [_calls(f"voxtok.vocoder.{name}", stopped, after, monkeypatch) for after in (3, None)]
        assert calls == [3, again]
        assert tree(tmp_path / name / "frames") == tree(tmp_path / "a" / "out" / "frames")
        assert losses(tmp_path / name) == losses(tmp_path / "a" / "out")


def _calls(name: str, told: TrainVocoderConfig, after: int | None, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a function is called in a run that is killed after so many calls of it."""
    module, function = name.rsplit(".", 1)
    real = getattr(import_module(module), function)
    count = 0

    def counted(*arguments: object) -> object:
        nonlocal count
        if count == after:
            raise KeyboardInterrupt
        count += 1
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(name, counted)
        with suppress(KeyboardInterrupt):
            train_vocoder(told)
    return count


def test_a_run_on_features_of_another_model_is_not_up_to_date(corpus: Path, tmp_path: Path) -> None:
    features = FeatureConfig(upstream="mfcc", layer=0, normalization="checkpoint")
    train_vocoder(config(tmp_path, cuts=str(corpus / "cuts.jsonl.gz"), features=features, train=loop(2)))
    frames = tmp_path / "out" / "frames"
    before = tree(frames)
    few = tmp_path / "few.jsonl"
    CutSet.from_cuts(list(load_cuts(corpus / "cuts.jsonl.gz"))[:3]).to_file(few)
    with pytest.raises(ConfigError, match="belongs to a training of other cuts"):
        train_vocoder(config(tmp_path, cuts=str(few), features=features, train=loop(2)))
    assert tree(frames) == before
    again = config(tmp_path / "again", frames=str(frames), train=loop(2))
    train_vocoder(again)
    write_json(frames / "frames.json", read_json(frames / "frames.json") | {"features": "e" * 64})
    with pytest.raises(ConfigError, match="another configuration"):
        train_vocoder(again)


def test_hifigan_learns_too(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("speechbrain")
    shape = tiny_config("hifigan")
    factors = replace(shape.hifigan, upsample_factors=(5, 4, 4, 2), upsample_kernels=(11, 8, 8, 4))
    told = config(tmp_path, store=str(corpus / "store"), model=replace(shape, hifigan=factors), train=loop(2))
    assert np.isfinite([mel for _, mel in losses(train_vocoder(told).parent)]).all()


def test_the_distance_falls(corpus: Path, tmp_path: Path) -> None:
    steps = loop(40, adversarial_from=40, peak_lr=3e-3, checkpoint_steps=40, heldout=0)
    told = config(tmp_path, store=str(corpus / "store"), train=steps)
    train_vocoder(told)
    mels = [mel for _, mel in losses(tmp_path / "out")]
    assert np.mean(mels[-5:]) < 0.8 * np.mean(mels[:3])


def test_a_stopped_run_goes_on_along_the_same_curve(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = config(tmp_path / "whole", store=str(corpus / "store"), train=loop(6))
    train_vocoder(whole)
    stopped = replace(whole, out=str(tmp_path / "cut" / "out"))
    with monkeypatch.context() as patch:
        from voxtok.vocoder import train as loop_module

        real = loop_module.update

        def failing(*arguments: object) -> dict[str, float]:
            if arguments[4] == 5:
                raise KeyboardInterrupt
            return real(*arguments)  # type: ignore[arg-type]

        patch.setattr(loop_module, "update", failing)
        with pytest.raises(KeyboardInterrupt):
            train_vocoder(stopped)
    train_vocoder(stopped)
    assert losses(tmp_path / "cut" / "out") == losses(tmp_path / "whole" / "out")
    timed = [row for row in read_jsonl(tmp_path / "whole" / "out" / "metrics.jsonl") if "share_checkpoint" in row]
    assert [row["step"] for row in timed] == [3, 5] and "share_evaluation" in timed[0]
    kept, again = (tmp_path / name / "out" / "model" / "model.safetensors" for name in ("whole", "cut"))
    assert kept.read_bytes() == again.read_bytes()
    with pytest.raises(ConfigError, match="another configuration"):
        train_vocoder(replace(stopped, seed=1))


def test_two_ranks_take_the_steps_of_one(corpus: Path, tmp_path: Path) -> None:
    """Each rank has half of every batch; sums of gradients give one model, equal to rounding."""
    lines = [
        f"store: {corpus / 'store'}", "hop_samples: 160", "device: cpu",
        "model: {width: 16, istft: {width: 16, coarse_blocks: 1, fine_blocks: 1, bands: 12, upsample: 1}}",
        "segments: {batch_size: 4, segment_frames: 24}", "losses: {resolutions: [512, 256]}",
        "discriminators: {periods: [2], resolutions: [256], channels: 4}",
        "train: {steps: 3, adversarial_from: 2, warmup_steps: 1, report_steps: 1, checkpoint_steps: 3, heldout: 1}",
    ]  # fmt: skip
    (tmp_path / "conf.yaml").write_text("\n".join(lines))
    words = ["--config", str(tmp_path / "conf.yaml"), "--out"]
    assert main([*words, str(tmp_path / "one")]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "voxtok.runtime.commands", "train-vocoder", *words, str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (np.array(losses(tmp_path / name)) for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=1e-3)


def test_contradictions_are_named(corpus: Path, tmp_path: Path) -> None:
    store = str(corpus / "store")
    with pytest.raises(ConfigError, match=r"hop-samples is 320.*100 frames a second"):
        train_vocoder(config(tmp_path, store=store, hop_samples=320))
    with pytest.raises(ConfigError, match="one of --store"):
        config(tmp_path, store=store, cuts="c")
    with pytest.raises(ConfigError, match="speaker-model"):
        config(tmp_path, store=store, speaker_model="mini")
    with pytest.raises(ConfigError, match="leave none"):
        train_vocoder(config(tmp_path, store=store, train=loop(2, heldout=4)))
    shape = tiny_config("hifigan")
    with pytest.raises(ConfigError, match=r"make 320 samples of a frame.*160"):
        train_vocoder(config(tmp_path, store=store, model=shape))
