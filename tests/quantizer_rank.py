"""One of two processes that fit quantizers together; apart from the tests, so that it starts quickly."""

import os
from pathlib import Path

import numpy as np
import torch

from voxtok.runtime.distributed import connected_ranks
from voxtok.tokenize.fit_codebook import QuantizerConfig, fit_codebook
from voxtok.tokenize.frames import ArrayFrames

CONFIGS = [
    QuantizerConfig(quantizer="rvq", vocab_size=12, streams=2),
    QuantizerConfig(quantizer="pq", vocab_size=12, streams=2),
    QuantizerConfig(quantizer="opq", vocab_size=12, streams=2),
    QuantizerConfig(quantizer="random-projection", vocab_size=20, streams=2),
]


def fit_as_rank(rank: int, folder: Path, cut: int) -> None:
    """Fit every kind to frames.npy, cut in two at `cut`, and save the codebooks."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = (folder / "port").read_text()
    torch.set_num_threads(1)
    frames = np.load(folder / "frames.npy")
    source = ArrayFrames(frames[:cut], 0, 0) if rank == 0 else ArrayFrames(frames[cut:], 0, cut)
    with connected_ranks() as ranks:
        for config in CONFIGS:
            codebook, _ = fit_codebook(source, config, ranks, torch.device("cpu"), folder / config.quantizer)
            codebook.save(folder / f"{config.quantizer}{rank}.safetensors")
