"""Embeddings that begin at the centroids of the tokens: sounds that are alike then have embeddings that are alike.

From random ones a recognizer must first find out which tokens are one sound, and of few hours of speech CTC learns for
long no more than how often each letter is written.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from voxtok.asr.fronts import Embeddings
from voxtok.manifests.subwords import Subwords
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.quantizer import Quantizer, open_quantizer
from voxtok.tokenize.tokenizer_folder import read_description, read_parts


def begin_at_centroids(embeddings: Embeddings, tokenizers: Sequence[Path], seed: int) -> None:
    """Set the tables to random orthogonal projections of what their tokens stand for, centred and of variance 1.

    Distances stay as they are, up to one factor, where an embedding has as many dimensions as a centroid.

    Args:
        embeddings: of the streams of all tokenizers, in their order.
        tokenizers: folders; no SSL model is read.
        seed: of the projections.

    Raises:
        ConfigError: the tokenizers have other vocabularies than the embeddings.
        CorruptFile: a folder is no tokenizer's.
    """
    vectors = [stream for folder in tokenizers for stream in token_vectors(folder)]
    sizes = [len(weight) for weight in embeddings.weights]
    if [len(stream) for stream in vectors] != sizes:
        raise ConfigError(f"the tokenizers' vocabularies are {[len(stream) for stream in vectors]}, not {sizes}")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight, stream in zip(embeddings.weights, vectors, strict=True):
            turned = torch.empty(stream.shape[1], weight.shape[1])
            projected = stream @ torch.nn.init.orthogonal_(turned, generator=generator)
            projected -= projected.mean(dim=0)
            weight.copy_(projected / projected.square().mean().sqrt().clamp_min(1e-6))


def token_vectors(folder: Path) -> list[torch.Tensor]:
    """(vocab_size, D) of each stream: its centroids, where those of the other streams stay the same."""
    codebook, subwords = read_parts(folder, read_description(folder))
    quantizer = open_quantizer(codebook, torch.device("cpu"))
    found = [_stream_vectors(quantizer, stream) for stream in range(len(quantizer.vocab_sizes))]
    return found if subwords is None else [_piece_vectors(subwords, found[0])]


def _stream_vectors(quantizer: Quantizer, stream: int) -> torch.Tensor:
    codes = torch.zeros(quantizer.vocab_sizes[stream], len(quantizer.vocab_sizes), dtype=torch.int64)
    codes[:, stream] = torch.arange(len(codes))
    return quantizer.decode(codes)


def _piece_vectors(subwords: Subwords, units: torch.Tensor) -> torch.Tensor:
    """The mean over a subword's tokens."""
    pieces = torch.arange(subwords.vocab_size)
    lengths = torch.from_numpy(subwords.lengths)
    of_units = units[torch.from_numpy(subwords.decode(pieces.numpy()).astype(np.int64))]
    sums = units.new_zeros(len(pieces), units.shape[1]).index_add_(0, pieces.repeat_interleave(lengths), of_units)
    return sums / lengths[:, None]
