"""A sample among its leading principal components, where a Lloyd step is cheap and nearly right.

Speech features vary in few directions: 64 of 768 commonly hold 80 to 95 % of the variance, and nearly all that tells
centroids apart. Labels found there serve whole frames too: their means are those of the whole frames of a label.
"""

import torch

from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.assign import argmax
from voxtok.tokenize.lloyd import Farthest, Tally, label_sums
from voxtok.tokenize.sample import Sample
from voxtok.tokenize.score_bounds import has_fast_bfloat16

LEAST_WIDTH, WIDTH_STEP = 64, 32
HELD_SHARE = 0.8
"""Share of the variance that the components must hold; frames without structure keep most of their directions."""
PCA_FRAMES = 6
"""Frames per dimension that the components are computed from."""
PROJECTED_FRAMES = 1024
BLOCK_SCORES = 1 << 19
"""Scores of a block on a CPU: they stay in the caches."""


class Components:
    """The projected sample, in its random order: a prefix is a smaller random sample.

    Attributes:
        frames: (n, C) float32, around the origin.
        outside: mean squared distance of whole frames to projected ones, which centroids among components cannot lower.

    Args:
        sample: any float type.
        device: where the work is done.
    """

    def __init__(self, sample: Sample, device: torch.device) -> None:
        self._device = device
        few = sample.order[: max(PCA_FRAMES * sample.frames.shape[1], 1024)]
        first = sample.frames.index_select(0, few).to(device=device, dtype=torch.float32)
        self._mean = first.mean(0)
        first = first - self._mean
        variances, directions = torch.linalg.eigh(first.T @ first / len(first))
        self._directions = directions.flip(1)[:, : _width(variances.flip(0))].contiguous()  # (D, C)
        # Two columns of ones take up the bias of scores, which one bfloat16 number could not hold.
        self._rows = torch.ones(len(sample.order), self.width + 2, device=device)  # (n, C + 2)
        self.frames = self._rows[:, : self.width]
        self._squares = torch.empty(len(self.frames), device=device)
        self.outside = self._project(sample)
        self._scored = self._rows
        if device.type == "cpu" and has_fast_bfloat16():
            self._scored = self._rows.bfloat16()

    @property
    def width(self) -> int:
        """C."""
        return len(self._directions.T)

    def _project(self, sample: Sample) -> float:
        total = 0.0
        for start in range(0, len(self.frames), PROJECTED_FRAMES):
            block = slice(start, start + PROJECTED_FRAMES)
            frames = sample.frames.index_select(0, sample.order[block])
            frames = frames.to(device=self._device, dtype=torch.float32) - self._mean
            self.frames[block] = frames @ self._directions
            self._squares[block] = torch.linalg.vector_norm(self.frames[block], dim=1).square_()
            total += float(torch.linalg.vector_norm(frames)) ** 2
        return max(total - float(self._squares.sum(dtype=torch.float64)), 0.0) / max(len(self.frames), 1)

    def whole(self, centroids: torch.Tensor) -> torch.Tensor:
        """Centroids among components (K, C) as points of the whole space (K, D)."""
        return torch.addmm(self._mean, centroids, self._directions.T)

    def tally(self, count: int, centroids: torch.Tensor) -> tuple[Tally, torch.Tensor]:
        """A Lloyd step of the first `count` frames, near ties as scores of low precision have them.

        Args:
            count: of frames.
            centroids: (K, C) float32.

        Returns:
            The tally, and the labels (count,) int64.
        """
        frames, squares = self.frames[:count], self._squares[:count].double()
        labels = self._labels(count, centroids)
        counts = torch.bincount(labels, minlength=len(centroids))
        sums = label_sums(frames, labels, len(centroids))
        exact = centroids.double()
        errors = label_sums(squares, labels, len(centroids))  # |x - c|^2, summed: |x|^2 - 2 x.c + |c|^2
        errors += counts * exact.square().sum(1) - 2 * (exact * sums).sum(1)
        far = Farthest(self.width, self._device)
        if not counts.all():  # else none is needed
            far.add(frames, (frames - centroids.index_select(0, labels)).square().sum(1))
        return Tally(centroids, sums, counts, errors.clamp_(min=0), far.gathered(Ranks())), labels

    def _labels(self, count: int, centroids: torch.Tensor) -> torch.Tensor:
        rows = self._scored[:count]
        bias = centroids.square().sum(1) / -2
        high = bias.to(rows.dtype)
        low = (bias - high.float()).to(rows.dtype)
        columns = torch.cat([centroids.T.to(rows.dtype), high[None], low[None]])  # (C + 2, K)
        labels = torch.empty(count, dtype=torch.int64, device=rows.device)
        step = max(64, BLOCK_SCORES // len(centroids)) if rows.device.type == "cpu" else 1 << 16
        scores = rows.new_empty(step, len(centroids))
        widened = scores.float()
        for start in range(0, count, step):
            block = rows[start : start + step]
            torch.mm(block, columns, out=scores[: len(block)])
            labels[start : start + step] = argmax(widened[: len(block)].copy_(scores[: len(block)]))
        return labels


def _width(variances: torch.Tensor) -> int:
    """How many components hold HELD_SHARE of the variance; they are given from the largest down."""
    held = variances.clamp(min=0).double().cumsum(0)
    needed = 1 + int((held < HELD_SHARE * held[-1]).sum())
    return min(len(variances), max(LEAST_WIDTH, -(-needed // WIDTH_STEP) * WIDTH_STEP))
