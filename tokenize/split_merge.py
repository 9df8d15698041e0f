"""Leaving a local optimum of k-means: merge pairs of clusters that hardly differ, split clusters that err most.

Lloyd steps move a centroid only a little way, so too many centroids stay where seeding put them. An exchange frees the
cheapest ones by Ward's cost (the inertia that merging adds; Ward 1963) and spends them on clusters whose halves, cut
across the first principal direction, lower the inertia most.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from voxtok.tokenize.lloyd import Tally, segment_sums

WORTH = 0.25
"""Exchanges are worth it whose split gains this share of what the merge costs: Lloyd steps then move the borders."""
POWER_STEPS = 3
BLOCK_CENTROIDS = 1024


@dataclass(frozen=True)
class _Splits:
    """Some clusters cut in halves, those first whose inertia (summed over frames) falls most."""

    clusters: list[int]
    gains: list[float]
    left: torch.Tensor  # (m, D) means of the halves
    right: torch.Tensor  # (m, D)


def exchange(frames: torch.Tensor, labels: torch.Tensor, tally: Tally, most: int) -> torch.Tensor:
    """Free up to `most` centroids by merging, and split as many clusters; no cluster takes part twice.

    Args:
        frames: (n, D) float32.
        labels: (n,) int64 of the frames.
        tally: of the same frames and labels.
        most: exchanges to make.

    Returns:
        (K, D) float32 means of the clusters, exchanged where that is worth it.
    """
    means, counts = tally.means(), tally.counts.double()
    splits = _split(frames, labels, means, tally.errors.argsort(descending=True, stable=True)[: 2 * most])
    centroids = means.clone()
    for freed, partner, at in _pairs(*_merge_costs(means, tally.counts), splits, most):
        weights = counts[[freed, partner]] / counts[[freed, partner]].sum().clamp(min=1)
        centroids[partner] = (weights @ means[[freed, partner]].double()).float()
        centroids[splits.clusters[at]], centroids[freed] = splits.left[at], splits.right[at]
    return centroids


def _pairs(costs: torch.Tensor, partners: torch.Tensor, splits: _Splits, most: int) -> Iterator[tuple[int, int, int]]:
    """The cheapest merges with the best splits: freed centroid, the one it merges with, place among the splits."""
    used: set[int] = set()
    first = 0
    for freed in costs.argsort(stable=True).tolist():
        partner = int(partners[freed])
        if freed in used or partner in used:
            continue
        while first < len(splits.clusters) and splits.clusters[first] in used:
            first += 1
        used |= {freed, partner}
        at = next((at for at in range(first, len(splits.clusters)) if splits.clusters[at] not in used), None)
        if not most or at is None or splits.gains[at] <= WORTH * float(costs[freed]):
            return
        used.add(splits.clusters[at])
        most -= 1
        yield freed, partner, at


def _merge_costs(means: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least cost of merging each cluster with another, and with which: (K,), (K,)."""
    weights = counts.float()
    costs, partners = [], []
    for start in range(0, len(means), BLOCK_CENTROIDS):
        block = slice(start, start + BLOCK_CENTROIDS)
        both = weights[block, None] + weights[None, :]
        cost = torch.cdist(means[block], means).square_() * (
            weights[block, None] * weights[None, :] / both.clamp(min=1)
        )
        cost.diagonal(start).fill_(torch.inf)
        least, partner = cost.min(dim=1)
        costs.append(least)
        partners.append(partner)
    return torch.cat(costs), torch.cat(partners)


def _split(frames: torch.Tensor, labels: torch.Tensor, means: torch.Tensor, clusters: torch.Tensor) -> _Splits:
    """Cut clusters across their first principal directions, found by power iteration."""
    place = labels.new_full((len(means),), -1)
    place[clusters] = torch.arange(len(clusters), device=place.device)
    rows = (place[labels] >= 0).nonzero()[:, 0]
    of = place[labels[rows]]  # (r,) which of the clusters
    centres = means[clusters]
    offsets = frames.index_select(0, rows) - centres.index_select(0, of)  # (r, D)
    directions = _sums(offsets * offsets[:, :1], of, len(clusters))
    directions += torch.eye(*directions.shape, device=directions.device)  # never zero
    for _ in range(POWER_STEPS):
        directions = torch.nn.functional.normalize(directions)
        along = (offsets * directions.index_select(0, of)).sum(1)
        directions = _sums(offsets * along[:, None], of, len(clusters))
    half = of * 2 + (along > 0)
    sizes = torch.bincount(half, minlength=2 * len(clusters))
    halves = _sums(offsets, half, 2 * len(clusters))
    halves /= sizes.clamp(min=1)[:, None]
    left, right = halves[0::2], halves[1::2]
    both = sizes[0::2] * sizes[1::2] / (sizes[0::2] + sizes[1::2]).clamp(min=1)
    gains = both * (left - right).square().sum(1)
    order = gains.argsort(descending=True, stable=True)
    return _Splits(clusters[order].tolist(), gains[order].tolist(), (centres + left)[order], (centres + right)[order])


def _sums(values: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """Sums of values (n, D) by label in a fixed order: (count, D)."""
    if values.device.type == "cuda":  # where index_add_ adds in any order
        return segment_sums(values, labels, count).to(values.dtype)
    return values.new_zeros(count, values.shape[1]).index_add_(0, labels, values)
