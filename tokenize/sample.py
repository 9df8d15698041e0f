"""A random sample of all ranks' frames, on the first rank: those with the smallest keys, whoever holds them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.frames import Chunk

COPIED_FRAMES = 1024


@dataclass(frozen=True)
class Sample:
    """The frames with the smallest keys; taken in order, a prefix is a smaller random sample."""

    frames: torch.Tensor  # (n, D), unordered: sorting them would hold them twice
    order: torch.Tensor  # (n,) rows by ascending keys
    num_seen: int
    """Frames that it was drawn from, over all ranks."""


def draw_sample(
    chunks: Iterable[Chunk], width: int, count: int, dtype: torch.dtype, ranks: Ranks, device: torch.device
) -> Sample:
    """Draw `count` frames in one pass, holding no more; among ranks, the first holds twice as many for a moment.

    Args:
        chunks: this rank's frames.
        width: D.
        count: frames to draw; all, where there are fewer.
        dtype: number format to hold them in.
        ranks: the other ranks; all but the first get their own frames only.
        device: where ranks talk to each other.

    Raises:
        ConfigError: a frame is not finite in `dtype`.
    """
    smallest = _Smallest(width, count, dtype)
    num_seen = 0
    for chunk in chunks:
        num_seen += len(chunk)
        smallest.add(chunk)
    held = smallest.held()
    if not math.isfinite(float(held.frames.sum(dtype=torch.float64))):  # unlike isfinite, without copies of them all
        raise ConfigError(f"frames have NaN or infinite values, or values too large for {dtype}")
    total = int(ranks.all_reduce(torch.tensor([num_seen], device=device)))
    if ranks.connected:
        keys = torch.cat(ranks.all_gather(held.keys.to(device)))
        if len(keys) > count:
            held = held.below(int(keys.kthvalue(count).values))
        parts = [ranks.gather(part.to(device)) for part in (held.frames, held.keys)]
        if ranks.is_first:
            held = Chunk(*(torch.cat(part).cpu() for part in parts))
    return Sample(held.frames, held.keys.argsort(stable=True), total)


class _Smallest:
    """The `count` frames with the smallest keys so far, in place and in any order."""

    def __init__(self, width: int, count: int, dtype: torch.dtype) -> None:
        self._frames = torch.empty(count, width, dtype=dtype)  # no memory is taken before it is filled
        self._keys = torch.empty(count, dtype=torch.int64)
        self._filled = 0

    def add(self, chunk: Chunk) -> None:
        room = min(len(self._keys) - self._filled, len(chunk))
        self._put(torch.arange(self._filled, self._filled + room), chunk, torch.arange(room))
        self._filled += room
        if room == len(chunk):
            return
        keys = torch.cat([self._keys, chunk.keys[room:]])
        bound = keys.kthvalue(len(self._keys)).values
        leaving = (self._keys > bound).nonzero()[:, 0]
        self._put(leaving, chunk, room + (chunk.keys[room:] <= bound).nonzero()[:, 0])

    def _put(self, places: torch.Tensor, chunk: Chunk, rows: torch.Tensor) -> None:
        # index_select and index_copy_ are several times faster than indexing, small blocks than large ones.
        for to, of in zip(places.split(COPIED_FRAMES), rows.split(COPIED_FRAMES), strict=True):
            self._frames.index_copy_(0, to, chunk.frames.index_select(0, of).to(self._frames))
        self._keys.index_copy_(0, places, chunk.keys[rows])

    def held(self) -> Chunk:
        return Chunk(self._frames[: self._filled], self._keys[: self._filled])
