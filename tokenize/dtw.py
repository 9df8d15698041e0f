"""Distances between many pairs of short sequences at once: dynamic time warping and edit distance.

Both fill the same table along its anti-diagonals, all pairs together, on the CPU or a GPU.
"""

from collections.abc import Iterator

import torch

INFINITE = float("inf")


def dtw(cost: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Mean frame distance along the cheapest monotonic path, as in ZeroSpeech 2021 and fastabx.

    A path goes from the first to the last frame of both by steps in one or both. Of equally cheap predecessors the
    diagonal one is taken, else the one with the shorter path, so that the distance is symmetric.

    Args:
        cost: (P, n, m) float distance of every frame of one to every frame of the other, padded with anything finite.
        rows: (P,) frames of the first, 1 to n.
        columns: (P,) frames of the second, 1 to m.

    Returns:
        (P,) float32 cost of the path over the number of its cells.

    Worked: costs [[0, 4], [1, 1], [3, 0]] have the path 0 -> 1 -> 0 over three cells: 1/3.
    """
    table, width = _table(cost)  # ((n + 1) * (m + 1), P), row by row
    length = torch.zeros_like(table)
    for cells, up, left, diagonal in _anti_diagonals(*cost.shape[1:]):
        above, before, both = table[up], table[left], table[diagonal]
        cheapest = torch.minimum(above, before)
        straight = both <= cheapest
        shorter = torch.minimum(
            length[up].where(above == cheapest, INFINITE), length[left].where(before == cheapest, INFINITE)
        )
        length[cells] = torch.where(straight, length[diagonal], shorter) + 1
        table[cells] += torch.where(straight, both, cheapest)
    last = (rows * width + columns)[None]
    return (table.gather(0, last) / length.gather(0, last))[0]


def levenshtein(differs: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Insertions, deletions and substitutions between pairs of sequences.

    Args:
        differs: (P, n, m) whether a token of one differs from a token of the other, padded with anything.
        rows: (P,) tokens of the first, 0 to n.
        columns: (P,) tokens of the second, 0 to m.

    Returns:
        (P,) float32 counts.
    """
    table, width = _table(differs.float())
    for i in range(differs.shape[1] + 1):
        table[i * width] = i
    table[:width] = torch.arange(width, device=table.device)[:, None]
    for cells, up, left, diagonal in _anti_diagonals(*differs.shape[1:]):
        substituted = table[diagonal] + table[cells]
        table[cells] = torch.minimum(substituted, torch.minimum(table[up], table[left]) + 1)
    return table.gather(0, (rows * width + columns)[None])[0]


def _table(cost: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Costs with a border above and to the left, pairs last, and the table's width; only the border's corner is 0."""
    pairs, n, m = cost.shape
    table = cost.new_full((n + 1, m + 1, pairs), INFINITE, dtype=torch.float32)
    table[1:, 1:] = cost.permute(1, 2, 0)
    table[0, 0] = 0
    return table.flatten(0, 1), m + 1


def _anti_diagonals(n: int, m: int) -> Iterator[tuple[slice, slice, slice, slice]]:
    """The cells of each anti-diagonal and those above, to the left and diagonally before, as slices of the flat table.

    Cell (i, j) is at i * (m + 1) + j, so the cells with i + j = d are m apart.
    """
    for d in range(2, n + m + 1):
        low, high = max(1, d - m), min(n, d - 1)
        start, stop = low * m + d, high * m + d + 1
        yield (
            slice(start, stop, m),
            slice(start - m - 1, stop - m - 1, m),
            slice(start - 1, stop - 1, m),
            slice(start - m - 2, stop - m - 2, m),
        )
