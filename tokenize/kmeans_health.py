"""What a codebook looks like: is the inertia still falling, is every code used, do any two coincide."""

from dataclasses import asdict
from typing import Any

import torch

from voxtok.tokenize.kmeans_state import KMeansConfig, State

DUPLICATE = 1e-3
"""Centroids nearer than this share of the root mean squared distance of frames to their centroids are duplicates."""
BLOCK_CENTROIDS = 1024


def health(state: State, config: KMeansConfig, heldout_inertia: float | None) -> dict[str, Any]:
    """The health report of a finished fit.

    Inertia is the mean squared distance of a frame to its centroid. A row of the history gives the inertia of the
    centroids that the step began with; `heldout_inertia` at the top is that of the final ones.
    """
    sizes = state.sizes.cpu()
    last = state.history[-1]
    used = perplexity(sizes)
    return {
        "method": config.backend,
        "config": asdict(config),
        "frames": last["frames"],
        "width": state.centroids.shape[1],
        "inertia": last["inertia"],
        "heldout_inertia": heldout_inertia,
        "perplexity": used,
        "usage": used / len(sizes),
        "dead": (sizes == 0).nonzero()[:, 0].tolist(),
        "duplicates": duplicates(state.centroids.cpu(), DUPLICATE * last["inertia"] ** 0.5),
        "cluster_sizes": sizes.tolist(),
        "history": list(state.history),
    }


def health_of_streams(
    method: str, reports: list[dict[str, Any]], inertia: float, heldout_inertia: float | None
) -> dict[str, Any]:
    """The health report of several codebooks that quantize one frame together.

    Args:
        method: name of the quantizer.
        reports: of each stream.
        inertia: mean squared distance of a frame to what all streams stand for.
        heldout_inertia: the same for frames that were held out.
    """
    return {
        "method": method,
        "inertia": inertia,
        "heldout_inertia": heldout_inertia,
        "perplexity": [report["perplexity"] for report in reports],
        "streams": reports,
    }


def perplexity(sizes: torch.Tensor) -> float:
    """exp of the entropy of the clusters' shares: K where all are equal, 1 where one has every frame."""
    shares = sizes[sizes > 0].double() / sizes.sum()
    return float((shares * shares.log()).sum().neg().exp())


def duplicates(centroids: torch.Tensor, distance: float) -> list[list[int]]:
    """Pairs [i, j], i < j, of centroids at most `distance` apart."""
    rounding = float(centroids.norm(dim=1).max()) * 1e-3  # of distances by way of a float32 matrix product
    pairs = []
    for start in range(0, len(centroids), BLOCK_CENTROIDS):
        rough = torch.cdist(centroids[start : start + BLOCK_CENTROIDS], centroids)
        for i, j in (rough <= distance + rounding).nonzero().tolist():
            apart = (centroids[start + i].double() - centroids[j].double()).norm()
            if start + i < j and apart <= distance:
                pairs.append([start + i, j])
    return pairs
