"""Product quantization after a rotation that is learned for it (OPQ, Ge et al. 2013).

Streams of plain PQ are neighbouring dimensions, which may carry very different amounts of information and depend on
each other. The rotation begins with principal components, shared out so that all streams have about the same product
of variances, and is then improved by turns with the codebooks, each exact while the other stays.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import torch as safetensors

from voxtok.manifests.codebook import Codebook
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import write_bytes
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.frames import ArrayFrames, FrameSource, MappedFrames
from voxtok.tokenize.kmeans_state import KMeansConfig
from voxtok.tokenize.lloyd import tally
from voxtok.tokenize.pq import fit_pq, group_width
from voxtok.tokenize.sample import draw_sample
from voxtok.tokenize.seeding import greedy_seeds

log = logging.getLogger("voxtok")

TURNS = 12
SAMPLE_PER_TOKEN = 64
"""Frames per token of a stream that the rotation is learned from."""


class RotatedProduct:
    """One stream for each group of rotated dimensions, written in the original ones.

    A centroid c of the group with rotation columns R is the vector R c: the nearest of those to a frame x is that of
    the nearest c to R'x, since R'R = 1. So frames are never rotated, and no label depends on the rounding of that.
    """

    def __init__(self, vectors: torch.Tensor, device: torch.device) -> None:
        streams, vocab_size, width = vectors.shape
        self.vocab_sizes: tuple[int, ...] = (vocab_size,) * streams
        self.width = width
        self._streams = [Assigner(one, device) for one in vectors]

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """See Quantizer."""
        return torch.stack([one.labels(frames) for one in self._streams], dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """See Quantizer."""
        vectors = torch.zeros(len(codes), self.width, device=codes.device)
        for one, labels in zip(self._streams, codes.T, strict=True):
            vectors += one.centroids[labels]
        return vectors


def open_opq(codebook: Codebook, device: torch.device) -> RotatedProduct:
    """The quantizer of a codebook of kind opq: vectors (streams, K, D)."""
    return RotatedProduct(torch.from_numpy(codebook.arrays["vectors"]), device)


def fit_opq(
    source: FrameSource,
    config: KMeansConfig,
    streams: int,
    ranks: Ranks,
    device: torch.device,
    checkpoint: Path | None = None,
    heldout: FrameSource | None = None,
) -> tuple[Codebook, dict[str, Any]]:
    """Learn a rotation on a sample, then fit PQ to all rotated frames; arguments and errors as in `fit_pq`."""
    group = group_width(source.width, streams)
    path = None if checkpoint is None else checkpoint / "rotation"
    rotation = _rotation(source, config, streams, ranks, device, path)

    def rotated(frames: torch.Tensor) -> torch.Tensor:
        return frames.to(device=device, dtype=torch.float32) @ rotation

    codebook, health = fit_pq(
        MappedFrames(source, source.width, rotated),
        config,
        streams,
        ranks,
        device,
        checkpoint,
        None if heldout is None else MappedFrames(heldout, source.width, rotated),
    )
    centroids = torch.from_numpy(codebook.arrays["centroids"]).double()  # (streams, K, group)
    columns = rotation.double().cpu().T.reshape(streams, group, source.width)
    vectors = torch.bmm(centroids, columns).float().numpy()
    return Codebook("opq", {}, {"vectors": vectors}), {**health, "method": "opq"}


def _rotation(
    source: FrameSource,
    config: KMeansConfig,
    streams: int,
    ranks: Ranks,
    device: torch.device,
    path: Path | None,
) -> torch.Tensor:
    """(D, D) rotation, learned on the first rank and kept at `path`."""
    known = path is not None and path.exists()
    if max(int(one) for one in ranks.all_gather(torch.tensor([int(known)], device=device))):
        rotation = torch.empty(source.width, source.width, device=device)
        if ranks.is_first and path is not None:
            rotation = safetensors.load(path.read_bytes())["rotation"].to(device)
        return ranks.broadcast(rotation)
    count = config.vocab_size * SAMPLE_PER_TOKEN
    sample = draw_sample(source, count, torch.float32, ranks, device)
    if sample.num_seen < config.vocab_size:
        raise ConfigError(f"{sample.num_seen} frames cannot make {config.vocab_size} centroids: lower vocab-size")
    rotation = torch.empty(source.width, source.width, device=device)
    if ranks.is_first:
        rotation = learn_rotation(sample.frames.to(device), streams, config.vocab_size, config.seed)
        if path is not None:
            write_bytes(path, safetensors.save({"rotation": rotation.cpu()}))
    return ranks.broadcast(rotation)


def learn_rotation(frames: torch.Tensor, streams: int, vocab_size: int, seed: int) -> torch.Tensor:
    """The (D, D) rotation R after which product quantization of (N, D) frames errs least; frames @ R are rotated."""
    frames = frames - frames.mean(0)  # k-means does not mind where the origin is, and rounding does
    rotation = shared_components(frames, streams)
    group = frames.shape[1] // streams
    generator = torch.Generator(frames.device).manual_seed(seed)
    start = (frames @ rotation).split(group, dim=1)
    centroids = [part[greedy_seeds(part.contiguous(), vocab_size, generator)] for part in start]
    best, least = rotation, float("inf")
    for turn in range(TURNS):
        decoded, error = [], 0.0
        for stream, part in enumerate((frames @ rotation).split(group, dim=1)):
            assigner = Assigner(centroids[stream])
            result = tally(ArrayFrames(part.contiguous(), seed).chunks(), assigner, Ranks())
            centroids[stream] = result.repaired_means()
            error += result.inertia
            decoded.append(result.means()[assigner.labels(part)])
        log.info("rotation, turn %d: error %.6g", turn, error)
        if error < least:
            best, least = rotation, error
        left, _, right = torch.linalg.svd(frames.double().T @ torch.cat(decoded, dim=1).double())
        rotation = (left @ right).float()
    return best


def shared_components(frames: torch.Tensor, streams: int) -> torch.Tensor:
    """Principal components of (N, D) frames as columns (D, D), ordered by stream."""
    centred = frames.double() - frames.double().mean(0)
    variances, components = torch.linalg.eigh(centred.T @ centred / len(frames))
    order = [index for stream in allocation(variances.tolist(), streams) for index in stream]
    shared: torch.Tensor = components[:, order].float().contiguous()
    return shared


def allocation(variances: list[float], streams: int) -> list[list[int]]:
    """Which components each stream gets: the largest left goes where the product of variances is least.

    Worked: 8, 4, 2, 1 in two streams: 8 | 4, then 2 goes to the second (product 4 < 8), and 1 to the first.
    """
    largest = max(max(variances), 1e-30)
    logs = np.log(np.maximum(variances, 1e-12 * largest) / (1e-12 * largest))
    found: list[list[int]] = [[] for _ in range(streams)]
    products = [0.0] * streams
    room = len(variances) // streams
    for index in np.argsort(-logs, kind="stable").tolist():
        stream = min((i for i in range(streams) if len(found[i]) < room), key=lambda i: products[i])
        found[stream].append(index)
        products[stream] += float(logs[index])
    return found
