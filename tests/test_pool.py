"""Matching pools: made of a speaker's recordings, saved, thinned, and known by the features that they hold."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_models import save_tiny
from tests.toy_corpus import RATE, toy_speech, write_toy_corpus
from tests.toy_tokenizer import tree
from voxtok.manifests.audio import read_audio
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.commands import main
from voxtok.runtime.errors import BadAudio, ConfigError, CorruptFile, ManifestError, TokenizerMismatch
from voxtok.runtime.files import read_json, read_jsonl, write_json
from voxtok.tokenize.windows import WindowConfig
from voxtok.vocoder.features import FeatureConfig, Features, require_same_features
from voxtok.vocoder.make_pool import PoolConfig, make_pool, pool_of
from voxtok.vocoder.pool import Measured, Pool
from voxtok.vocoder.reference import MARGIN_S, reference_cuts, speech_span_s
from voxtok.vocoder.speaker import load_speaker_model, mean_embedding

MFCC = FeatureConfig(upstream="mfcc", layer=0, normalization="none")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_corpus(tmp_path_factory.mktemp("corpus"), [0.9, 1.0, 0.7, 2.5])


def made(corpus: Path, out: Path, **options: object) -> Pool:
    settings = {"upstream": "mfcc", "layer": 0, "normalization": "none", "device": "cpu", "reference": str(corpus)}
    return make_pool(PoolConfig(out=str(out), **{**settings, **options}))  # type: ignore[arg-type]


def test_a_pool_holds_every_frame_and_comes_back_from_disk(corpus: Path, tmp_path: Path) -> None:
    pool = made(corpus, tmp_path / "pool")
    features = Features.open(MFCC, device="cpu")
    expected = torch.cat([features.of_samples(read_audio(cut, RATE), None) for cut in load_cuts(corpus)])
    assert torch.equal(pool.frames, expected) and pool.duration_s == pytest.approx(5.1)
    loaded = Pool.load(tmp_path / "pool")
    assert torch.equal(loaded.frames, expected) and loaded.features == features.description
    assert Features.reopen(loaded.features, device="cpu").fingerprint == features.fingerprint


def test_a_pool_in_windows_equals_the_whole_for_mfcc(corpus: Path) -> None:
    features = Features.open(MFCC, device="cpu")
    windows = WindowConfig(window_s=1.0, overlap_s=0.4)
    parts = [
        pool_of(reference_cuts(corpus), features, windows=w, trim=False, speaker_model=None)[0] for w in (windows, None)
    ]
    assert torch.equal(parts[0].frames, parts[1].frames)


def test_an_unchanged_pool_is_left_alone_and_a_changed_one_redone(corpus: Path, tmp_path: Path) -> None:
    made(corpus, tmp_path / "pool")
    when = (tmp_path / "pool" / "frames.safetensors").stat().st_mtime_ns
    made(corpus, tmp_path / "pool")
    assert (tmp_path / "pool" / "frames.safetensors").stat().st_mtime_ns == when
    half = made(corpus, tmp_path / "pool", save_dtype="float16")
    assert half.frames.dtype == torch.float16
    made(corpus, tmp_path / "fresh", save_dtype="float16")
    assert tree(tmp_path / "pool") == tree(tmp_path / "fresh")


def test_a_pool_of_one_speaker_without_an_utterance(corpus: Path, tmp_path: Path) -> None:
    """Utterances 0 and 2 are by s0, 1 and 3 by s1."""
    cuts = {cut.id: cut for cut in load_cuts(corpus)}
    features = Features.open(MFCC, device="cpu")
    only = made(corpus, tmp_path / "a", speaker="s1", without=("utt003",))
    assert torch.equal(only.frames, features.of_samples(read_audio(cuts["utt001"], RATE), None))
    with pytest.raises(ConfigError, match="--speaker s9: the reference has s0, s1"):
        made(corpus, tmp_path / "b", speaker="s9")
    with pytest.raises(ConfigError, match="--without utt9"):
        made(corpus, tmp_path / "b", without=("utt9",))


def test_a_folder_of_audio_with_bad_files(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "audio" / "sub").mkdir(parents=True)
    sf.write(tmp_path / "audio" / "sub" / "a.wav", toy_speech(0.5, seed=1)[0], RATE)
    (tmp_path / "audio" / "broken.wav").write_bytes(b"text")
    sf.write(tmp_path / "audio" / "short.wav", np.zeros(10), RATE)
    pool = made(tmp_path / "audio", tmp_path / "pool")
    assert pool.duration_s == 0.5
    rejected = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "pool" / "rejected.jsonl")}
    assert rejected == {"broken": "unreadable", "short": "too short"}
    with pytest.raises(BadAudio, match=r"broken\.wav"):
        made(tmp_path / "audio", tmp_path / "strict", strict=True)
    (tmp_path / "audio" / "sub" / "a.wav").unlink()
    with pytest.raises(ManifestError, match="no recording that can be used"):
        made(tmp_path / "audio", tmp_path / "none")
    with pytest.raises(ManifestError):
        made(tmp_path / "absent", tmp_path / "none")


def test_damaged_and_foreign_pools_are_named(corpus: Path, tmp_path: Path) -> None:
    made(corpus, tmp_path / "pool")
    with pytest.raises(CorruptFile, match="voxtok pool"):
        Pool.load(tmp_path)
    described = read_json(tmp_path / "pool" / "pool.json")
    write_json(tmp_path / "pool" / "pool.json", {**described, "frames": 3})
    with pytest.raises(CorruptFile, match=r"pool\.json says otherwise"):
        Pool.load(tmp_path / "pool")
    (tmp_path / "pool" / "frames.safetensors").write_bytes(b"text")
    with pytest.raises(CorruptFile, match="cannot be read"):
        Pool.load(tmp_path / "pool")


def test_other_features_are_named(corpus: Path) -> None:
    one, other = (Features.open(FeatureConfig(upstream=name, layer=0, normalization="none"), device="cpu")
                  for name in ("mfcc", "logmel"))  # fmt: skip
    with pytest.raises(TokenizerMismatch, match="the pool has features of layer 0 of logmel"):
        require_same_features(one.description, other.description, "the pool")
    with pytest.raises(TokenizerMismatch, match="needed"):
        Features.reopen({**one.description, "upstream": "logmel"}, device="cpu")
    with pytest.raises(ConfigError, match="layer 1 is not one of mfcc's"):
        Features.open(FeatureConfig(upstream="mfcc", layer=1, normalization="none"), device="cpu")


def test_a_thinned_pool_has_a_frame_of_every_cluster(corpus: Path, tmp_path: Path) -> None:
    """Three bundles of directions, thinned to three frames: one of each, whatever their lengths."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3).repeat_interleave(20, 0)
    frames = (centres + 0.05 * torch.randn(60, 3, generator=generator)) * torch.rand(60, 1, generator=generator).add(1)
    pool = Pool(frames, {"fingerprint": "f"}, 1.0)
    few = pool.thinned(3, 0, torch.device("cpu"))
    rows = [(frames == row).all(1).nonzero().item() for row in few.frames]
    assert sorted(int(row) // 20 for row in rows) == [0, 1, 2]
    assert pool.thinned(60, 0, torch.device("cpu")) is pool
    with pytest.raises(ConfigError, match="thinned to 0"):
        pool.thinned(0, 0, torch.device("cpu"))
    thin = made(corpus, tmp_path / "thin", thin=40)
    assert len(thin.frames) == 40 and torch.equal(Pool.load(tmp_path / "thin").frames, thin.frames)


@given(st.floats(0.2, 2.0), st.floats(0.2, 2.0), st.floats(1e-3, 1.0))
def test_silent_ends_are_found_at_any_level(before_s: float, after_s: float, level: float) -> None:
    tone = level * np.sin(np.arange(RATE) * 0.3)
    noise = 1e-3 * level * np.random.default_rng(0).normal(size=round((before_s + after_s) * RATE))
    start = round(before_s * RATE)
    samples = np.concatenate([noise[:start], tone, noise[start:]]).astype(np.float32)
    start_s, stop_s = speech_span_s(samples, RATE)
    assert start_s == pytest.approx(before_s - MARGIN_S, abs=0.011)
    assert stop_s == pytest.approx(before_s + 1 + MARGIN_S, abs=0.011)


def test_trimming_takes_the_speech_only(tmp_path: Path) -> None:
    speech = toy_speech(1.0, seed=0)[0]
    silence = np.zeros(RATE, dtype=np.float32)
    sf.write(tmp_path / "a.wav", np.concatenate([silence, speech, silence]), RATE)
    whole, trimmed = (made(tmp_path / "a.wav", tmp_path / str(trim), trim=trim) for trim in (False, True))
    assert whole.duration_s == 3.0 and trimmed.duration_s == pytest.approx(1.0 + 2 * MARGIN_S, abs=0.02)


def test_a_pool_knows_its_speaker(corpus: Path, tmp_path: Path) -> None:
    model = load_speaker_model("mini")
    pool = made(corpus, tmp_path / "pool", speaker_model="mini", speaker="s1")
    found = Pool.load(tmp_path / "pool").speaker
    assert found is not None and found == pool.speaker and found.model == model.fingerprint
    cuts = [cut for cut in load_cuts(corpus) if cut.supervisions[0].speaker == "s1"]
    expected = mean_embedding(model, cuts)
    assert np.allclose(found.embedding, expected, atol=1e-5)
    assert made(corpus, tmp_path / "without").speaker is None
    other = Measured(found.model, tuple(np.roll(found.embedding, 1).tolist()))
    assert found.towards(other, 0.0).embedding == pytest.approx(found.embedding)
    assert found.towards(other, 1.0).embedding == pytest.approx(other.embedding)
    assert np.linalg.norm(found.towards(other, 0.3).embedding) == pytest.approx(1.0)


def test_the_command(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--reference", str(corpus), "--upstream", "mfcc", "--layer", "0", "--normalization", "none"]
    assert main(["pool", *words, "--out", str(tmp_path / "pool"), "--trim", "--thin", "50", "--device", "cpu"]) == 0
    assert "50 frames" in capsys.readouterr().out
    assert main(["pool", *words, "--out", str(tmp_path / "p"), "--thin", "0"]) == 2


def test_a_relative_path_behind_a_prefix_is_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny("hubert-base", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    config = FeatureConfig(upstream="pooled:model", layer=1, normalization="none")
    assert Features.open(config, device="cpu").description["upstream"] == f"pooled:{tmp_path}/model"
