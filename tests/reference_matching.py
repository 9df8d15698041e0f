"""Matching written as loops: cosine similarity of every pair, sorted, and the mean of the first k."""

import math
from collections.abc import Sequence

Frame = Sequence[float]


def cosine(a: Frame, b: Frame) -> float:
    """Their product over the product of their lengths."""
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b)))


def nearest(query: Frame, pool: Sequence[Frame], k: int) -> list[int]:
    """Rows of the k most similar frames, best first; of equal ones the lowest row."""
    return sorted(range(len(pool)), key=lambda row: (-cosine(query, pool[row]), row))[:k]


def matched(query: Frame, pool: Sequence[Frame], k: int, by_distance: bool) -> list[float]:
    """The mean of the k nearest frames, weighted uniformly or by 1 / (1 - cosine)."""
    rows = nearest(query, pool, k)
    weights = [1 / max(1 - cosine(query, pool[row]), 1e-6) if by_distance else 1.0 for row in rows]
    total = sum(weights)
    return [
        sum(weight * pool[row][d] for weight, row in zip(weights, rows, strict=True)) / total for d in range(len(query))
    ]
