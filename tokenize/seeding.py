"""First centroids: greedy k-means++.

Arthur and Vassilvitskii (2007) draw each centroid with a probability proportional to the squared distance to the
nearest one so far; the greedy form draws 2 + ln K candidates and takes the one that lowers the inertia most.
"""

import math

import torch


def greedy_seeds(frames: torch.Tensor, vocab_size: int, generator: torch.Generator) -> torch.Tensor:
    """Choose K different frames by n K (2 + ln K) distances.

    Args:
        frames: (n, D) float32, n >= K, around the origin, since rounding is relative to their norms.
        vocab_size: K.
        generator: of the frames' device.

    Returns:
        (K,) int64 rows of `frames`. Where fewer than K frames are distinct, the last ones are copies.
    """
    squares = frames.square().sum(1)
    across = frames.T.contiguous()
    num_candidates = 2 + int(math.log(vocab_size))
    chosen = [int(torch.randint(len(frames), (1,), generator=generator, device=frames.device))]
    nearest = _squared_distances(frames, squares, across, torch.tensor(chosen, device=frames.device))[0]  # (n,)
    while len(chosen) < vocab_size:
        nearest[chosen[-1]] = 0  # rounding must not choose it again
        ends = nearest.double().cpu().cumsum(0).to(frames.device)  # on CUDA its rounding differs from run to run
        if not ends[-1] > 0:
            break
        draws = torch.rand(num_candidates, generator=generator, device=frames.device, dtype=torch.float64)
        candidates = torch.searchsorted(ends, draws * ends[-1], right=True).clamp_(max=len(frames) - 1)
        lowered = _squared_distances(frames, squares, across, candidates)
        torch.minimum(lowered, nearest, out=lowered)
        best = int(lowered.sum(1).argmin())
        chosen.append(int(candidates[best]))
        nearest = lowered[best]
    return torch.tensor(chosen + _others(chosen, vocab_size - len(chosen)), device=frames.device)


def _squared_distances(
    frames: torch.Tensor, squares: torch.Tensor, across: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """From some frames to all: (rows, n)."""
    crossed = torch.addmm(squares[None, :], frames[rows], across, alpha=-2)
    return crossed.add_(squares[rows, None]).clamp_(min=0)


def _others(chosen: list[int], count: int) -> list[int]:
    """The first `count` rows that were not chosen."""
    taken = set(chosen)
    return [row for row in range(len(chosen) + count) if row not in taken][:count]
