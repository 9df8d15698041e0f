"""A codebook of any kind, fitted to one stream of frames: which quantizer, its options, and one `match` on the kind."""

import difflib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch

from voxtok.manifests.codebook import Codebook, kmeans_codebook
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.frames import FrameSource
from voxtok.tokenize.kmeans import fit_kmeans
from voxtok.tokenize.kmeans_faiss import check_faiss
from voxtok.tokenize.kmeans_state import KMeansConfig

QUANTIZERS = ("kmeans", "rvq", "pq", "opq", "vq", "gumbel", "fsq", "random-projection")
STREAMED = ("rvq", "pq", "opq", "random-projection")
"""Quantizers that take a number of streams."""

Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """Which quantizer, and its options."""

    quantizer: str = "kmeans"
    """kmeans; rvq (residual k-means), pq (dimensions split into streams; several layers are split by layer), opq (pq
    after a learned rotation), vq (learned by EMA), gumbel, fsq, random-projection (BEST-RQ)."""
    vocab_size: int
    """K, the number of different tokens of each stream."""
    streams: int | None = None
    """Tokens a frame, for rvq, pq, opq and random-projection."""
    levels: tuple[int, ...] = ()
    """Levels of each dimension of fsq, such as 8,5,5,5; their product is the vocabulary size."""
    seed: int = 0
    """Seed of the subset, the sampling of frames, the seeding of centroids and random projections."""
    backend: Literal["voxtok", "faiss"] = "voxtok"
    """Which k-means fits; faiss needs all frames in memory and makes 25 steps over them, whatever `passes` says."""
    restarts: int = 1
    """Fits of k-means to the random sample, of which the best goes on to all frames."""
    passes: int = 8
    """Most passes of k-means over all frames; it stops earlier where the inertia hardly falls."""
    steps: int = 3000
    """Updates of vq, gumbel and fsq."""

    def __post_init__(self) -> None:
        if self.quantizer not in QUANTIZERS:
            near = difflib.get_close_matches(self.quantizer.lower(), QUANTIZERS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"unknown quantizer {self.quantizer!r}: {hint}There are {', '.join(QUANTIZERS)}")
        if self.vocab_size < 1:
            raise ConfigError(f"vocab-size must be at least 1, not {self.vocab_size}")
        if (self.streams is None) == (self.quantizer in STREAMED):
            needs = "needs" if self.streams is None else "has one stream and takes no"
            raise ConfigError(f"--quantizer {self.quantizer} {needs} --streams")
        if self.streams is not None and self.streams < 1:
            raise ConfigError(f"streams must be at least 1, not {self.streams}")
        if bool(self.levels) != (self.quantizer == "fsq"):
            needs = "takes no" if self.levels else "needs"
            raise ConfigError(f"--quantizer {self.quantizer} {needs} --levels")
        if min(self.restarts, self.steps) < 1 or self.passes < 0:
            raise ConfigError("restarts and steps must be at least 1, passes at least 0")
        if self.levels and (min(self.levels) < 3 or prod(self.levels) != self.vocab_size):
            raise ConfigError(
                f"levels are at least 3 each and their product is the vocabulary size: {self.levels} make "
                f"{prod(self.levels)} tokens, not {self.vocab_size}"
            )
        if self.backend != "voxtok" and self.quantizer != "kmeans":
            raise ConfigError(f"--backend {self.backend} is for --quantizer kmeans")


def check_layers(config: QuantizerConfig, layers: tuple[int, ...]) -> None:
    """Check layers that are to be quantized side by side.

    Raises:
        ConfigError: none, one twice, or a number of streams that would cut through layers.
    """
    if not layers or len(set(layers)) < len(layers):
        raise ConfigError("layers: give at least one number, each once")
    if config.quantizer == "pq" and (config.streams or 0) % len(layers):
        raise ConfigError(f"pq splits each of {len(layers)} layers alike: streams must be a multiple of that")


def check_fit(config: QuantizerConfig, width: int, ranks: Ranks) -> None:
    """Check what would stop a fit only after all features are computed.

    Raises:
        ConfigError: several ranks where one is needed, or a width that streams cannot share.
        MissingPart: a package that is not installed.
    """
    match config.quantizer:
        case "kmeans" | "rvq" | "random-projection":
            if config.backend == "faiss":
                check_faiss(ranks)
        case "pq" | "opq":
            from voxtok.tokenize.pq import group_width

            group_width(width, config.streams or 1)
        case kind:
            from voxtok.tokenize.learned_fit import check_learned

            check_learned(kind, ranks)


def fit_codebook(
    source: FrameSource,
    config: QuantizerConfig,
    ranks: Ranks,
    device: torch.device,
    checkpoint: Path | None = None,
    heldout: FrameSource | None = None,
) -> tuple[Codebook, Report]:
    """Fit a codebook to the frames of all ranks.

    Args:
        source: this rank's frames.
        config: what to fit.
        ranks: the other ranks.
        device: where the work is done, and where ranks talk to each other.
        checkpoint: a folder for what is half done; a killed fit goes on there.
        heldout: this rank's share of other frames, to report the error on.

    Returns:
        The codebook, and its health as JSON: inertia, heldout_inertia, perplexity (a list where there are several
        streams), and more by kind.

    Raises:
        ConfigError: more tokens than frames, frames that are not finite, or a width that streams cannot share.
    """
    streams = config.streams or 1
    kmeans = KMeansConfig(
        vocab_size=config.vocab_size,
        seed=config.seed,
        backend=config.backend,
        restarts=config.restarts,
        passes=config.passes,
    )
    match config.quantizer:
        case "kmeans":
            path = None if checkpoint is None else checkpoint / "kmeans"
            result = fit_kmeans(source, kmeans, ranks, device, path, heldout)
            return kmeans_codebook(result.centroids.cpu().numpy()), result.report
        case "rvq":
            from voxtok.tokenize.rvq import fit_rvq

            return fit_rvq(source, kmeans, streams, ranks, device, checkpoint, heldout)
        case "pq":
            from voxtok.tokenize.pq import fit_pq

            return fit_pq(source, kmeans, streams, ranks, device, checkpoint, heldout)
        case "opq":
            from voxtok.tokenize.opq import fit_opq

            return fit_opq(source, kmeans, streams, ranks, device, checkpoint, heldout)
        case "random-projection":
            from voxtok.tokenize.random_projection import fit_random_projection

            return fit_random_projection(
                source, config.vocab_size, streams, config.seed, ranks, device, heldout=heldout
            )
        case kind:
            from voxtok.tokenize.learned_fit import fit_autoencoder
            from voxtok.tokenize.learned_networks import LearnedConfig

            settings = LearnedConfig(
                kind=kind,
                vocab_size=config.vocab_size,
                levels=config.levels,
                steps=config.steps,
                seed=config.seed,
            )
            return fit_autoencoder(source, settings, ranks, device, checkpoint, heldout)
