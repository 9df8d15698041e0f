"""Residual k-means: each stage quantizes what the stages before it left over (residual vector quantization, RVQ).

A frame's tokens are one a stage, and what they stand for is the sum of their centroids. So the first tokens alone are
a coarser description of the same frame.
"""

from pathlib import Path
from typing import Any

import torch

from voxtok.manifests.codebook import Codebook
from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.frames import FrameSource, MappedFrames
from voxtok.tokenize.kmeans import fit_kmeans
from voxtok.tokenize.kmeans_health import health_of_streams
from voxtok.tokenize.kmeans_state import KMeansConfig


class ResidualKMeans:
    """One stream a stage, the coarsest first.

    Worked: stages {0, 10} and {-1, 1} turn the number 8.7 into 10, left over -1.3, and -1: tokens 1 0, which stand for
    9; the first token alone stands for 10.
    """

    def __init__(self, stages: list[torch.Tensor], device: torch.device) -> None:
        self.vocab_sizes: tuple[int, ...] = tuple(len(centroids) for centroids in stages)
        self.width = stages[0].shape[1]
        self._stages = [Assigner(centroids, device) for centroids in stages]

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """See Quantizer."""
        return self._quantized(frames)[0]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """See Quantizer; codes may be those of the first stages only."""
        vectors = torch.zeros(len(codes), self.width, device=codes.device)
        for stage, labels in zip(self._stages, codes.T, strict=False):
            vectors += stage.centroids[labels]
        return vectors

    def left_over(self, frames: torch.Tensor) -> torch.Tensor:
        """What the stages do not say about (N, D) frames: (N, D) float32."""
        return self._quantized(frames)[1]

    def _quantized(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        left = frames.to(device=self._stages[0].device, dtype=torch.float32)
        codes = []
        for stage in self._stages:
            codes.append(stage.labels(left))
            left = left - stage.centroids[codes[-1]]
        return torch.stack(codes, dim=1), left


def open_rvq(codebook: Codebook, device: torch.device) -> ResidualKMeans:
    """The quantizer of a codebook of kind rvq: centroids (streams, K, D)."""
    return ResidualKMeans(list(torch.from_numpy(codebook.arrays["centroids"])), device)


def fit_rvq(
    source: FrameSource,
    config: KMeansConfig,
    streams: int,
    ranks: Ranks,
    device: torch.device,
    checkpoint: Path | None = None,
    heldout: FrameSource | None = None,
) -> tuple[Codebook, dict[str, Any]]:
    """Fit one k-means a stage; nothing but the centroids stays in memory from one stage to the next.

    Args:
        source: this rank's frames.
        config: of every stage.
        streams: number of stages.
        ranks: the other ranks.
        device: where the work is done.
        checkpoint: a folder that holds every stage's state; a killed fit goes on in the stage where it was.
        heldout: this rank's share of other frames, whose error is reported.

    Raises:
        ConfigError: more centroids than frames, or frames that are not finite.
    """
    stages: list[torch.Tensor] = []
    reports: list[dict[str, Any]] = []
    for stage in range(streams):
        result = fit_kmeans(
            _left_over(source, stages, device),
            config,
            ranks,
            device,
            None if checkpoint is None else checkpoint / f"stage{stage}",
            None if heldout is None else _left_over(heldout, stages, device),
        )
        stages.append(result.centroids)
        reports.append(result.report)
    health = health_of_streams("rvq", reports, reports[-1]["inertia"], reports[-1]["heldout_inertia"])
    return Codebook("rvq", {}, {"centroids": torch.stack(stages).cpu().numpy()}), health


def _left_over(source: FrameSource, stages: list[torch.Tensor], device: torch.device) -> FrameSource:
    if not stages:
        return source
    return MappedFrames(source, source.width, ResidualKMeans(stages, device).left_over)
