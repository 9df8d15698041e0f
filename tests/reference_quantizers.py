"""Residual, product and random-projection quantizers as loops over numbers, from the definitions."""

import math
from collections.abc import Sequence

Vector = Sequence[float]


def nearest_of(frame: Vector, centroids: Sequence[Vector]) -> int:
    best, least = 0, math.inf
    for label, centroid in enumerate(centroids):
        distance = 0.0
        for a, b in zip(frame, centroid, strict=True):
            distance += (a - b) * (a - b)
        if distance < least:
            best, least = label, distance
    return best


def residual_codes(frame: Vector, stages: Sequence[Sequence[Vector]]) -> list[int]:
    left = list(frame)
    codes = []
    for centroids in stages:
        label = nearest_of(left, centroids)
        codes.append(label)
        for d in range(len(left)):
            left[d] -= centroids[label][d]
    return codes


def residual_vector(codes: Sequence[int], stages: Sequence[Sequence[Vector]]) -> list[float]:
    total = [0.0] * len(stages[0][0])
    for stage, label in enumerate(codes):
        for d in range(len(total)):
            total[d] += stages[stage][label][d]
    return total


def product_codes(frame: Vector, streams: Sequence[Sequence[Vector]]) -> list[int]:
    codes, start = [], 0
    for centroids in streams:
        group = len(centroids[0])
        codes.append(nearest_of(frame[start : start + group], centroids))
        start += group
    return codes


def projected_code(
    frame: Vector, mean: Vector, deviation: Vector, projection: Sequence[Vector], codes: Sequence[Vector]
) -> int:
    normal = [(x - m) / s for x, m, s in zip(frame, mean, deviation, strict=True)]
    projected = [0.0] * len(projection[0])
    for value, row in zip(normal, projection, strict=True):
        for d in range(len(projected)):
            projected[d] += value * row[d]
    best, largest = 0, -math.inf
    for label, code in enumerate(codes):
        dot = sum(a * b for a, b in zip(projected, code, strict=True))
        cosine = dot / math.sqrt(sum(b * b for b in code))
        if cosine > largest:
            best, largest = label, cosine
    return best
