"""Matching by a faiss index: exact, or approximate for pools of many hours.

`flat` compares with every frame in float32. `ivf` (inverted file) sorts the pool into cells and looks into the nearest
few, so a search of a pool of millions of frames takes a share of the time and misses a share of the neighbours: the
more cells are looked into, the fewer.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch

from voxtok.runtime.errors import ConfigError
from voxtok.runtime.optional import require
from voxtok.vocoder.matching import Neighbours, Weighting, check_queries, unit_frames, weighted_mean

Index = Literal["flat", "ivf"]

CHUNK = 65536
FRAMES_A_CELL = 256
"""Mean size of a cell; the number of cells is at least the root of the number of frames, as faiss advises."""
TRAINED_A_CELL = 64
"""Frames that a cell's centre is fitted on."""


class FaissMatcher:
    """Finds nearest frames as `Matcher` does, by an index in memory.

    Args:
        pool: (N, D) frames of any float type.
        index: flat or ivf.
        probes: cells that a search looks into, for ivf.

    Raises:
        MissingPart: faiss is not installed.
        ConfigError: no frames, a frame that is zero or not finite, or probes below 1.
    """

    def __init__(self, pool: torch.Tensor, *, index: Index, probes: int) -> None:
        faiss = require("faiss", "faiss")
        if pool.ndim != 2 or not pool.numel():
            raise ConfigError(f"a pool is (N, D) frames with N >= 1, not {tuple(pool.shape)}")
        if probes < 1:
            raise ConfigError(f"probes must be at least 1, not {probes}")
        self.pool = pool
        width = pool.shape[1]
        if index == "flat":
            self._index = faiss.IndexFlatIP(width)
        else:
            cells = num_cells(len(pool))
            self._index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
            self._index.cp.min_points_per_centroid = 1
            self._index.train(_some(pool, cells * TRAINED_A_CELL).numpy())
            self._index.nprobe = min(probes, cells)
        for chunk in _units(pool):
            self._index.add(chunk.numpy())

    def nearest(self, queries: torch.Tensor, k: int) -> Neighbours:
        """The k most similar pool frames of each query, (T, k).

        Raises:
            ConfigError: k out of range, queries of another width, or cells that hold fewer than k frames together.
        """
        check_queries(queries, self.pool, k)
        similarities, indices = self._index.search(unit_frames(queries, 0).numpy(), k)
        if (indices < 0).any():
            raise ConfigError(f"the cells that were looked into hold fewer than k = {k} frames: raise probes")
        return Neighbours(torch.from_numpy(indices), torch.from_numpy(similarities).double())

    def match(self, queries: torch.Tensor, k: int, weighting: Weighting) -> torch.Tensor:
        """The mean of each query's k nearest pool frames: (T, D) float32; see `Matcher.match`."""
        found = self.nearest(queries, k)
        return weighted_mean(self.pool[found.indices].float(), found.similarities, weighting)


def num_cells(num_frames: int) -> int:
    """Cells of an inverted file: enough that both the cells and what lies in each are few.

    Worked: 1,000,000 frames have 3906 cells of 256, more than their root of 1000.
    """
    return max(1, min(max(num_frames // FRAMES_A_CELL, math.isqrt(num_frames)), num_frames))


def _units(pool: torch.Tensor) -> Iterator[torch.Tensor]:
    for start in range(0, len(pool), CHUNK):
        yield unit_frames(pool[start : start + CHUNK], start)


def _some(pool: torch.Tensor, count: int) -> torch.Tensor:
    """At most `count` frames, evenly from all of the pool, as unit vectors."""
    return unit_frames(pool[:: max(1, len(pool) // count)].contiguous(), 0)
