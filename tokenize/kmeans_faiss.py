"""The faiss backend: faiss.Kmeans on all frames, which must fit in memory, on the GPU where faiss has one."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.optional import require
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.frames import Chunk, FrameSource
from voxtok.tokenize.kmeans_state import KMeansConfig, State
from voxtok.tokenize.lloyd import tally

STEPS = 25
"""faiss's own default."""


def check_faiss(ranks: Ranks) -> Any:
    """The package faiss.

    Raises:
        MissingPart: it is not installed.
        ConfigError: several ranks.
    """
    if ranks.world_size > 1:
        raise ConfigError("backend faiss runs in one process: start it without torchrun, or use backend voxtok")
    return require("faiss", "faiss")


def fit_faiss(source: FrameSource, config: KMeansConfig, ranks: Ranks, device: torch.device) -> State:
    """The finished state of a fit by faiss.

    Raises:
        MissingPart: faiss is not installed.
        ConfigError: several ranks, more frames than `faiss_gb` holds, fewer than K, or not finite.
    """
    faiss = check_faiss(ranks)
    frames = _all_frames(source, config)
    with_gpu = bool(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else False
    kmeans = faiss.Kmeans(
        source.width,
        config.vocab_size,
        niter=STEPS,
        nredo=config.restarts,
        seed=config.seed % 2**31,
        min_points_per_centroid=1,
        max_points_per_centroid=max(1, len(frames)),
        gpu=with_gpu,
    )
    kmeans.train(frames)
    centroids = torch.from_numpy(np.array(kmeans.centroids)).to(device)
    whole = Chunk(torch.from_numpy(frames), torch.empty(len(frames), dtype=torch.int64))
    result = tally([whole], Assigner(centroids, device), ranks)
    state = replace(State.initial(), centroids=centroids, sizes=result.counts, phase="pass")
    return state.noted(result.num_frames, result.inertia).entering("done")


def _all_frames(source: FrameSource, config: KMeansConfig) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    parts: list[torch.Tensor] = []
    num_bytes = 0
    for chunk in source.chunks():
        num_bytes += 4 * chunk.frames.numel()
        if num_bytes > config.faiss_gb * 1e9:
            raise ConfigError(f"backend faiss holds all frames in memory, here more than faiss-gb = {config.faiss_gb}")
        parts.append(chunk.frames.float())
    num_frames = sum(map(len, parts))
    if num_frames < config.vocab_size:
        raise ConfigError(f"{num_frames} frames cannot make {config.vocab_size} centroids: lower vocab-size")
    frames = torch.cat(parts)
    if not torch.isfinite(frames).all():
        raise ConfigError("frames have NaN or infinite values")
    return frames.numpy()
