"""A random sample of all ranks' frames, on the first rank: those with the smallest keys, whoever holds them."""

import math
from dataclasses import dataclass

import torch

from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.frames import EVERY_KEY, Chunk, FrameSource

COPIED_FRAMES = 1024


@dataclass(frozen=True)
class Sample:
    """The frames with the smallest keys; taken in order, a prefix is a smaller random sample."""

    frames: torch.Tensor  # (n, D), unordered: sorting them would hold them twice
    order: torch.Tensor  # (n,) rows by ascending keys
    num_seen: int
    """Frames that it was drawn from, over all ranks."""


def draw_sample(source: FrameSource, count: int, dtype: torch.dtype, ranks: Ranks, device: torch.device) -> Sample:
    """Draw `count` frames in one pass, holding no more; among ranks, the first holds twice as many for a moment.

    Args:
        source: this rank's frames.
        count: frames to draw; all, where there are fewer.
        dtype: number format to hold them in.
        ranks: the other ranks; all but the first get their own frames only.
        device: where ranks talk to each other.

    Raises:
        ConfigError: a frame is not finite in `dtype`.
    """
    smallest = _Smallest(source.width, count, dtype)
    bound = _bound(source, count, ranks, device)
    num_seen = 0
    for chunk in source.chunks():
        num_seen += len(chunk)
        smallest.add(chunk, bound)
    held = smallest.held()
    # Sums of small blocks are many times faster than isfinite, or one sum in float64.
    if not all(math.isfinite(float(part.float().sum())) for part in held.frames.split(COPIED_FRAMES)):
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


def _bound(source: FrameSource, count: int, ranks: Ranks, device: torch.device) -> int:
    """A key that `count` frames of all ranks are below, as good as surely; so that few are copied to no end."""
    known = source.num_frames if source.largest_key == EVERY_KEY else None
    shares = torch.cat(ranks.all_gather(torch.tensor([-1 if known is None else known], device=device)))
    if bool((shares < 0).any()):
        return EVERY_KEY
    likely = (count + 8 * count**0.5 + 16) / max(int(shares.sum()), 1)  # beyond 8 standard deviations: one in 10^15
    return EVERY_KEY if likely >= 1 else int(likely * EVERY_KEY)


class _Smallest:
    """The `count` frames with the smallest keys so far, in place and in any order."""

    def __init__(self, width: int, count: int, dtype: torch.dtype) -> None:
        self._frames = torch.empty(count, width, dtype=dtype)  # no memory is taken before it is filled
        self._keys = torch.empty(count, dtype=torch.int64)
        self._filled = 0

    def add(self, chunk: Chunk, bound: int) -> None:
        """Frames with keys beyond `bound` are not wanted."""
        rows = (chunk.keys <= bound).nonzero()[:, 0]
        room = min(len(self._keys) - self._filled, len(rows))
        self._put(torch.arange(self._filled, self._filled + room), chunk, rows[:room])
        self._filled += room
        rows = rows[room:]
        if not len(rows):
            return
        largest = torch.cat([self._keys, chunk.keys[rows]]).kthvalue(len(self._keys)).values
        leaving = (self._keys > largest).nonzero()[:, 0]
        self._put(leaving, chunk, rows[chunk.keys[rows] <= largest])

    def _put(self, places: torch.Tensor, chunk: Chunk, rows: torch.Tensor) -> None:
        # index_select and index_copy_ are several times faster than indexing, small blocks than large ones.
        for to, of in zip(places.split(COPIED_FRAMES), rows.split(COPIED_FRAMES), strict=True):
            self._frames.index_copy_(0, to, chunk.frames.index_select(0, of).to(self._frames))
        self._keys.index_copy_(0, places, chunk.keys[rows])

    def held(self) -> Chunk:
        return Chunk(self._frames[: self._filled], self._keys[: self._filled])
