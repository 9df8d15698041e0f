"""How far the vectors that tokens stand for are from the frames, and how often each token occurs."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.frames import Chunk
from voxtok.tokenize.quantizer import Quantizer


@dataclass(frozen=True)
class Reconstruction:
    """Sums over the frames of all ranks.

    Attributes:
        frames: how many.
        error: mean squared distance of a frame to the vector that its tokens stand for; lower is better.
        variance: mean squared distance of a frame to the mean frame.
        sizes: for each stream, (K,) int64 frames of each token.
    """

    frames: int
    error: float
    variance: float
    sizes: list[torch.Tensor]

    @property
    def relative(self) -> float:
        """error / variance: 0 is exact, 1 is no better than the mean frame."""
        return self.error / self.variance if self.variance else 0.0


class ReconstructionCounts:
    """The sums, added up block by block."""

    def __init__(self, quantizer: Quantizer, device: torch.device) -> None:
        self._quantizer = quantizer
        self._sums = torch.zeros(quantizer.width, dtype=torch.float64, device=device)
        self._totals = torch.zeros(3, dtype=torch.float64, device=device)  # frames, squared errors, squares
        self._sizes = [torch.zeros(size, dtype=torch.int64, device=device) for size in quantizer.vocab_sizes]

    def add(self, frames: torch.Tensor, codes: torch.Tensor) -> None:
        """Count (N, D) frames whose tokens are (N, streams), on the device; or (N, s) where only s streams count."""
        exact = frames.double()
        error = (exact - self._quantizer.decode(codes)).square().sum()
        self._sums += exact.sum(0)
        self._totals += torch.stack([error.new_full((), len(frames)), error, exact.square().sum()])
        for sizes, column in zip(self._sizes, codes.T, strict=False):
            sizes += torch.bincount(column, minlength=len(sizes))

    def result(self, ranks: Ranks) -> Reconstruction:
        """Over all ranks."""
        for total in (self._sums, self._totals, *self._sizes):
            ranks.all_reduce(total)
        count, error, squares = self._totals.tolist()
        count = max(count, 1.0)
        variance = squares / count - float((self._sums / count).square().sum())
        return Reconstruction(int(count), error / count, max(variance, 0.0), [sizes.cpu() for sizes in self._sizes])


BLOCK_FRAMES = 4096


def reconstruction(chunks: Iterable[Chunk], quantizer: Quantizer, ranks: Ranks, device: torch.device) -> Reconstruction:
    """Encode and decode a stream of frames in one pass."""
    counts = ReconstructionCounts(quantizer, device)
    for chunk in chunks:
        for block in chunk.frames.split(BLOCK_FRAMES):
            frames = block.to(device=device, dtype=torch.float32)
            counts.add(frames, quantizer.encode(frames))
    return counts.result(ranks)
