"""Product quantization: the dimensions of a frame split into streams, each with its own k-means (Jégou et al. 2011).

With several layers side by side and a stream a layer these are the multi-layer tokens of DASB (Mousavi et al. 2024);
8 streams of 256 tokens are the layout of the multi-codebook targets that icefall and SPEAR distil from.
"""

from pathlib import Path
from typing import Any

import torch

from voxtok.manifests.codebook import Codebook
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.frames import FrameSource, columns
from voxtok.tokenize.kmeans import fit_kmeans
from voxtok.tokenize.kmeans_health import health_of_streams
from voxtok.tokenize.kmeans_state import KMeansConfig
from voxtok.tokenize.quantizer import check_frames


class ProductKMeans:
    """One stream for each group of consecutive dimensions; what its tokens stand for, side by side, is the frame."""

    def __init__(self, centroids: torch.Tensor, device: torch.device) -> None:
        streams, vocab_size, group = centroids.shape
        self.vocab_sizes: tuple[int, ...] = (vocab_size,) * streams
        self.width = streams * group
        self._group = group
        self._streams = [Assigner(one, device) for one in centroids]

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """See Quantizer."""
        check_frames(frames, self.width)
        groups = frames.split(self._group, dim=1)
        return torch.stack([one.labels(part) for one, part in zip(self._streams, groups, strict=True)], dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """See Quantizer."""
        return torch.cat([one.centroids[labels] for one, labels in zip(self._streams, codes.T, strict=True)], dim=1)


def open_pq(codebook: Codebook, device: torch.device) -> ProductKMeans:
    """The quantizer of a codebook of kind pq: centroids (streams, K, D / streams)."""
    return ProductKMeans(torch.from_numpy(codebook.arrays["centroids"]), device)


def group_width(width: int, streams: int) -> int:
    """Dimensions of a stream.

    Raises:
        ConfigError: the dimensions cannot be shared out evenly; names numbers of streams that they can.
    """
    if width % streams:
        fitting = ", ".join(str(n) for n in range(2, min(width, 64) + 1) if width % n == 0)
        raise ConfigError(f"{width} dimensions cannot be split into {streams} equal streams, but into: {fitting}")
    return width // streams


def fit_pq(
    source: FrameSource,
    config: KMeansConfig,
    streams: int,
    ranks: Ranks,
    device: torch.device,
    checkpoint: Path | None = None,
    heldout: FrameSource | None = None,
) -> tuple[Codebook, dict[str, Any]]:
    """Fit one k-means a stream, one after another.

    Args:
        source: this rank's frames.
        config: of every stream.
        streams: number of groups of dimensions.
        ranks: the other ranks.
        device: where the work is done.
        checkpoint: a folder that holds every stream's state; a killed fit goes on in the stream where it was.
        heldout: this rank's share of other frames, whose error is reported.

    Raises:
        ConfigError: dimensions that streams cannot share, more centroids than frames, or frames that are not finite.
    """
    group = group_width(source.width, streams)
    centroids: list[torch.Tensor] = []
    reports: list[dict[str, Any]] = []
    for stream in range(streams):
        result = fit_kmeans(
            columns(source, stream * group, group),
            config,
            ranks,
            device,
            None if checkpoint is None else checkpoint / f"stream{stream}",
            None if heldout is None else columns(heldout, stream * group, group),
        )
        centroids.append(result.centroids)
        reports.append(result.report)
    inertia = sum(report["inertia"] for report in reports)
    error = None if heldout is None else sum(report["heldout_inertia"] for report in reports)
    codebook = Codebook("pq", {}, {"centroids": torch.stack(centroids).cpu().numpy()})
    return codebook, health_of_streams("pq", reports, inertia, error)
