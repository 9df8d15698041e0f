"""k-means as loops over numbers, in Python's float64, from the definitions; shares no code with voxtok."""

from collections.abc import Sequence

Vector = Sequence[float]


def squared_distance(x: Vector, y: Vector) -> float:
    total = 0.0
    for a, b in zip(x, y, strict=True):
        total += (a - b) * (a - b)
    return total


def nearest(frames: Sequence[Vector], centroids: Sequence[Vector]) -> list[int]:
    labels = []
    for frame in frames:
        best, least = 0, squared_distance(frame, centroids[0])
        for label, centroid in enumerate(centroids):
            distance = squared_distance(frame, centroid)
            if distance < least:
                best, least = label, distance
        labels.append(best)
    return labels


def inertia(frames: Sequence[Vector], centroids: Sequence[Vector]) -> float:
    total = 0.0
    for frame, label in zip(frames, nearest(frames, centroids), strict=True):
        total += squared_distance(frame, centroids[label])
    return total / len(frames)


def lloyd_step(frames: Sequence[Vector], centroids: Sequence[Vector]) -> list[list[float]]:
    labels = nearest(frames, centroids)
    moved = []
    for label, centroid in enumerate(centroids):
        members = [frame for frame, other in zip(frames, labels, strict=True) if other == label]
        if not members:
            moved.append(list(centroid))
            continue
        mean = []
        for dimension in range(len(centroid)):
            mean.append(sum(frame[dimension] for frame in members) / len(members))
        moved.append(mean)
    return moved
