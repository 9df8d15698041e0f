"""The tokenizer folder and its identity."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_models import save_tiny
from tests.toy_corpus import toy_speech
from tests.toy_tokenizer import saved_toy_tokenizer, toy_tokenizer
from voxtok.manifests.codebook import kmeans_codebook
from voxtok.runtime.errors import ConfigError, CorruptFile, TokenizerMismatch
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.tokenizer_folder import from_anywhere, require_same
from voxtok.tokenize.windows import WindowConfig

SAMPLES = toy_speech(1.5, seed=5)[0]


def test_save_and_load_keep_tokens_and_identity(tmp_path: Path) -> None:
    original = toy_tokenizer()
    original.save(tmp_path)
    loaded = Tokenizer.load(tmp_path, device="cpu")
    assert loaded.fingerprint == original.fingerprint
    assert np.array_equal(loaded.encode(SAMPLES, 16000).codes, original.encode(SAMPLES, 16000).codes)
    assert loaded.frame_rate_hz == 100.0 and loaded.vocab_sizes[0] == 20


def test_tokens_are_the_nearest_centroids() -> None:
    tokenizer = toy_tokenizer()
    frames = tokenizer.features(SAMPLES, 16000).numpy()
    codes = tokenizer.encode(SAMPLES, 16000).codes
    distances = ((frames[:, None] - tokenizer.codebook.centroids[None]) ** 2).sum(axis=2)
    assert np.array_equal(codes[:, 0], distances.argmin(axis=1))
    assert np.array_equal(tokenizer.centroids(codes), tokenizer.codebook.centroids[codes[:, 0]])


def test_a_batch_gives_the_tokens_of_each_alone() -> None:
    tokenizer = toy_tokenizer()
    batch = [toy_speech(duration_s, seed=i)[0] for i, duration_s in enumerate((0.4, 3.1, 1.0))]
    for samples, tokens in zip(batch, tokenizer.encode_batch(batch, 16000), strict=True):
        assert np.array_equal(tokens.codes, tokenizer.encode(samples, 16000).codes)


def test_stereo_and_other_rates_are_taken() -> None:
    tokenizer = toy_tokenizer()
    stereo = np.stack([SAMPLES, SAMPLES])
    assert np.array_equal(tokenizer.encode(stereo, 16000).codes, tokenizer.encode(SAMPLES, 16000).codes)
    assert abs(len(tokenizer.encode(SAMPLES, 8000)) - 2 * len(tokenizer.encode(SAMPLES, 16000))) <= 4


def test_everything_that_changes_a_token_changes_the_fingerprint(tmp_path: Path) -> None:
    base = toy_tokenizer()
    other_centroids = base.codebook.centroids.copy()
    other_centroids[0, 0] += 1e-3
    variants = [
        base,
        base.with_dedup(True),
        replace(base, config=replace(base.config, windows=None)),
        replace(base, config=replace(base.config, windows=WindowConfig(window_s=3.0, overlap_s=0.5))),
        replace(base, codebook=kmeans_codebook(other_centroids)),
        toy_tokenizer(upstream="logmel"),
    ]
    models = [save_tiny("hubert-base", tmp_path / "hubert"), save_tiny("wavlm-base", tmp_path / "wavlm")]
    variants += [toy_tokenizer(upstream=str(model), layer=layer) for model in models for layer in (1, 2)]
    fingerprints = {tokenizer.fingerprint for tokenizer in variants}
    assert len(fingerprints) == len(variants)


def test_where_the_weights_lie_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    here = save_tiny("hubert-base", tmp_path / "here")
    there = shutil.copytree(here, tmp_path / "there")
    tokenizer = toy_tokenizer(upstream=str(here), layer=1)
    tokenizer.save(tmp_path / "tokenizer")
    shutil.rmtree(here)
    moved = Tokenizer.load(tmp_path / "tokenizer", device="cpu", upstream=str(there))
    assert moved.fingerprint == tokenizer.fingerprint


def test_a_relative_model_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny("hubert-base", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    toy_tokenizer(upstream="model", layer=1).save("tokenizer")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Tokenizer.load("../tokenizer", device="cpu").config.layers == (1,)


def test_a_relative_path_behind_a_prefix_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny("hubert-base", tmp_path / "model")
    (tmp_path / "base.pt").touch()
    monkeypatch.chdir(tmp_path)
    toy_tokenizer(upstream="pooled:model", layer=1).save("tokenizer")
    absolute = {
        "pooled:model": f"pooled:{tmp_path}/model",
        "predicted:1:model": f"predicted:1:{tmp_path}/model",
        "pooled:predicted:0:model": f"pooled:predicted:0:{tmp_path}/model",
        "torchaudio:HUBERT_BASE=base.pt": f"torchaudio:HUBERT_BASE={tmp_path}/base.pt",
    }
    assert {name: from_anywhere(name) for name in absolute} == absolute
    for name in ("pooled:mini", "pooled:mfcc", "torchaudio:HUBERT_BASE", "predicted:1:gone", "org/model@main"):
        assert from_anywhere(name) == name
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Tokenizer.load("../tokenizer", device="cpu").config.upstream == f"pooled:{tmp_path}/model"


def test_another_model_is_refused(tmp_path: Path) -> None:
    toy_tokenizer(upstream=str(save_tiny("hubert-base", tmp_path / "a")), layer=1).save(tmp_path / "tokenizer")
    other = save_tiny("wavlm-base", tmp_path / "b")
    with pytest.raises(TokenizerMismatch, match="was fitted on"):
        Tokenizer.load(tmp_path / "tokenizer", device="cpu", upstream=str(other))


def test_a_swapped_codebook_is_refused(tmp_path: Path) -> None:
    saved_toy_tokenizer(tmp_path)
    kmeans_codebook(np.zeros((20, 39), dtype=np.float32)).save(tmp_path / "codebook.safetensors")
    with pytest.raises(CorruptFile, match="is not the codebook"):
        Tokenizer.load(tmp_path, device="cpu")


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    saved_toy_tokenizer(tmp_path)
    described = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**described, "version": 99}))
    with pytest.raises(CorruptFile, match="version 99"):
        Tokenizer.load(tmp_path, device="cpu")


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_damaged_codebook_is_a_named_error(content: bytes, tmp_path: Path) -> None:
    saved_toy_tokenizer(tmp_path)
    (tmp_path / "codebook.safetensors").write_bytes(content)
    with pytest.raises(CorruptFile):
        Tokenizer.load(tmp_path, device="cpu")


@pytest.mark.parametrize("samples", [np.zeros(100), np.full(16000, np.nan), np.zeros((1, 2, 16000))])
def test_samples_that_cannot_be_encoded_are_named_errors(samples: np.ndarray) -> None:
    with pytest.raises(ConfigError):
        toy_tokenizer().encode(samples, 16000)


def test_tokens_out_of_range_are_a_named_error() -> None:
    with pytest.raises(ConfigError, match="token 20 of stream 0 is not in a codebook of 20"):
        toy_tokenizer().centroids(np.array([[20]], dtype=np.uint8))


def test_a_mismatch_names_both_and_says_what_to_do() -> None:
    with pytest.raises(TokenizerMismatch, match=r"bbb.*aaa.*encode the corpus again"):
        require_same("aaa", "bbb", "exp/tokens")
    require_same("aaa", "aaa", "exp/tokens")
