"""`pooled:NAME`: frames of another upstream, each replaced by the mean of its segment minus the mean of the utterance.

An utterance is cut where a piecewise constant path fits its frames best, at a price for every segment (dynamic
programming, as in Kamper's duration-penalized segmentation, 2022). Segments are about as long as phones, so tokens of
pooled frames lie nearer to phones than those of single frames, and change less often: better targets for pre-training.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from voxtok.tokenize.upstream import Upstream

PRICE_S = 0.012  # of a segment: what this many seconds of frames deviate from the utterance's mean, on average
LONGEST_S = 0.3


class Pooled:
    """Segment means of an upstream's frames, behind the same interface; every layer has segments of its own."""

    def __init__(self, upstream: Upstream) -> None:
        self._inner = upstream
        self.sampling_rate = upstream.sampling_rate
        self.hop_samples = upstream.hop_samples
        self.min_samples = upstream.min_samples
        self.num_layers = upstream.num_layers
        self.width = upstream.width
        self.device = upstream.device
        self.identity: dict[str, Any] = {
            "family": "pooled", "version": 1, "price_s": PRICE_S, "longest_s": LONGEST_S, "of": upstream.identity,
        }  # fmt: skip

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform of `num_samples`; pooling keeps their number."""
        return self._inner.num_frames(num_samples)

    def statistics(self, chunks: Iterable[torch.Tensor]) -> torch.Tensor:
        """Of the upstream; windows are cut into segments each on its own."""
        return self._inner.statistics(chunks)

    def extract(
        self,
        waveforms: torch.Tensor,
        lengths: torch.Tensor,
        layers: Sequence[int],
        statistics: Sequence[torch.Tensor] | None = None,
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """See Upstream.extract."""
        features, counts = self._inner.extract(waveforms, lengths, layers, statistics)
        rate_hz = self.sampling_rate / self.hop_samples
        pooled = {layer: padded.clone() for layer, padded in features.items()}
        for padded in pooled.values():
            for row, count in zip(padded, counts.tolist(), strict=True):
                frames = row[:count].double().cpu().numpy()
                bounds = segment_bounds(frames, price=PRICE_S * rate_hz, longest=round(LONGEST_S * rate_hz))
                means = segment_means(frames, bounds) - frames.mean(axis=0)
                row[:count] = torch.from_numpy(means).to(row)
        return pooled, counts


def segment_bounds(frames: npt.NDArray[np.float64], price: float, longest: int) -> list[int]:
    """Where segments begin, and the end: the cut of least squared distance to segment means plus price per segment.

    Args:
        frames: (N, D), N at least 1.
        price: of a segment, in units of the mean squared distance to the mean of all frames.
        longest: frames of a segment at most.

    Worked: 0 0 0 9 9 with a low price is cut at 0, 3, 5: both segments are constant and cost nothing but the price.
    """
    centred = frames - frames.mean(axis=0)  # sums of squares lose fewer digits
    squares = np.square(centred).sum(axis=1)
    paid = price * squares.mean()
    sums = np.concatenate([np.zeros_like(centred[:1]), centred.cumsum(axis=0)])
    energy = np.concatenate([[0.0], squares.cumsum()])
    cost = np.zeros(len(frames) + 1)
    begin = np.zeros(len(frames) + 1, dtype=np.int64)
    for end in range(1, len(frames) + 1):
        first = max(0, end - longest)
        span = sums[end] - sums[first:end]  # (candidates, D)
        spread = energy[end] - energy[first:end] - np.square(span).sum(axis=1) / np.arange(end - first, 0, -1)
        total = cost[first:end] + spread
        best = int(total.argmin())
        cost[end], begin[end] = total[best] + paid, first + best
    bounds = [len(frames)]
    while bounds[-1] > 0:
        bounds.append(int(begin[bounds[-1]]))
    return bounds[::-1]


def segment_means(frames: npt.NDArray[np.float64], bounds: Sequence[int]) -> npt.NDArray[np.float64]:
    """(N, D) frames, each replaced by the mean of its segment."""
    lengths = np.diff(bounds)
    means = np.add.reduceat(frames, np.array(bounds[:-1]), axis=0) / lengths[:, None]
    return means.repeat(lengths, axis=0)
