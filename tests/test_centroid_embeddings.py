"""Embeddings that begin at centroids: sounds that are alike lie together, in every kind of store."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy_tokenizer import toy_tokenizer
from voxtok.asr.centroid_embeddings import begin_at_centroids, token_vectors
from voxtok.asr.fronts import Embeddings
from voxtok.asr.inputs import InputConfig
from voxtok.manifests.codebook import Codebook
from voxtok.manifests.subwords import train_subwords
from voxtok.runtime.errors import ConfigError, CorruptFile

INPUTS = InputConfig(tokens=True, features=None, width=64, embeddings="centroids")


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of the distances between rows of the one and of the other."""
    return float(torch.corrcoef(torch.stack([torch.pdist(one), torch.pdist(other)]))[0, 1])


def test_distances_of_embeddings_are_those_of_centroids(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    tokenizer.save(tmp_path)
    centroids = torch.from_numpy(tokenizer.codebook.arrays["centroids"])
    embeddings = Embeddings([20], INPUTS)
    before = embeddings.weights[0].detach().clone()
    begin_at_centroids(embeddings, [tmp_path], seed=0)
    found = embeddings.weights[0].detach()
    assert abs(correlation(before, centroids)) < 0.4
    assert correlation(found, centroids) == pytest.approx(1, abs=1e-4)
    assert float(found.mean()) == pytest.approx(0, abs=1e-5) and float(found.std()) == pytest.approx(1, rel=0.01)
    again = Embeddings([20], INPUTS)
    begin_at_centroids(again, [tmp_path], seed=0)
    assert torch.equal(again.weights[0], found)


def test_a_subword_is_the_mean_of_its_tokens(tmp_path: Path) -> None:
    """Worked: a piece of tokens 3, 3 and 5 lies at a third of the way from 3 to 5."""
    tokenizer = toy_tokenizer()
    subwords = train_subwords([np.array([3, 3, 5] * 40)], unit_vocab_size=20, vocab_size=22, kind="bpe")
    tokenizer.with_bpe(subwords).save(tmp_path)
    (found,) = token_vectors(tmp_path)
    centroids = torch.from_numpy(tokenizer.codebook.arrays["centroids"])
    pieces = [tuple(subwords.decode([piece]).tolist()) for piece in range(22)]
    assert any(len(piece) > 1 for piece in pieces)
    for piece, vector in zip(pieces, found, strict=True):
        torch.testing.assert_close(vector, centroids[list(piece)].mean(dim=0))


def test_streams_have_their_own_centroids(tmp_path: Path) -> None:
    """Of residual stages, and of two tokenizers side by side."""
    stages = torch.randn(2, 8, 39, generator=torch.Generator().manual_seed(0))
    residual = Codebook("rvq", {}, {"centroids": stages.numpy()})
    tokenizer = toy_tokenizer()
    replace(tokenizer, codebook=residual).save(tmp_path / "residual")
    tokenizer.save(tmp_path / "plain")
    embeddings = Embeddings([8, 8, 20], INPUTS)
    begin_at_centroids(embeddings, [tmp_path / "residual", tmp_path / "plain"], seed=0)
    wanted = [*stages, torch.from_numpy(tokenizer.codebook.arrays["centroids"])]
    for weight, centroids in zip(embeddings.weights, wanted, strict=True):
        assert correlation(weight.detach(), centroids) == pytest.approx(1, abs=1e-4)
    with pytest.raises(ConfigError, match=r"vocabularies are \[20\], not \[8, 8, 20\]"):
        begin_at_centroids(embeddings, [tmp_path / "plain"], seed=0)
    with pytest.raises(CorruptFile, match="not a tokenizer folder"):
        begin_at_centroids(embeddings, [tmp_path], seed=0)


def test_features_alone_have_no_embeddings() -> None:
    with pytest.raises(ConfigError, match="those of tokens"):
        InputConfig(tokens=False, features="logmel", width=64, embeddings="centroids")
