"""One Lloyd step: labels, sums and means of clusters, over a stream on any number of ranks."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.frames import Chunk

FARTHEST = 64
"""Most empty clusters that one step repairs."""
ADDED_VALUES = 1 << 18
"""Values that are widened to float64 at a time, in the caches."""


@dataclass(frozen=True)
class Tally:
    """What one pass over the frames adds up to for fixed centroids; sums are float64, so their order hardly matters."""

    centroids: torch.Tensor  # (K, D) float32 that the frames were labelled with
    sums: torch.Tensor  # (K, D) float64
    counts: torch.Tensor  # (K,) int64
    errors: torch.Tensor  # (K,) float64, sums of squared distances
    farthest: torch.Tensor  # (m, D) float32, the frames farthest from their centroids, farthest first

    @property
    def num_frames(self) -> int:
        """Frames in the pass."""
        return int(self.counts.sum())

    @property
    def inertia(self) -> float:
        """Mean squared distance of a frame to its centroid."""
        return float(self.errors.sum()) / max(self.num_frames, 1)

    def means(self) -> torch.Tensor:
        """(K, D) float32 means of the clusters; an empty cluster keeps its centroid."""
        means = self.sums / self.counts.clamp(min=1)[:, None]
        return torch.where(self.counts[:, None] > 0, means.float(), self.centroids)

    def repaired_means(self) -> torch.Tensor:
        """As `means`, but empty clusters move to the frames farthest from their centroids (as scikit-learn does)."""
        means = self.means()
        empty = (self.counts == 0).nonzero()[: len(self.farthest), 0]
        means[empty] = self.farthest[: len(empty)]
        return means


def tally(chunks: Iterable[Chunk], assigner: Assigner, ranks: Ranks) -> Tally:
    """Label all frames of all ranks exactly and add them up by cluster.

    Raises:
        ConfigError: a frame is not finite.
    """
    centroids, device = assigner.centroids, assigner.device
    sums, counts, errors = _zeros(centroids)
    far = Farthest(centroids.shape[1], device)
    for chunk in chunks:
        for start in range(0, len(chunk), assigner.block_frames):
            frames = chunk.frames[start : start + assigner.block_frames].to(device=device, dtype=torch.float32)
            labels, distances = assigner.nearest(frames)
            counts += torch.bincount(labels, minlength=len(centroids))
            _add(sums, frames, labels)
            _add(errors, distances, labels)
            far.add(frames, distances)
    for total in (sums, counts, errors):
        ranks.all_reduce(total)
    return Tally(centroids, sums, counts, errors, far.gathered(ranks))


def _zeros(centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums, counts and errors of no frames."""
    count = len(centroids)
    sums = torch.zeros_like(centroids, dtype=torch.float64)
    return sums, sums.new_zeros(count, dtype=torch.int64), sums.new_zeros(count)


def _add(sums: torch.Tensor, values: torch.Tensor, labels: torch.Tensor) -> None:
    """Add values (n, ...) to the sums (K, ...) of their labels, in a fixed order."""
    if sums.device.type == "cuda":  # where index_add_ adds in any order
        sums += segment_sums(values, labels, len(sums))
        return
    step = max(1, ADDED_VALUES // values[:1].numel()) if len(values) else 1
    for start in range(0, len(values), step):
        block = slice(start, start + step)
        sums.index_add_(0, labels[block], values[block].double())


def label_sums(values: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """Float64 sums of values (n, ...) by label, in a fixed order: (count, ...)."""
    sums = values.new_zeros((count, *values.shape[1:]), dtype=torch.float64)
    _add(sums, values, labels)
    return sums


def segment_sums(values: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """Float64 sums of values (n, ...) by label: (count, ...)."""
    ordered = values.index_select(0, labels.argsort(stable=True)).double()
    lengths = torch.bincount(labels, minlength=count)
    sums: torch.Tensor = torch.segment_reduce(ordered, "sum", lengths=lengths, axis=0, initial=0)
    return sums


class Farthest:
    """The FARTHEST frames of a pass; without copies of each other in the end."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.frames = torch.empty(0, width, device=device)
        self.distances = torch.empty(0, device=device)

    def add(self, frames: torch.Tensor, distances: torch.Tensor) -> None:
        floor = self.distances[-1] if len(self.distances) == FARTHEST else 0.0
        beyond = (distances > floor).nonzero()[:, 0]
        if len(beyond):
            beyond = beyond[distances[beyond].argsort(descending=True, stable=True)[:FARTHEST]]
            self._keep(torch.cat([self.frames, frames[beyond]]), torch.cat([self.distances, distances[beyond]]))

    def _keep(self, frames: torch.Tensor, distances: torch.Tensor) -> None:
        order = distances.argsort(descending=True, stable=True)[:FARTHEST]
        self.frames, self.distances = frames[order], distances[order]

    def gathered(self, ranks: Ranks) -> torch.Tensor:
        if ranks.connected:
            self._keep(torch.cat(ranks.all_gather(self.frames)), torch.cat(ranks.all_gather(self.distances)))
        rows = {frame.tobytes(): row for row, frame in reversed(list(enumerate(self.frames.cpu().numpy())))}
        return self.frames[sorted(rows.values())]
