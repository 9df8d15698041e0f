"""Fitting a tokenizer from audio: caches, ranks, restarts and bad files."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from tests.toy_corpus import RATE, toy_speech, write_toy_corpus
from tests.toy_tokenizer import tree
from voxtok.manifests.codebook import Codebook
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.commands import main
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from voxtok.tokenize.encode import main as encode
from voxtok.tokenize.fit import FitConfig, _source, choose, fit
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_corpus(tmp_path_factory.mktemp("corpus"), [1.0 + 0.1 * i for i in range(20)])


def config(corpus: Path, out: Path, **options: object) -> FitConfig:
    settings: dict[str, object] = {"upstream": "mfcc", "layer": 0, "vocab_size": 12, "dedup": False, "device": "cpu"}
    return FitConfig(cuts=str(corpus), out=str(out), **{**settings, "heldout": 0.2, **options})  # type: ignore[arg-type]


def centroids(folder: Path) -> np.ndarray:
    return Codebook.load(folder / "codebook.safetensors").centroids


def test_the_folder_is_a_tokenizer_with_its_health(corpus: Path, tmp_path: Path) -> None:
    tokenizer = fit(config(corpus, tmp_path / "t"))
    loaded = Tokenizer.load(tmp_path / "t", device="cpu")
    assert loaded.fingerprint == tokenizer.fingerprint and loaded.vocab_sizes[0] == 12
    health = read_json(tmp_path / "t" / "health.json")
    assert health["inertia"] > 0 and 1 < health["perplexity"] <= 12
    assert abs(health["heldout_inertia"] / health["inertia"] - 1) < 0.3
    assert sum(health["cluster_sizes"]) == health["frames"]
    assert not (tmp_path / "t" / "work").exists()


def test_health_is_the_inertia_of_the_codebook(corpus: Path, tmp_path: Path) -> None:
    """Mean squared distance to the nearest centroid, over exactly the utterances that were fitted on."""
    settings = config(corpus, tmp_path / "t", cache_dtype="float32")
    tokenizer = fit(settings)
    training, heldout = choose(list(load_cuts(corpus)), settings)
    for name, part in (("inertia", training), ("heldout_inertia", heldout)):
        total, count = 0.0, 0
        for _, cut in part:
            frames = tokenizer.features(cut.load_audio(), RATE).double().numpy()
            distances = ((frames[:, None] - tokenizer.codebook.centroids.astype(np.float64)) ** 2).sum(axis=2)
            total, count = total + distances.min(axis=1).sum(), count + len(frames)
        assert read_json(tmp_path / "t" / "health.json")[name] == pytest.approx(total / count, rel=0.02)


def test_caches_give_the_same_codebook(corpus: Path, tmp_path: Path) -> None:
    for cache in ("none", "memory", "disk"):
        fit(config(corpus, tmp_path / cache, cache=cache, cache_dtype="float32"))
    for cache in ("memory", "disk"):
        assert np.allclose(centroids(tmp_path / cache), centroids(tmp_path / "none"), rtol=1e-4, atol=1e-3), cache


def test_a_finished_fit_is_kept_and_another_seed_fits_again(corpus: Path, tmp_path: Path) -> None:
    fit(config(corpus, tmp_path / "t"))
    first = tree(tmp_path / "t")
    when = (tmp_path / "t" / "codebook.safetensors").stat().st_mtime_ns
    fit(config(corpus, tmp_path / "t"))
    assert (tmp_path / "t" / "codebook.safetensors").stat().st_mtime_ns == when
    fit(config(corpus, tmp_path / "t", seed=1))
    assert tree(tmp_path / "t")["codebook.safetensors"] != first["codebook.safetensors"]
    fit(config(corpus, tmp_path / "t"))
    assert tree(tmp_path / "t") == first


def test_bad_files_are_listed_and_the_fit_goes_on(corpus: Path, tmp_path: Path) -> None:
    copied = write_toy_corpus(tmp_path / "corpus", [1.0] * 12)
    samples = toy_speech(1.0, seed=3)[0]
    samples[100] = np.inf
    sf.write(tmp_path / "corpus" / "audio" / "utt003.wav", samples, RATE, subtype="FLOAT")
    (tmp_path / "corpus" / "audio" / "utt007.wav").write_bytes(b"")
    for cache in ("memory", "disk", "none"):
        fit(config(copied, tmp_path / cache, cache=cache))
        rows = list(read_jsonl(tmp_path / cache / "rejected.jsonl"))
        assert [(row["id"], row["reason"]) for row in rows] == [("utt003", "non-finite"), ("utt007", "unreadable")]
    with pytest.raises(BadAudio):
        fit(config(copied, tmp_path / "strict", strict=True))
    with pytest.raises(BadAudio):
        fit(config(copied, tmp_path / "memory", strict=True))


def test_more_centroids_than_frames_is_a_named_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frames cannot make 100000 centroids"):
        fit(config(corpus, tmp_path / "t", vocab_size=100_000))


def test_a_layer_that_is_not_there_is_a_named_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layer"):
        fit(config(corpus, tmp_path / "t", layer=3))


@pytest.mark.parametrize(
    ("options", "ranks", "message"),
    [
        ({"quantizer": "gumbel"}, Ranks(0, 2), "trains on one rank"),
        ({"quantizer": "pq", "streams": 5}, Ranks(), "equal streams"),
        ({"backend": "faiss"}, Ranks(0, 2), "runs in one process"),
    ],
)
def test_what_cannot_be_fitted_is_said_before_features_are_computed(
    options: dict[str, Any], ranks: Ranks, message: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxtok.tokenize.fit.extract", None)
    with pytest.raises(ConfigError, match=message):
        fit(config(corpus, tmp_path / "t", **options), ranks)


def test_what_cannot_be_compiled_is_a_named_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mfcc: only models of the wav2vec2 family can be compiled"):
        fit(config(corpus, tmp_path / "t", compiled=True))
    fit(config(corpus, tmp_path / "t"))
    with pytest.raises(ConfigError, match="can be compiled"):
        encode(["--tokenizer", str(tmp_path / "t"), "--compiled", "true", "a.wav"])


def test_hours_choose_a_random_part(corpus: Path, tmp_path: Path) -> None:
    cuts = list(load_cuts(corpus))
    training, heldout = choose(cuts, config(corpus, tmp_path, hours=10 / 3600))
    total_s = sum(cut.duration for _, cut in training + heldout)
    assert 10 <= total_s < 13 and heldout
    assert [i for i, _ in training] == sorted(i for i, _ in training)
    assert {i for i, _ in training}.isdisjoint(i for i, _ in heldout)
    assert choose(cuts, config(corpus, tmp_path, hours=10 / 3600, seed=5))[0] != training


def test_torchrun_with_two_processes_gives_the_codebook_of_one(corpus: Path, tmp_path: Path) -> None:
    fit(config(corpus, tmp_path / "one", cache_dtype="float32"))
    options = ["--upstream", "mfcc", "--layer", "0", "--vocab-size", "12", "--dedup", "false", "--device", "cpu"]
    words = ["fit", "--cuts", str(corpus), *options, "--heldout", "0.2", "--cache-dtype", "float32"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "voxtok.runtime.commands", *words, "--out", str(tmp_path / "two")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert np.allclose(centroids(tmp_path / "two"), centroids(tmp_path / "one"), rtol=1e-4, atol=1e-3)
    assert not (tmp_path / "two" / "work").exists()


def test_a_cache_of_another_number_of_ranks_is_not_taken_for_the_whole(corpus: Path, tmp_path: Path) -> None:
    """A fit begun by two ranks and finished by one must see every utterance once."""
    settings = config(corpus, tmp_path / "t", cache="disk")
    fit(settings)
    whole = read_json(tmp_path / "t" / "health.json")["frames"]
    inputs = read_json(tmp_path / "t" / "done.json")["inputs"]
    work = tmp_path / "t" / "work"
    training, _ = choose(list(load_cuts(corpus)), settings)
    upstream = load_upstream("mfcc", device="cpu")
    for rank in range(2):
        source = _source(settings, upstream, training, Ranks(rank, 2), work, "training")
        assert sum(len(chunk.frames) for chunk in source.chunks()) < whole
    (tmp_path / "t" / "done.json").unlink()
    write_json(work / "inputs.json", inputs)
    write_jsonl(work / "rejected.training.3of16.jsonl", [{"id": "x", "reason": "empty", "detail": ""}])
    fit(settings)
    assert read_json(tmp_path / "t" / "health.json")["frames"] == whole
    assert not list(read_jsonl(tmp_path / "t" / "rejected.jsonl"))


def test_the_command_prints_what_it_made(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--upstream", "logmel", "--layer", "0", "--vocab-size", "5", "--dedup", "--device", "cpu"]
    assert main(["fit", "--cuts", str(corpus), *options, "--out", str(tmp_path / "t")]) == 0
    assert "5 tokens, perplexity" in capsys.readouterr().out
    assert Tokenizer.load(tmp_path / "t", device="cpu").config.dedup
