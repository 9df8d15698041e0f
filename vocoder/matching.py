"""The k most similar frames of a pool: exact cosine similarities at the cost of a bfloat16 product, in bounded memory.

kNN-VC (Baas et al. 2023) builds the whole matrix of distances between source and reference, several times over. Here a
block of it exists at a time, in bfloat16. What rounding may add to a similarity is bounded: |x.y - x'.y'| is at most
|x - x'||y| + |x'||y - y'|, by Cauchy-Schwarz, and what the sum and its result are rounded by. A frame whose rounded
similarity lies more than twice that bound below the k-th best so far is none of the k; the few others are kept, and
decided by float64 similarities of the frames as given. So the result does not depend on blocks, threads or the machine:
it is that of the full computation in float64, equal similarities going to the lowest index.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.assign import pairs_reaching
from voxtok.tokenize.score_bounds import has_fast_bfloat16

Weighting = Literal["uniform", "distance"]

MAX_CHUNK = 4096
"""Pool frames of a block, where memory allows."""
BYTES_A_VALUE = 10
"""Of a frame while it is rounded: as float32, its unit vector, and that in bfloat16."""
BYTES_A_SCORE = 32
"""Of a similarity of a block: in bfloat16, in float32, and where all of them are candidates, its place."""
BYTES_A_PAIR = 64
"""Of a pair that is kept, while pairs are sorted."""
LEAST_DISTANCE = 1e-6
"""Smallest cosine distance that weights tell from none."""


@dataclass(frozen=True)
class Neighbours:
    """The k frames of a pool that are most similar to each query, best first.

    Attributes:
        indices: (T, k) int64 rows of the pool.
        similarities: (T, k) float64 cosines.
    """

    indices: torch.Tensor
    similarities: torch.Tensor


class Matcher:
    """Finds the frames of a pool that are nearest to others by cosine similarity.

    Args:
        pool: (N, D) frames of any float type; a memory map is read a chunk at a time.
        device: where similarities are computed.
        max_mb: working memory in MB, beside pool and queries. The result does not depend on it; with enough of it, a
            bfloat16 copy of the pool is kept between searches.

    Raises:
        ConfigError: no frames, or a frame that is zero or not finite: it has no direction.
    """

    def __init__(self, pool: torch.Tensor, *, device: torch.device, max_mb: float = 384.0) -> None:
        if pool.ndim != 2 or not pool.numel():
            raise ConfigError(f"a pool is (N, D) frames with N >= 1, not {tuple(pool.shape)}")
        if max_mb < 1:
            raise ConfigError(f"max_mb must be at least 1, not {max_mb}")
        self.pool = pool
        self.device = device
        fast = device.type == "cuda" or (device.type == "cpu" and has_fast_bfloat16())
        self._dtype = torch.bfloat16 if fast else torch.float32
        if device.type == "cuda":  # torch's default may add up in bfloat16, beyond the bound
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self._share = int(max_mb * 1e6) // 6  # of the memory, for each of chunk, block and pairs; half is for a copy
        self._chunk = min(max(self._share // (pool.shape[1] * BYTES_A_VALUE), 16), MAX_CHUNK)
        self._norms = torch.cat([self._norms_of(part, i) for i, part in self._chunks()])
        self._copy: list[_Rounded] | None = None
        if pool.numel() * self._dtype.itemsize <= 3 * self._share:
            self._copy = [self._rounded_chunk(i, part) for i, part in self._chunks()]

    def nearest(self, queries: torch.Tensor, k: int, without: tuple[int, int] = (0, 0)) -> Neighbours:
        """The k most similar pool frames of each query, on the CPU.

        Args:
            queries: (T, D) frames.
            k: 1 .. N.
            without: first row of the pool that is not taken, and the first that is again.

        Raises:
            ConfigError: k out of range, or queries of another width, zero or not finite.
        """
        check_queries(queries, self.pool, k, without)
        width = self.pool.shape[1]
        rows = max(self._share // (self._chunk * BYTES_A_SCORE + width * BYTES_A_VALUE), 16)
        indices = torch.empty(len(queries), k, dtype=torch.int64)
        similarities = torch.empty(len(queries), k, dtype=torch.float64)
        for start in range(0, len(queries), rows):
            block = slice(start, start + rows)
            found = self._nearest_of_block(queries[block].to(self.device, torch.float32), start, k, without)
            indices[block], similarities[block] = found.columns.view(-1, k), found.scores.view(-1, k)
        return Neighbours(indices, similarities)

    def match(
        self, queries: torch.Tensor, k: int, weighting: Weighting, without: tuple[int, int] = (0, 0)
    ) -> torch.Tensor:
        """The mean of each query's k nearest pool frames: (T, D) float32 on the CPU.

        Args:
            queries: (T, D) frames.
            k: neighbours; 4 in kNN-VC.
            weighting: uniform (kNN-VC), or distance: in inverse proportion to the cosine distance.
            without: rows of the pool that are not taken; see `nearest`.
        """
        found = self.nearest(queries, k, without)
        matched = torch.empty(len(queries), self.pool.shape[1])
        step = max(1, self._share // (8 * k * self.pool.shape[1]))
        for start in range(0, len(queries), step):
            block = slice(start, start + step)
            frames = self.pool[found.indices[block].to(self.pool.device)].float().cpu()
            matched[block] = weighted_mean(frames, found.similarities[block], weighting)
        return matched

    def _nearest_of_block(self, queries: torch.Tensor, first_query: int, k: int, without: tuple[int, int]) -> "_Pairs":
        """The k best pairs of each query, row by row, best first, with exact similarities."""
        norms = self._norms_of(queries, first_query)
        near = _round(queries, norms, self._dtype)
        # Of the sum in float32, and of its result; where that is above 1, `reached` is not.
        sum_error = (queries.shape[1] + 8) * 2.0**-23 + torch.finfo(self._dtype).eps / 4
        most_pairs = max(2 * k * len(queries), self._share // BYTES_A_PAIR)
        kept = _Pairs.none(self.device)
        reached = torch.full_like(near.error, -2.0)  # (T,) k-th best rounded similarity, or below any
        error = torch.zeros_like(near.error)
        for first, part in self._chunks():
            far = self._copy[first // self._chunk] if self._copy else self._rounded_chunk(first, part)
            error = error.maximum(near.error + (1 + near.error) * far.error.max() + sum_error)
            scores = (near.frames @ far.frames.T).float()
            scores[:, max(without[0] - first, 0) : max(without[1] - first, 0)] = -torch.inf
            if first == 0 and scores.shape[1] >= k:
                reached = scores.topk(k).values[:, -1].clamp(min=-2)
            rows, columns = pairs_reaching(scores, reached.clamp(max=1) - 2 * error)
            if len(rows) > most_pairs and len(queries) > 1:
                halves = queries.tensor_split(2)
                upper, lower = (self._nearest_of_block(half, first_query, k, without) for half in halves)
                return upper.joined(_Pairs(lower.rows + len(halves[0]), lower.columns, lower.scores))
            kept = kept.joined(_Pairs(rows, columns + first, scores[rows, columns].double())).ordered()
            reached = kept.kth(k, len(queries)).float().clamp(min=-2)
            kept = kept.reaching(reached.clamp(max=1) - 2 * error)
            if len(kept.rows) > most_pairs:  # many near ties: decide them now
                kept = self._settled(kept, queries, norms).best(k, len(queries))
        return self._settled(kept, queries, norms).best(k, len(queries))

    def _settled(self, kept: "_Pairs", queries: torch.Tensor, norms: torch.Tensor) -> "_Pairs":
        """The pairs with exact similarities, in order."""
        step = max(1, self._share // (32 * queries.shape[1]))
        parts = []
        for rows, columns in zip(kept.rows.split(step), kept.columns.split(step), strict=True):
            of_pool = self.pool[columns.to(self.pool.device)].to(self.device, torch.float64)
            parts.append(torch.linalg.vecdot(queries[rows].double(), of_pool))
        scores = torch.cat(parts) / (norms[kept.rows] * self._norms[kept.columns])
        # Ties go to the lowest column.
        by_column = kept.columns.argsort(stable=True)
        return _Pairs(kept.rows[by_column], kept.columns[by_column], scores[by_column]).ordered()

    def _chunks(self) -> list[tuple[int, torch.Tensor]]:
        """(first frame, frames) of every chunk of the pool, as views."""
        return [(i * self._chunk, part) for i, part in enumerate(self.pool.split(self._chunk))]

    def _norms_of(self, frames: torch.Tensor, first: int) -> torch.Tensor:
        """(n,) float64 lengths, on the device."""
        return checked_norms(frames.to(self.device), first)

    def _rounded_chunk(self, first: int, part: torch.Tensor) -> "_Rounded":
        return _round(part.to(self.device, torch.float32), self._norms[first : first + len(part)], self._dtype)


def check_queries(queries: torch.Tensor, pool: torch.Tensor, k: int, without: tuple[int, int] = (0, 0)) -> None:
    """Check that k neighbours of queries can be found in a pool.

    Raises:
        ConfigError: k out of range, or another width.
    """
    left = len(pool) - (without[1] - without[0])
    if not 1 <= k <= left:
        raise ConfigError(f"k = {k} neighbours cannot be taken from a pool of {left} frames")
    if queries.ndim != 2 or queries.shape[1] != pool.shape[1]:
        raise ConfigError(f"queries are (T, {pool.shape[1]}), not {tuple(queries.shape)}")


def checked_norms(frames: torch.Tensor, first: int) -> torch.Tensor:
    """Lengths (n,) float64 of frames (n, D), which are counted from `first`.

    Raises:
        ConfigError: a frame is zero or not finite; names it.
    """
    norms: torch.Tensor = torch.linalg.vector_norm(frames, dim=1, dtype=torch.float64)
    usable = torch.isfinite(norms) & (norms > 0)
    if not usable.all():
        bad = first + int((~usable).nonzero()[0])
        raise ConfigError(f"frame {bad} is zero or not finite: it has no cosine similarity to any other")
    return norms


def unit_frames(frames: torch.Tensor, first: int) -> torch.Tensor:
    """Frames (n, D) at unit length, float32 on the CPU; errors as in `checked_norms`."""
    on_cpu = frames.float().cpu()
    return on_cpu / checked_norms(on_cpu, first).float()[:, None]


@dataclass(frozen=True)
class _Rounded:
    """Unit vectors (n, D), and by how much rounding moved each, (n,)."""

    frames: torch.Tensor
    error: torch.Tensor


def _round(frames: torch.Tensor, norms: torch.Tensor, dtype: torch.dtype) -> _Rounded:
    unit = frames / norms.float()[:, None]
    rounded = unit.to(dtype)  # unit itself where it is float32
    error = torch.linalg.vector_norm(unit - rounded, dim=1)
    return _Rounded(rounded, error + 2.0**-22)  # unit itself is rounded to float32


@dataclass(frozen=True)
class _Pairs:
    """Queries (P,) and pool frames (P,) that may be near, and their similarities (P,)."""

    rows: torch.Tensor
    columns: torch.Tensor
    scores: torch.Tensor

    @classmethod
    def none(cls, device: torch.device) -> "_Pairs":
        indices = torch.empty(0, dtype=torch.int64, device=device)
        return cls(indices, indices, torch.empty(0, dtype=torch.float64, device=device))

    def joined(self, more: "_Pairs") -> "_Pairs":
        return _Pairs(
            torch.cat([self.rows, more.rows]),
            torch.cat([self.columns, more.columns]),
            torch.cat([self.scores, more.scores]),
        )

    def ordered(self) -> "_Pairs":
        """By row, then the most similar first; what is equal stays in its order."""
        by_score = self.scores.argsort(descending=True, stable=True)
        return self._taken(by_score[self.rows[by_score].argsort(stable=True)])

    def kth(self, k: int, num_rows: int) -> torch.Tensor:
        """The k-th score of each row (num_rows,) of ordered pairs; -inf where a row has fewer."""
        counts = torch.bincount(self.rows, minlength=num_rows)
        last = counts.cumsum(0) - counts + k - 1
        scores = torch.nn.functional.pad(self.scores, (0, 1))  # there may be none at all
        found = scores[last.clamp(max=len(self.scores))]  # (num_rows,)
        return found.masked_fill(counts < k, -torch.inf)

    def reaching(self, floor: torch.Tensor) -> "_Pairs":
        """The pairs that reach their row's floor."""
        return self._taken((self.scores >= floor[self.rows]).nonzero()[:, 0])

    def best(self, k: int, num_rows: int) -> "_Pairs":
        """The first k of each row of ordered pairs."""
        counts = torch.bincount(self.rows, minlength=num_rows)
        first = counts.cumsum(0) - counts
        place = torch.arange(len(self.rows), device=self.rows.device) - first[self.rows]
        return self._taken((place < k).nonzero()[:, 0])

    def _taken(self, order: torch.Tensor) -> "_Pairs":
        return _Pairs(self.rows[order], self.columns[order], self.scores[order])


def weighted_mean(frames: torch.Tensor, similarities: torch.Tensor, weighting: Weighting) -> torch.Tensor:
    """Means over k neighbours.

    Args:
        frames: (T, k, D) float32.
        similarities: (T, k) cosines.
        weighting: uniform, or distance: weights 1 / (1 - cosine), as scikit-learn's neighbours have.

    Worked: similarities 0.9 and 0.6 are distances 0.1 and 0.4: weights 10 and 2.5, or 0.8 and 0.2.
    """
    if weighting == "uniform":
        return frames.mean(1)
    weights = 1 / (1 - similarities).clamp(min=LEAST_DISTANCE)
    weights = (weights / weights.sum(1, keepdim=True)).to(frames)
    return torch.einsum("tk,tkd->td", weights, frames)
