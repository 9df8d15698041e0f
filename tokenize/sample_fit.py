"""The codebook of a sample: seeding, nested Lloyd steps and exchanges among leading components, then whole frames.

A small sample finds the places of centroids, and a few components tell them apart: the many steps are made here, where
they are cheap, and passes over everything only polish the result.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.components import Components
from voxtok.tokenize.frames import CHUNK_FRAMES, Chunk
from voxtok.tokenize.kmeans_state import KMeansConfig, State
from voxtok.tokenize.lloyd import Tally, label_sums, tally
from voxtok.tokenize.sample import Sample
from voxtok.tokenize.seeding import greedy_seeds
from voxtok.tokenize.split_merge import exchange

SEED_COMPONENTS = 32
"""Those that seeding sees."""
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
        self._held = sample
        self._components = Components(sample, device)

    def advance(self, state: State) -> State:
        """Make one step; the phase after the last one is `pass`, or `done` where there are no passes.

        A step depends on nothing but the state.
        """
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
        candidates = self._components.frames[: self._count(SEED_SHARE), :SEED_COMPONENTS]
        centroids = self._components.frames[greedy_seeds(candidates, config.vocab_size, generator)]
        for share, most in SEED_LLOYD:
            before = math.inf
            for _ in range(most):
                result, _ = self._tally(share, centroids)
                if before - result.inertia < SEED_TOLERANCE * result.inertia:
                    break
                before, centroids = result.inertia, result.repaired_means()
        state = state.noted(result.num_frames, result.inertia + self._components.outside)
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
        frames = self._components.frames[: len(labels)]
        centroids = exchange(frames, labels, result, max(1, round(most * (1 - state.iteration / rounds))))
        return replace(state.noted(result.num_frames, result.inertia + self._components.outside), centroids=centroids)

    def _sample(self, state: State) -> State:
        """A Lloyd step among components; the last one leaves them."""
        result, labels = self._tally(1.0, state.centroids)
        settled = _settled(state, result)
        state = state.noted(result.num_frames, result.inertia + self._components.outside)
        state = replace(state, centroids=result.repaired_means(), sizes=result.counts, inertia=result.inertia)
        if not settled:
            return state
        whole = replace(state, centroids=self._whole_means(result, labels))
        return whole.entering("pass" if self._config.passes else "polish")

    def _whole_means(self, result: Tally, labels: torch.Tensor) -> torch.Tensor:
        """Means of the whole frames of every label; an empty one goes to the frame that was farthest."""
        unordered = torch.empty_like(labels, device="cpu")
        unordered[self._held.order] = labels.cpu()
        sums = label_sums(self._held.frames, unordered, len(result.counts)).to(self._device)
        means = (sums / result.counts.clamp(min=1)[:, None]).float()
        return torch.where(result.counts[:, None] > 0, means, self._components.whole(result.repaired_means()))

    def _polish(self, state: State) -> State:
        """A Lloyd step of whole frames, where no pass over everything follows."""
        result = tally(_chunks(self._held.frames), Assigner(state.centroids, self._device), Ranks())
        settled = _settled(state, result)
        state = state.noted(result.num_frames, result.inertia)
        state = replace(state, centroids=result.repaired_means(), sizes=result.counts, inertia=result.inertia)
        return state.entering("done") if settled else state

    def _tally(self, share: float, centroids: torch.Tensor) -> tuple[Tally, torch.Tensor]:
        """Of a share of the sample, among components."""
        return self._components.tally(self._count(share), centroids)

    def _count(self, share: float) -> int:
        num_frames = len(self._components.frames)
        return min(num_frames, max(self._config.vocab_size, math.ceil(share * num_frames)))


def _settled(state: State, result: Tally) -> bool:
    gain = state.inertia - result.inertia
    return gain < LLOYD_TOLERANCE * result.inertia or state.iteration + 1 == LLOYD_STEPS


def _chunks(frames: torch.Tensor) -> Iterator[Chunk]:
    for start in range(0, len(frames), CHUNK_FRAMES):
        part = frames[start : start + CHUNK_FRAMES]
        yield Chunk(part, torch.arange(start, start + len(part)))


def _seed_of(seed: int, restart: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {restart}".encode()).digest()[:8]) >> 1
