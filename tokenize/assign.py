"""Nearest centroids: exact labels at a fraction of the cost of all N x K distances, in bounded memory.

The nearest centroid of x has the largest score x.c - |c|^2/2. On a CPU most scores are never computed: projected on the
w leading directions of the centroids, x = p + r and c = q + s with r, s orthogonal to them, and the Cauchy-Schwarz
inequality gives x.c <= p.q + |r||s|. One thin matrix product bounds every score from above, and only the few centroids
whose bound reaches the exact score of a good guess are scored exactly. Where frames have no structure the bound
excludes little; the width w, or the plain product of everything, is chosen by what the first frames would cost.

Whatever the way there, float32 only excludes what its rounding cannot have confused, and near ties are decided by
float64 distances of the frames as given. So a label does not depend on blocks, threads, batch-mates or the machine.
"""

import functools
import math
import warnings

import numpy as np
import torch

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.score_bounds import ScoreBounds, cheapest_bounds
from voxtok.tokenize.upstream import forbid_tf32

BLOCK_FRAMES = 1024
"""Frames of a block on a CPU: a block and its scores stay in the caches."""
BLOCK_SCORES = 1 << 28
"""Scores of a block on a GPU: 1 GB."""
PROBED_FRAMES = 256
PROBED_WIDTH = 128
"""Narrower frames are not worth a projection."""
SETTLED_VALUES = 1 << 22
"""Values of one float64 block when near ties are settled: 32 MB."""


