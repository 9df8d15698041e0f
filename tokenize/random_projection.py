"""Random-projection quantizer (BEST-RQ, Chiu et al. 2022; also the first tokenizer of BEATs): seeded, never fitted.

A frame, normalised by the mean and variance of all frames, is projected to 16 dimensions by a random matrix; its token
is the random unit vector with the smallest angle to that. Each stream has its own matrix and vectors, as in the
multi-codebook form of Universal Speech Model (Zhang et al. 2023).
"""

import math
from typing import Any

import torch

from voxtok.manifests.codebook import Codebook
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.frames import FrameSource
from voxtok.tokenize.kmeans_health import perplexity
from voxtok.tokenize.quantizer import check_frames
from voxtok.tokenize.reconstruction import reconstruction

CODE_WIDTH = 16
"""Dimensions after the projection (Chiu et al. 2022, section 4)."""


class RandomProjection:
    """Nearest unit vectors, by angle, in random subspaces."""

    def __init__(self, arrays: dict[str, torch.Tensor], device: torch.device) -> None:
        self._mean, self._deviation = arrays["mean"].to(device), arrays["deviation"].to(device)
        self._projections = arrays["projections"].to(device)  # (streams, D, 16)
        streams, self.width, code_width = self._projections.shape
        self.vocab_sizes: tuple[int, ...] = (arrays["codes"].shape[1],) * streams
        self._streams = [Assigner(one, device) for one in arrays["codes"]]
        self._flat = self._projections.permute(1, 0, 2).reshape(self.width, -1).double()  # (D, streams * 16)
        self._back = torch.linalg.pinv(self._flat)
        self._code_width = code_width

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """See Quantizer."""
        check_frames(frames, self.width)
        projected = self._projected(frames.to(device=self._mean.device, dtype=torch.float32)).float()
        # The nearest of vectors of equal length is that with the smallest angle, whatever the frame's own length.
        parts = projected.split(self._code_width, dim=1)
        return torch.stack([one.labels(part) for one, part in zip(self._streams, parts, strict=True)], dim=1)

    def _projected(self, frames: torch.Tensor) -> torch.Tensor:
        """(N, streams * 16) float64, dimension by dimension: a matrix product's rounding depends on its shape."""
        normal = ((frames - self._mean) / self._deviation).double().T.contiguous()  # (D, N)
        projected = frames.new_zeros(len(frames), self._flat.shape[1], dtype=torch.float64)
        for values, row in zip(normal, self._flat, strict=True):
            projected += values[:, None] * row
        return projected

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """The least frame whose projections are the codes, at the length that projections have on average.

        It tells a direction; the token was not made to give the frame back.
        """
        lengths = self._projections.double().flatten(1).norm(dim=1)
        parts = [
            one.centroids[labels].double() * length
            for one, labels, length in zip(self._streams, codes.T, lengths, strict=True)
        ]
        normal: torch.Tensor = torch.cat(parts, dim=1) @ self._back
        return normal.float() * self._deviation + self._mean


def open_random_projection(codebook: Codebook, device: torch.device) -> RandomProjection:
    """The quantizer of a codebook of kind random-projection."""
    return RandomProjection({name: torch.from_numpy(array) for name, array in codebook.arrays.items()}, device)


def fit_random_projection(
    source: FrameSource,
    vocab_size: int,
    streams: int,
    seed: int,
    ranks: Ranks,
    device: torch.device,
    heldout: FrameSource | None = None,
) -> tuple[Codebook, dict[str, Any]]:
    """Draw projections and codes; one pass over the frames for their mean and variance, one for the report.

    Projections are drawn as Xavier's uniform initialisation is, codes as unit vectors of normal values.

    Raises:
        ConfigError: no frames.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = math.sqrt(6 / (source.width + CODE_WIDTH))
    projections = (2 * torch.rand(streams, source.width, CODE_WIDTH, generator=generator) - 1) * bound
    codes = torch.randn(streams, vocab_size, CODE_WIDTH, generator=generator)
    codes = codes / codes.norm(dim=2, keepdim=True)
    mean, deviation = _moments(source, ranks, device)
    arrays = {"mean": mean, "deviation": deviation, "projections": projections, "codes": codes}
    codebook = Codebook("random-projection", {}, {name: tensor.numpy() for name, tensor in arrays.items()})
    quantizer = open_random_projection(codebook, device)
    found = reconstruction(source.chunks(), quantizer, ranks, device)
    error = None if heldout is None else reconstruction(heldout.chunks(), quantizer, ranks, device).error
    health = {
        "method": "random-projection",
        "frames": found.frames,
        "width": source.width,
        "inertia": found.error,
        "heldout_inertia": error,
        "perplexity": [perplexity(sizes) for sizes in found.sizes],
        "cluster_sizes": [sizes.tolist() for sizes in found.sizes],
    }
    return codebook, health


def _moments(source: FrameSource, ranks: Ranks, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each dimension, (D,) float32; a constant one has deviation 1."""
    sums = torch.zeros(3, source.width, dtype=torch.float64, device=device)  # counts, values, squares
    for chunk in source.chunks():
        exact = chunk.frames.to(device).double()
        sums += torch.stack([exact.new_full((source.width,), len(exact)), exact.sum(0), exact.square().sum(0)])
    count, total, squares = ranks.all_reduce(sums).cpu()
    if not count[0]:
        raise ConfigError("there are no frames to take the mean and variance of")
    mean = total / count
    deviation = (squares / count - mean * mean).clamp(min=0).sqrt()
    constant = deviation <= 1e-6 * mean.abs()  # what rounding leaves
    return mean.float(), torch.where(constant, 1.0, deviation).float()
