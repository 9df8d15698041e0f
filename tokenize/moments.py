"""Sums over a recording's samples, gathered chunk by chunk, and the means and variances that come out of them.

Two things in a wav2vec2-family network look at a whole recording: the normalisation of its waveform, and the group norm
after the first convolution. Both need first and second moments only. Of the samples, those are three sums. The first
convolution is linear, so its channels' moments follow from those of the windows that it sees: for a window w of k
samples, E[w] and E[w w'], a (k + 1) x (k + 1) Gram matrix of windows with a one appended. In float64 nothing is lost.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F

PIECE_SAMPLES = 1 << 19
"""Windows in float64 take 18 bytes a sample; a longer chunk is cut."""


@dataclass(frozen=True)
class Moments:
    """Sums over one recording, float64.

    Attributes:
        samples: (3,) how many, their sum, the sum of their squares.
        windows: (k + 1, k + 1) sum of w w' over windows w of k samples with a one appended; (0, 0) if not asked for.
    """

    samples: torch.Tensor
    windows: torch.Tensor

    def pack(self) -> torch.Tensor:
        """(3 + (k + 1)^2,) all sums in one vector, on the CPU."""
        return torch.cat([self.samples, self.windows.flatten()]).cpu()

    @staticmethod
    def unpack(sums: torch.Tensor, kernel: int) -> "Moments":
        """The inverse of `pack`; kernel = 0 where windows were not asked for."""
        side = kernel + 1 if kernel else 0
        return Moments(sums[:3], sums[3:].view(side, side))

    def waveform(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and (biased) variance of the samples, scalars."""
        count, total, squares = self.samples.unbind()
        mean = total / count
        return mean, (squares / count - mean * mean).clamp_min(0)

    def window(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (k,) and (biased) covariance (k, k) of the windows."""
        average = self.windows / self.windows[-1, -1]
        mean = average[-1, :-1]
        return mean, average[:-1, :-1] - torch.outer(mean, mean)


def gather(chunks: Iterable[torch.Tensor], kernel: int, stride: int) -> Moments:
    """Sum over the consecutive chunks of one recording, as if they were one.

    Args:
        chunks: each (T,) float32, any T.
        kernel: samples of a window; 0 to leave windows out.
        stride: samples from one window to the next, at most `kernel`.
    """
    samples = torch.zeros(3, dtype=torch.float64)
    windows = torch.zeros(kernel + 1, kernel + 1, dtype=torch.float64) if kernel else torch.zeros(0, 0)
    tail = torch.zeros(0)
    for piece in _pieces(chunks):
        exact = piece.double()
        sums = torch.stack([exact.new_full((), len(exact)), exact.sum(), exact.dot(exact)])
        samples = samples.to(piece.device) + sums
        if kernel:
            tail, gram = _windows(torch.cat([tail.to(piece.device), piece]), kernel, stride)
            windows = windows.to(piece.device) + gram
    return Moments(samples, windows)


def _pieces(chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    for chunk in chunks:
        yield from chunk.split(PIECE_SAMPLES)


def _windows(samples: torch.Tensor, kernel: int, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The Gram matrix of the windows that fit, and the samples from which the next window starts."""
    count = max((len(samples) - kernel) // stride + 1, 0)
    if not count:
        return samples, torch.zeros(kernel + 1, kernel + 1, dtype=torch.float64, device=samples.device)
    windows = F.pad(samples.double().unfold(0, kernel, stride), (0, 1), value=1.0)  # (count, kernel + 1)
    return samples[count * stride :], windows.T @ windows
