"""One Lloyd step over a stream of frames, on any number of ranks: labels, sums, means, repair of empty clusters."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.frames import Chunk

FARTHEST = 64
"""Most empty clusters that one step repairs."""


@dataclass(frozen=True)
class Tally:
    """What one pass over the frames adds up to for fixed centroids; sums are float64, so their order hardly matters."""

    centroids: torch.Tensor  # (K, D) float32 that the frames were labelled with
    sums: torch.Tensor  # (K, D) float64
    counts: torch.Tensor  # (K,) int64
    errors: torch.Tensor  # (K,) float64, sums of squared distances
    farthest: torch.Tensor  # (m, D) float32, the frames farthest from their centroids, farthest first
    labels: torch.Tensor | None  # (n,) int64 of this rank's frames, if asked for

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


def tally(chunks: Iterable[Chunk], assigner: Assigner, ranks: Ranks, keep_labels: bool = False) -> Tally:
    """Label all frames of all ranks and add them up by cluster.

    Raises:
        ConfigError: a frame is not finite.
    """
    centroids, device = assigner.centroids, assigner.device
    count, width = centroids.shape
    sums = torch.zeros(count, width, dtype=torch.float64, device=device)
    counts = torch.zeros(count, dtype=torch.int64, device=device)
    errors = torch.zeros(count, dtype=torch.float64, device=device)
    far = _Farthest(width, device)
    kept: list[torch.Tensor] = []
    for chunk in chunks:
        for start in range(0, len(chunk), assigner.block_frames):
            frames = chunk.frames[start : start + assigner.block_frames].to(device=device, dtype=torch.float32)
            labels = assigner.labels(frames)
            distances = assigner.squared_distances(frames, labels)
            sums.index_add_(0, labels, frames.double())
            counts += torch.bincount(labels, minlength=count)
            errors.index_add_(0, labels, distances.double())
            far.add(frames, distances)
            if keep_labels:
                kept.append(labels)
    for total in (sums, counts, errors):
        ranks.all_reduce(total)
    return Tally(centroids, sums, counts, errors, far.gathered(ranks), torch.cat(kept) if kept else None)


class _Farthest:
    """The FARTHEST frames of a pass; without copies of each other in the end."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.frames = torch.empty(0, width, device=device)
        self.distances = torch.empty(0, device=device)

    def add(self, frames: torch.Tensor, distances: torch.Tensor) -> None:
        floor = self.distances[-1] if len(self.distances) == FARTHEST else 0.0
        beyond = (distances > floor).nonzero()[:, 0]
        if len(beyond):
            self._keep(torch.cat([self.frames, frames[beyond]]), torch.cat([self.distances, distances[beyond]]))

    def _keep(self, frames: torch.Tensor, distances: torch.Tensor) -> None:
        order = distances.argsort(descending=True, stable=True)[:FARTHEST]
        self.frames, self.distances = frames[order], distances[order]

    def gathered(self, ranks: Ranks) -> torch.Tensor:
        if ranks.connected:
            self._keep(torch.cat(ranks.all_gather(self.frames)), torch.cat(ranks.all_gather(self.distances)))
        rows = {frame.tobytes(): row for row, frame in reversed(list(enumerate(self.frames.cpu().numpy())))}
        return self.frames[sorted(rows.values())]
