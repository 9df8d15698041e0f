"""One of two processes that fit k-means together; apart from the tests, so that it starts quickly."""

import os
from pathlib import Path

import numpy as np
import torch

from voxtok.runtime.distributed import connected_ranks
from voxtok.tokenize.frame_cache import CachedFrames, cached
from voxtok.tokenize.frames import ArrayFrames
from voxtok.tokenize.kmeans import KMeansConfig, fit_kmeans

CONFIG = KMeansConfig(vocab_size=40, sample_per_centroid=50, exchanges=3)


def bounded(frames: np.ndarray, start: int) -> CachedFrames:
    """A cache that holds 3850 frames of 160 float32."""
    return cached(ArrayFrames(frames, 0, start), "memory", torch.float32, 2_500_000)


def fit_as_rank(rank: int, folder: Path, cut: int) -> None:
    """Fit to frames.npy, cut in two at `cut`, and save the centroids and the inertia."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = (folder / "port").read_text()
    torch.set_num_threads(1)
    frames = np.load(folder / "frames.npy")
    share, start = (frames[:cut], 0) if rank == 0 else (frames[cut:], cut)
    with connected_ranks() as ranks:
        heldout = ArrayFrames(share[:100], 0, start)
        result = fit_kmeans(bounded(share, start), CONFIG, ranks, torch.device("cpu"), folder / "state", heldout)
    np.save(folder / f"centroids{rank}.npy", result.centroids.numpy())
    (folder / f"inertia{rank}.txt").write_text(str(result.report["inertia"]))
