"""A random sample of all ranks' frames, on the first rank: those with the smallest keys, whoever holds them."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.frames import Chunk


@dataclass(frozen=True)
class Sample:
    """The frames with the smallest keys, smallest first: a prefix is a smaller random sample."""

    frames: torch.Tensor  # (n, D)
    num_seen: int
    """Frames that it was drawn from, over all ranks."""


def draw_sample(
    chunks: Iterable[Chunk], width: int, count: int, dtype: torch.dtype, ranks: Ranks, device: torch.device
) -> Sample:
    """Draw `count` frames in one pass; holds twice as many at most.

    Args:
        chunks: this rank's frames.
        width: D.
        count: frames to draw; all, where there are fewer.
        dtype: number format to hold them in.
        ranks: the other ranks; all but the first get no frames.
        device: where ranks talk to each other.

    Raises:
        ConfigError: a frame is not finite in `dtype`.
    """
    held = Chunk(torch.empty(0, width, dtype=dtype), torch.empty(0, dtype=torch.int64))
    parts = [held]
    largest_key: int | None = None
    num_seen = 0
    for chunk in chunks:
        num_seen += len(chunk)
        part = chunk if largest_key is None else chunk.below(largest_key)
        parts.append(Chunk(part.frames.to(dtype), part.keys))
        if sum(map(len, parts)) >= 2 * count:
            held = _smallest(parts, count)
            largest_key = int(held.keys[-1])
            parts = [held]
    held = _smallest(parts, count)
    if not torch.isfinite(held.frames).all():
        raise ConfigError(f"frames have NaN or infinite values, or values too large for {dtype}")
    total = int(ranks.all_reduce(torch.tensor([num_seen], device=device)))
    if not ranks.connected:
        return Sample(held.frames, total)
    frames, keys = (ranks.gather(part.to(device)) for part in (held.frames, held.keys))
    everyone = [Chunk(*(part.cpu() for part in both)) for both in zip(frames, keys, strict=True)]
    return Sample(_smallest([held, *everyone[1:]], count).frames, total)


def _smallest(parts: list[Chunk], count: int) -> Chunk:
    keys = torch.cat([part.keys for part in parts])
    order = keys.argsort(stable=True)[:count]
    return Chunk(torch.cat([part.frames for part in parts])[order], keys[order])
