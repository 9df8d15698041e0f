"""The codebook of a sample: seeding, nested Lloyd steps and exchanges among leading components, then Lloyd in full.

Nearly all that separates centroids lies in a few hundred principal components, and a small sample finds their places:
the thousands of cheap steps are made here, and passes over everything only polish the result.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.frames import CHUNK_FRAMES, Chunk
from voxtok.tokenize.kmeans_state import KMeansConfig, State
from voxtok.tokenize.lloyd import Tally, tally, tally_array
from voxtok.tokenize.sample import Sample
from voxtok.tokenize.seeding import greedy_seeds
from voxtok.tokenize.split_merge import exchange

COMPONENTS = 128
"""Principal components that the steps before `polish` see."""
SEED_COMPONENTS = 32
"""Those that seeding sees."""
PCA_FRAMES = 10
"""Frames per dimension that the components are computed from."""
SEED_SHARE = 1 / 8
"""Share of the sample that seeding chooses from."""
SEED_LLOYD = ((1 / 16, 4), (1 / 4, 3))
"""Lloyd steps of a restart: shares of the sample, and steps on it at most."""
EXCHANGED = 0.3
"""Share of the centroids that the first exchange may move."""
EXCHANGE_SHARES = (1 / 4, 1 / 2, 1.0)
"""Shares of the sample that the first, middle and last exchanges are judged on."""
SEED_TOLERANCE, LLOYD_TOLERANCE = 2e-3, 5e-4
"""Steps end when one lowers the inertia by less than this share."""
PROJECTED_FRAMES = 1024
LLOYD_STEPS = 3
"""Lloyd steps on the whole sample at most, among components and again in full."""


class SampleFit:
    """Fits centroids to a sample held in memory, one step at a time.

    Args:
        sample: its frames, any float type, and their random order, whose prefixes are smaller samples.
        config: what to fit.
        device: where the work is done.
    """

    def __init__(self, sample: Sample, config: KMeansConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._frames = sample.frames
        few = sample.order[: max(PCA_FRAMES * sample.frames.shape[1], 1024)]
        first = sample.frames.index_select(0, few).to(device=device, dtype=torch.float32)
        self._mean = first.double().mean(0).float()
        first = first - self._mean
        directions = torch.linalg.eigh(first.T @ first / len(first))[1].flip(1)
        self._components = directions[:, :COMPONENTS].contiguous()  # (D, C)
        self._projected = torch.empty(len(sample.order), self._components.shape[1], device=device)  # (n, C), in order
        self._outside = self._project(sample.order)

    def _project(self, order: torch.Tensor) -> float:
        """Fill in the projected frames; returns the mean squared distance to them, which components cannot lower."""
        outside = 0.0
        for start in range(0, len(order), PROJECTED_FRAMES):
            block = slice(start, start + PROJECTED_FRAMES)
            frames = (
                self._frames.index_select(0, order[block]).to(device=self._device, dtype=torch.float32) - self._mean
            )
            torch.mm(frames, self._components, out=self._projected[block])
            outside += float(torch.linalg.vector_norm(frames, dtype=torch.float64)) ** 2
        self._squares = torch.linalg.vector_norm(self._projected, dim=1).square_()  # (n,)
        return max(outside - float(self._squares.sum(dtype=torch.float64)), 0.0) / len(self._frames)

    def advance(self, state: State) -> State:
        """Make one step; the phase after the last one is `pass`. A step depends on nothing but the state."""
        match state.phase:
            case "seed":
                return self._seed(state)
            case "exchange":
                return self._exchange(state)
            case "sample":
                return self._sample(state)
            case _:
                return self._polish(state)

    def _seed(self, state: State) -> State:
        """One restart: the best of them goes on."""
        config = self._config
        generator = torch.Generator(self._device).manual_seed(_seed_of(config.seed, state.iteration))
        candidates = self._projected[: self._count(SEED_SHARE), :SEED_COMPONENTS]
        centroids = self._projected[greedy_seeds(candidates, config.vocab_size, generator)]
        for share, most in SEED_LLOYD:
            before = math.inf
            for _ in range(most):
                result, _ = self._tally(share, centroids)
                if before - result.inertia < SEED_TOLERANCE * result.inertia:
                    break
                before, centroids = result.inertia, result.repaired_means()
        state = state.noted(result.num_frames, result.inertia + self._outside)
        if result.inertia < state.inertia:
            state = replace(state, centroids=centroids, inertia=result.inertia)
        if state.iteration < config.restarts:
            return state
        return state.entering("exchange")

    def _exchange(self, state: State) -> State:
        """A Lloyd step, and exchanges of ever fewer centroids on ever more of the sample: annealing, in effect."""
        most, rounds = self._config.vocab_size * EXCHANGED, self._config.exchanges
        if state.iteration == rounds or self._config.vocab_size < 3:
            return state.entering("sample")
        share = EXCHANGE_SHARES[state.iteration * len(EXCHANGE_SHARES) // rounds]
        result, labels = self._tally(share, state.centroids)
        frames = self._projected[: len(labels)]
        centroids = exchange(frames, labels, result, max(1, round(most * (1 - state.iteration / rounds))))
        return replace(state.noted(result.num_frames, result.inertia + self._outside), centroids=centroids)

    def _sample(self, state: State) -> State:
        """A Lloyd step among components; the last one leaves them."""
        result, _ = self._tally(1.0, state.centroids)
        settled = _settled(state, result)
        state = state.noted(result.num_frames, result.inertia + self._outside)
        state = replace(state, centroids=result.repaired_means(), inertia=result.inertia)
        if not settled:
            return state
        return replace(state, centroids=state.centroids @ self._components.T + self._mean).entering("polish")

    def _polish(self, state: State) -> State:
        """A Lloyd step of whole frames."""
        result = tally(_chunks(self._frames), Assigner(state.centroids, self._device), Ranks())
        settled = _settled(state, result)
        state = state.noted(result.num_frames, result.inertia)
        state = replace(state, centroids=result.repaired_means(), sizes=result.counts, inertia=result.inertia)
        return state.entering("pass") if settled else state

    def _tally(self, share: float, centroids: torch.Tensor) -> tuple[Tally, torch.Tensor]:
        """Of a share of the sample, among components."""
        count = self._count(share)
        return tally_array(self._projected[:count], self._squares[:count], centroids)

    def _count(self, share: float) -> int:
        return min(len(self._projected), max(self._config.vocab_size, math.ceil(share * len(self._projected))))


def _settled(state: State, result: Tally) -> bool:
    gain = state.inertia - result.inertia
    return gain < LLOYD_TOLERANCE * result.inertia or state.iteration + 1 == LLOYD_STEPS


def _chunks(frames: torch.Tensor) -> Iterator[Chunk]:
    for start in range(0, len(frames), CHUNK_FRAMES):
        part = frames[start : start + CHUNK_FRAMES]
        yield Chunk(part, torch.arange(start, start + len(part)))


def _seed_of(seed: int, restart: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {restart}".encode()).digest()[:8]) >> 1
