"""Quantizers: frames to tokens, and tokens back to vectors. One small interface, a `match` on the kind."""

from typing import Protocol

import torch

from voxtok.manifests.codebook import Codebook
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.tokenize.assign import Assigner

RESIDUAL = ("rvq", "codec")
"""Kinds whose first streams alone stand for vectors, coarser ones."""


class Quantizer(Protocol):
    """A fitted quantizer on one device.

    Attributes:
        vocab_sizes: number of different tokens of each stream.
        width: dimensions of a frame; where a tokenizer takes several layers, theirs side by side.
    """

    vocab_sizes: tuple[int, ...]
    width: int

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """(N, width) float32 frames to (N, streams) int64 tokens; a frame's tokens do not depend on its neighbours."""
        ...

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """(N, streams) tokens within their vocabularies to the (N, width) float32 vectors they stand for.

        A residual quantizer takes its first streams alone, too.
        """
        ...


def open_quantizer(codebook: Codebook, device: torch.device) -> Quantizer:
    """The quantizer that a codebook describes.

    Raises:
        CorruptFile: a kind that this release does not know.
    """
    match codebook.kind:
        case "kmeans":
            return KMeans(torch.from_numpy(codebook.centroids), device)
        case "rvq":
            from voxtok.tokenize.rvq import open_rvq

            return open_rvq(codebook, device)
        case "pq":
            from voxtok.tokenize.pq import open_pq

            return open_pq(codebook, device)
        case "opq":
            from voxtok.tokenize.opq import open_opq

            return open_opq(codebook, device)
        case "random-projection":
            from voxtok.tokenize.random_projection import open_random_projection

            return open_random_projection(codebook, device)
        case "vq" | "gumbel" | "fsq":
            from voxtok.tokenize.learned import open_learned

            return open_learned(codebook, device)
        case "codec":
            from voxtok.tokenize.codec_quantizer import open_codec

            return open_codec(codebook, device)
    raise CorruptFile(f"a codebook of kind {codebook.kind!r} is not known to this release")


class KMeans:
    """One stream: the nearest of K centroids."""

    def __init__(self, centroids: torch.Tensor, device: torch.device) -> None:
        self.vocab_sizes: tuple[int, ...] = (len(centroids),)
        self.width = centroids.shape[1]
        self._centroids = centroids.to(device)
        self._assigner = Assigner(centroids, device)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """See Quantizer."""
        return self._assigner.labels(frames)[:, None]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """See Quantizer."""
        return self._centroids[codes[:, 0]]


def check_frames(frames: torch.Tensor, width: int) -> None:
    """Check that frames are (N, width).

    Raises:
        ConfigError: another shape.
    """
    if frames.ndim != 2 or frames.shape[1] != width:
        raise ConfigError(f"frames are (N, {width}), not {tuple(frames.shape)}")


def check_codes(codes: torch.Tensor, vocab_sizes: tuple[int, ...], fewer: bool = False) -> None:
    """Check (N, streams) tokens against the vocabularies.

    Args:
        codes: the tokens.
        vocab_sizes: of each stream.
        fewer: whether the first streams alone will do, as for residual quantizers.

    Raises:
        ConfigError: another number of streams, or a token out of range; the message names it.
    """
    streams = codes.shape[1] if codes.ndim == 2 else 0
    if streams != len(vocab_sizes) and not (fewer and 0 < streams < len(vocab_sizes)):
        raise ConfigError(f"codes are (frames, {len(vocab_sizes)}) for this tokenizer, not {tuple(codes.shape)}")
    for stream, size in enumerate(vocab_sizes[:streams]):
        column = codes[:, stream]
        if len(column) and not 0 <= int(column.min()) <= int(column.max()) < size:
            wrong = int(column.max()) if int(column.max()) >= size else int(column.min())
            raise ConfigError(f"token {wrong} of stream {stream} is not in a codebook of {size}")
