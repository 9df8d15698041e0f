"""Pitch of two recordings of one sentence, compared along the cheapest path of dynamic time warping."""

import numpy as np
import numpy.typing as npt
import torch

from voxtok.vocoder.f0 import pitch
from voxtok.vocoder.mel import MelShape, mel_cepstra
from voxtok.vocoder.spectral import CEPSTRA, PitchErrors, compared_pitch

HOP_S = 0.01
Ints = npt.NDArray[np.int64]
Samples = npt.NDArray[np.float32]


def warped_pitch_errors(real: Samples, made: Samples, sampling_rate: int) -> PitchErrors:
    """Errors of pitch and voicing every 10 ms, where mel cepstra say that the two recordings are at the same place.

    Args:
        real, made: (T,) float32 at `sampling_rate`, of lengths that may differ.
        sampling_rate: Hz.
    """
    hop = round(HOP_S * sampling_rate)
    shape = MelShape(sampling_rate, 4 * hop, hop, 40)
    cepstra = [mel_cepstra(torch.from_numpy(samples), shape, CEPSTRA) for samples in (real, made)]
    counts = [min(len(rows), max(len(samples) // hop, 1)) for rows, samples in zip(cepstra, (real, made), strict=True)]
    cost = torch.cdist(cepstra[0][: counts[0]], cepstra[1][: counts[1]]).double().numpy()
    rows, columns = cheapest_path(cost)
    contours = [pitch(samples, sampling_rate, hop, n) for samples, n in zip((real, made), counts, strict=True)]
    return compared_pitch(contours[0][rows], contours[1][columns])


def cheapest_path(cost: npt.NDArray[np.float64]) -> tuple[Ints, Ints]:
    """Rows and columns of the cells of the cheapest monotonic path from corner to corner of (n, m) costs.

    Of equally cheap predecessors the diagonal one is taken, then the one above.

    Worked: costs [[0, 4], [1, 1], [3, 0]] have the path (0, 0) (1, 0) (2, 1), since 0 + 1 + 0 is the least.
    """
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for d in range(2, n + m + 1):  # cells (i, j) with i + j = d depend on earlier anti-diagonals alone
        i = np.arange(max(1, d - m), min(n, d - 1) + 1)
        j = d - i
        least = np.minimum(np.minimum(total[i - 1, j - 1], total[i - 1, j]), total[i, j - 1])
        total[i, j] = cost[i - 1, j - 1] + least
    row, column = n, m
    path = [(n, m)]
    while (row, column) != (1, 1):
        steps = [(row - 1, column - 1), (row - 1, column), (row, column - 1)]
        row, column = min(steps, key=lambda cell: total[cell])
        path.append((row, column))
    cells: Ints = np.array(path[::-1], dtype=np.int64) - 1
    return cells[:, 0], cells[:, 1]
