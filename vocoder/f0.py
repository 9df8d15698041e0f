"""Pitch: YIN's difference function (de Cheveigné and Kawahara 2002) and the cheapest path through its dips."""

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0
CANDIDATES = 6
UNVOICED_COST = 0.4
"""Cost of a frame without pitch; dips of YIN's function that are deeper are cheaper (0 is perfectly periodic)."""
SWITCH_COST = 0.25
"""Of going from voiced to unvoiced or back."""
JUMP_COST = 1.2
"""Of a change by an octave between frames 10 ms apart."""
LAG_COST = 0.06
"""Of each octave below the highest pitch: of two equally deep dips the shorter period is taken."""
QUIET = 0.02
"""RMS over the recording's loud frames' below which a frame is silence."""
BLOCK_FRAMES = 4096

Samples = npt.NDArray[np.float32]
Pitch = npt.NDArray[np.float32]


def pitch(samples: Samples, sampling_rate: int, hop_samples: int, num_frames: int) -> Pitch:
    """F0 of each frame in Hz, 0 where unvoiced or silent: (num_frames,) float32.

    Frame i is centred at (i + 1/2) hops; the recording continues with zeros at both ends.

    Args:
        samples: (T,) float32.
        sampling_rate: Hz.
        hop_samples: samples from one frame to the next.
        num_frames: frames.
    """
    periods, costs, voiced = _candidates(torch.from_numpy(samples), sampling_rate, hop_samples, num_frames)
    steps = JUMP_COST * (0.01 * sampling_rate / hop_samples) ** 0.5  # longer hops may change more
    chosen = _cheapest_path(np.log2(periods), costs, voiced, steps)
    found = np.zeros(num_frames, dtype=np.float32)
    kept = chosen < CANDIDATES
    found[kept] = sampling_rate / periods[kept, chosen[kept]]
    return found


def _candidates(
    samples: torch.Tensor, sampling_rate: int, hop_samples: int, num_frames: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(N, CANDIDATES) periods in samples and their costs, and which frames are loud enough to have one."""
    shortest, longest = int(sampling_rate / HIGHEST_HZ), math.ceil(sampling_rate / LOWEST_HZ)
    length = longest + int(0.02 * sampling_rate)  # of the part that is compared with itself, shifted
    size = length + longest + 1
    needed = (num_frames - 1) * hop_samples + size
    start = hop_samples // 2 - size // 2
    left = max(-start, 0)
    padded = F.pad(samples[max(start, 0) :], (left, max(0, needed - left - len(samples[max(start, 0) :]))))
    frames = padded.unfold(0, size, hop_samples)[:num_frames]
    periods, costs, levels = [], [], []
    for block in frames.split(BLOCK_FRAMES):
        curve = _normalised_difference(block.double(), length, longest + 1)
        found_periods, found_costs = _dips(curve, shortest, longest)
        periods.append(found_periods)
        costs.append(found_costs + LAG_COST * (found_periods / shortest).log2())
        levels.append(block.square().mean(dim=1).sqrt())
    level = torch.cat(levels)
    loud = float(level.quantile(0.95)) if len(level) else 0.0
    voiced = (level > max(QUIET * loud, 1e-5)).numpy()
    return torch.cat(periods).numpy(), torch.cat(costs).numpy(), voiced


def _normalised_difference(frames: torch.Tensor, length: int, lags: int) -> torch.Tensor:
    """YIN's cumulative mean normalised difference, (N, lags) from (N, length + lags) samples; 1 at lag 0.

    d(lag) is the sum of (x[t] - x[t + lag])^2 over `length` samples; the result is d(lag) over the mean of d(1 .. lag).
    """
    size = 1 << (frames.shape[1] + length - 1).bit_length()
    spectrum = torch.fft.rfft(frames, size)
    head = torch.fft.rfft(frames[:, :length], size)
    products = torch.fft.irfft(spectrum * head.conj(), size)[:, :lags]
    power = F.pad(frames.square().cumsum(dim=1), (1, 0))
    energy = power[:, length : length + lags] - power[:, :lags]
    difference = (energy[:, :1] + energy - 2 * products).clamp_min(0)
    difference[:, 0] = 0
    mean = difference.cumsum(dim=1) / torch.arange(lags).clamp_min(1)
    curve: torch.Tensor = difference / mean.clamp_min(1e-12)
    curve[:, 0] = 1
    return curve


def _dips(curve: torch.Tensor, shortest: int, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Periods (by parabolas) and depths of the deepest local minima, each (N, CANDIDATES)."""
    inner = curve[:, shortest : longest + 1]
    before, after = curve[:, shortest - 1 : longest], curve[:, shortest + 1 : longest + 2]
    after = F.pad(after, (0, inner.shape[1] - after.shape[1]), value=torch.inf)
    depth = inner.where((inner <= before) & (inner < after), torch.inf)
    deepest, places = depth.topk(CANDIDATES, dim=1, largest=False)
    a, b, c = (part.gather(1, places) for part in (before, inner, after))
    bend = a - 2 * b + c
    shift = torch.where(bend > 1e-12, (a - c) / (2 * bend), 0.0).nan_to_num().clamp(-0.5, 0.5)
    costs = (deepest - (a - c) * shift / 4).clamp_min(0)  # at the parabola's lowest point
    return places + shortest + shift, costs.nan_to_num(nan=10.0, posinf=10.0)


def _cheapest_path(
    octaves: npt.NDArray[np.float64], costs: npt.NDArray[np.float64], voiced: npt.NDArray[np.bool_], jump_cost: float
) -> npt.NDArray[np.int64]:
    """Viterbi over the candidates and one unvoiced state, which is the last: (N,) chosen states."""
    count = len(octaves)
    local = np.concatenate([np.where(voiced[:, None], costs, 10.0), np.full((count, 1), UNVOICED_COST)], axis=1)
    total = local[:1].copy()[0] if count else np.zeros(CANDIDATES + 1)
    back = np.zeros((count, CANDIDATES + 1), dtype=np.int64)
    moves = np.full((CANDIDATES + 1, CANDIDATES + 1), SWITCH_COST)
    moves[-1, -1] = 0.0
    for i in range(1, count):
        moves[:-1, :-1] = jump_cost * np.abs(octaves[i - 1][:, None] - octaves[i][None])
        reached = total[:, None] + moves
        back[i] = reached.argmin(axis=0)
        total = reached[back[i], np.arange(CANDIDATES + 1)] + local[i]
    chosen = np.zeros(count, dtype=np.int64)
    state = int(total.argmin())
    for i in range(count - 1, -1, -1):
        chosen[i] = state
        state = back[i, state]
    return chosen