class Assigner:
    """Labels frames with their nearest centroids; equal distances go to the lowest index.

    Args:
        centroids: (K, D).
        device: where the work is done; None for the centroids' own.

    Raises:
        ConfigError: no centroids, or some are not finite.
    """

    def __init__(self, centroids: torch.Tensor, device: torch.device | None = None) -> None:
        if centroids.ndim != 2 or not len(centroids):
            raise ConfigError(f"centroids are (K, D) with K >= 1, not {tuple(centroids.shape)}")
        if not torch.isfinite(centroids).all():
            raise ConfigError("centroids have NaN or infinite values")
        self.centroids = centroids.to(device=device, dtype=torch.float32)
        self.device = self.centroids.device
        on_cpu = self.device.type == "cpu"
        if self.device.type == "cuda":
            forbid_tf32()  # the margin of near ties is that of float32 products
        self.block_frames = BLOCK_FRAMES if on_cpu else max(256, min(BLOCK_SCORES // len(centroids), 1 << 16))
        self._first = _first_of_equals(self.centroids).to(self.device)  # (k,) label of each distinct centroid
        self._offset = self.centroids.double().mean(0).float()  # centred, rounding is relative to the spread
        self._centred = (self.centroids[self._first] - self._offset).contiguous()  # (k, D)
        norms = torch.linalg.vector_norm(self._centred, dim=1)
        self._bias = norms.square() / -2  # (k,)
        self._largest = norms.max()
        self._bounds: ScoreBounds | None = None
        self._may_probe = on_cpu and self._centred.shape[1] >= PROBED_WIDTH

    def labels(self, frames: torch.Tensor) -> torch.Tensor:
        """The nearest centroid of each frame.

        Args:
            frames: (N, D), any float type.

        Returns:
            (N,) int64, on the assigner's device.

        Raises:
            ConfigError: frames of another width, or not finite.
        """
        return self.nearest(frames)[0]

    def nearest(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `labels`, and the squared distances (N,) float32, to rounding relative to the spread of the frames."""
        if frames.ndim != 2 or frames.shape[1] != self.centroids.shape[1]:
            raise ConfigError(f"frames are (N, {self.centroids.shape[1]}), not {tuple(frames.shape)}")
        labels = torch.empty(len(frames), dtype=torch.int64, device=self.device)
        distances = torch.empty(len(frames), dtype=torch.float32, device=self.device)
        for start in range(0, len(frames), self.block_frames):
            block = slice(start, start + self.block_frames)
            given = frames[block].to(device=self.device, dtype=torch.float32)
            labels[block], distances[block] = self._nearest_of_block(given, start)
        return labels, distances

    def _nearest_of_block(self, given: torch.Tensor, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        frames = given - self._offset
        norms = torch.linalg.vector_norm(frames, dim=1)
        if not torch.isfinite(norms).all():
            bad = start + int(torch.isfinite(norms).logical_not().nonzero()[0])
            raise ConfigError(f"frame {bad} is not finite, or too large for float32 distances")
        if self._may_probe and len(frames) >= PROBED_FRAMES:
            self._bounds = cheapest_bounds(self._centred, self._bias, frames[:PROBED_FRAMES])
            self._may_probe = False
        # Two float32 scores closer than this may be in the wrong order.
        margin = (norms + self._largest) * self._largest * (frames.shape[1] + 8) * 2**-22
        if self._bounds is None:
            best, chosen, rows, columns = self._dense(frames, margin)
        else:
            best, chosen, rows, columns = self._pruned(self._bounds, frames, norms, margin)
        if len(rows):
            settled, winners = self._settle(given, rows, columns)
            chosen[settled] = winners
        return self._first[chosen], (norms.square_() - 2 * best).clamp_(min=0)

    def _dense(self, frames: torch.Tensor, margin: torch.Tensor) -> "_Candidates":
        """Score everything."""
        scores = torch.addmm(self._bias, frames, self._centred.T)
        chosen = argmax(scores)
        best = scores.gather(1, chosen[:, None])[:, 0]
        second = scores.scatter_(1, chosen[:, None], -math.inf).amax(1)
        close = (second >= best - margin).nonzero()[:, 0]
        of_close = scores[close].scatter_(1, chosen[close, None], best[close, None])
        rows, columns = pairs_reaching(of_close, (best - margin)[close])
        return best, chosen, close[rows], columns

    def _pruned(
        self, bounds: ScoreBounds, frames: torch.Tensor, norms: torch.Tensor, margin: torch.Tensor
    ) -> "_Candidates":
        """Score those whose bound reaches the score of the one with the highest bound."""
        upper = bounds.of(frames, norms).add_(self._bias)
        guess = argmax(upper)
        reached = self._scores(frames, torch.arange(len(frames)), guess) - margin
        rows, columns = pairs_reaching(upper, reached.minimum(upper.gather(1, guess[:, None])[:, 0]))
        scores = self._scores(frames, rows, columns)
        best = torch.full_like(norms, -math.inf).scatter_reduce_(0, rows, scores, "amax")
        near = scores >= (best - margin)[rows]
        rows, columns = rows[near], columns[near]
        counts = torch.bincount(rows, minlength=len(frames))
        chosen = columns[counts.cumsum(0) - counts]
        tied = (counts > 1)[rows]
        return best, chosen, rows[tied], columns[tied]

    def _scores(self, frames: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Exact scores of pairs given by ascending rows: (P,) float32."""
        starts = torch.zeros(len(frames) + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(rows, minlength=len(frames)), 0, out=starts[1:])
        _allow_sparse()
        shape = (len(frames), len(self._centred))
        pattern = torch.sparse_csr_tensor(starts, columns, torch.zeros(len(columns)), shape, check_invariants=False)
        products = torch.sparse.sampled_addmm(pattern, frames, self._centred.T, beta=0.0)
        scores: torch.Tensor = products.values() + self._bias[columns]
        return scores

    def _settle(
        self, given: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decide near ties, given by ascending rows, by float64 distances: the distinct rows, and a column for each."""
        step = max(1, SETTLED_VALUES // given.shape[1])
        parts = []
        for start in range(0, len(rows), step):
            pairs = slice(start, start + step)
            of_pairs = self.centroids[self._first[columns[pairs]]].double()
            parts.append((given[rows[pairs]].double() - of_pairs).square().sum(1))
        distances = torch.cat(parts)
        distinct, group = torch.unique_consecutive(rows, return_inverse=True)
        least = distances.new_full((len(distinct),), math.inf).scatter_reduce_(0, group, distances, "amin")
        winners = (distances == least[group]).nonzero()[:, 0]
        lowest = columns.new_full((len(distinct),), len(self._centred))
        return distinct, lowest.scatter_reduce_(0, group[winners], columns[winners], "amin")


_Candidates = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Best score and its column, of each frame (N,); rows and columns of the pairs that rounding may have confused (P,)."""


def argmax(scores: torch.Tensor) -> torch.Tensor:
    """Columns (N,) int64 of the first largest of each row."""
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmax(1))  # several times faster than torch's
    return scores.argmax(1)


def _first_of_equals(centroids: torch.Tensor) -> torch.Tensor:
    """Indices of the centroids that equal none before them, so that copies cost nothing and never win."""
    seen: dict[bytes, int] = {}
    for index, row in enumerate((centroids + 0.0).cpu().numpy()):  # + 0.0: the two zeros become one
        seen.setdefault(row.tobytes(), index)
    return torch.tensor(list(seen.values()), dtype=torch.int64)


def pairs_reaching(scores: torch.Tensor, floors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns, in order, where (N, K) scores are at least the floor (N,) of their row."""
    if scores.device.type != "cpu":
        rows, columns = (scores >= floors[:, None]).nonzero(as_tuple=True)
        return rows, columns
    # NumPy compares and searches several times faster than torch.
    flat = torch.from_numpy(np.flatnonzero(scores.numpy() >= floors.numpy()[:, None]))
    rows = flat // scores.shape[1]
    return rows, flat - rows * scores.shape[1]


@functools.cache
def _allow_sparse() -> None:
    """Let torch say once, unheard, that its CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.zeros(0), (1, 1))
