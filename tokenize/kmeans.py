"""k-means over frames that need not fit in memory: a codebook of a random sample, polished by passes over everything.

Each rank holds or computes its share of the frames. The first rank fits the sample alone, then all ranks make Lloyd
steps together: sums are float64 and labels exact, so two ranks give the codebook of one rank to rounding.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.frames import FramesBelow, FrameSource
from voxtok.tokenize.kmeans_faiss import fit_faiss
from voxtok.tokenize.kmeans_health import health
from voxtok.tokenize.kmeans_state import (
    KMeansConfig,
    State,
    load_state,
    save_state,
    state_from_bytes,
    state_to_bytes,
)
from voxtok.tokenize.lloyd import tally
from voxtok.tokenize.sample import draw_sample
from voxtok.tokenize.sample_fit import SampleFit

__all__ = ["KMeansConfig", "KMeansResult", "fit_kmeans"]

log = logging.getLogger("voxtok")


@dataclass(frozen=True)
class KMeansResult:
    """A fitted codebook."""

    centroids: torch.Tensor  # (K, D) float32, on the CPU
    report: dict[str, Any]
    """Health of the codebook, JSON; the same bytes whether or not the fit was interrupted."""
    cpu_s: float
    """CPU seconds of this process in this call."""


def fit_kmeans(
    source: FrameSource,
    config: KMeansConfig,
    ranks: Ranks,
    device: torch.device,
    checkpoint: Path | None = None,
    heldout: FrameSource | None = None,
    on_step: Callable[[State], None] | None = None,
) -> KMeansResult:
    """Fit K centroids to the frames of all ranks.

    Args:
        source: this rank's frames.
        config: K, seed, how long to try.
        ranks: the other ranks.
        device: where the work is done, and where ranks talk to each other.
        checkpoint: a file that holds the state after every step; a killed fit goes on there and ends with the same
            bytes, at any number of ranks to rounding.
        heldout: this rank's share of other frames, whose inertia is reported.
        on_step: called on the first rank after every step.

    Raises:
        ConfigError: more centroids than frames, or frames that are not finite.
        CorruptFile: the checkpoint is damaged.
    """
    started_s = time.process_time()
    # What every rank's bound leaves room for: with more, ranks would weigh differently.
    keys = ranks.all_gather(torch.tensor([source.largest_key], device=device))
    source = FramesBelow(source, min(map(int, keys)))

    def done(state: State) -> State:
        if ranks.is_first:
            _log(state)
            if checkpoint is not None:
                save_state(checkpoint, config, state)
            if on_step is not None:
                on_step(state)
        return state

    state = load_state(checkpoint, config) if checkpoint is not None and ranks.is_first else None
    state = _of_first(state or State.initial(), config, ranks, device)
    if state.phase == "seed" and config.backend == "faiss":
        state = done(fit_faiss(source, config, ranks, device))
    if state.phase not in ("pass", "done"):
        state = _fit_sample(source, config, ranks, device, state, done)
    while state.phase == "pass":
        state = done(_pass(source, state, config, ranks, device, heldout))
    error = None if heldout is None else tally(heldout.chunks(), Assigner(state.centroids, device), ranks).inertia
    report = health(state, config, error)
    return KMeansResult(state.centroids.cpu(), report, time.process_time() - started_s)


def _fit_sample(
    source: FrameSource,
    config: KMeansConfig,
    ranks: Ranks,
    device: torch.device,
    state: State,
    done: Callable[[State], State],
) -> State:
    """Draw the sample and fit it, from whatever state; the same sample every time."""
    count = config.vocab_size * config.sample_per_centroid
    dtype = getattr(torch, config.sample_dtype)
    sample = draw_sample(source, count, dtype, ranks, device)
    if sample.num_seen < config.vocab_size:
        raise ConfigError(f"{sample.num_seen} frames cannot make {config.vocab_size} centroids: lower vocab-size")
    if ranks.is_first:
        fit = SampleFit(sample, config, device)
        while state.phase not in ("pass", "done"):
            state = done(fit.advance(state))
    return _of_first(state, config, ranks, device)


def _pass(
    source: FrameSource,
    state: State,
    config: KMeansConfig,
    ranks: Ranks,
    device: torch.device,
    heldout: FrameSource | None,
) -> State:
    """One Lloyd step over all frames of all ranks."""
    assigner = Assigner(state.centroids, device)
    errors = {} if heldout is None else {"heldout_inertia": tally(heldout.chunks(), assigner, ranks).inertia}
    result = tally(source.chunks(), assigner, ranks)
    empty = int((result.counts == 0).sum())
    settled = state.inertia - result.inertia < config.tolerance * result.inertia and not empty
    state = replace(
        state.noted(result.num_frames, result.inertia, **errors), sizes=result.counts, inertia=result.inertia
    )
    if settled or state.iteration == config.passes:
        return replace(state, centroids=result.means()).entering("done")
    return replace(state, centroids=result.repaired_means())


def _of_first(state: State, config: KMeansConfig, ranks: Ranks, device: torch.device) -> State:
    """The first rank's state, on every rank and on the device."""
    if ranks.connected:
        content = torch.frombuffer(bytearray(state_to_bytes(config, state)), dtype=torch.uint8).to(device)
        size = ranks.broadcast(torch.tensor(len(content), device=device))
        content = ranks.broadcast(content if ranks.is_first else content.new_empty(int(size)))
        received = state_from_bytes(content.cpu().numpy().tobytes(), config)
        assert received is not None
        state = received
    return replace(state, centroids=state.centroids.to(device), sizes=state.sizes.to(device))


def _log(state: State) -> None:
    """One line a phase and one a pass over everything; the small steps are for debugging."""
    row = state.history[-1]
    level = logging.INFO if row["phase"] in ("pass", "done") or row["phase"] != state.phase else logging.DEBUG
    log.log(level, "k-means, %s %d: inertia %.6g over %d frames", *(row[key] for key in LOGGED))


LOGGED = ("phase", "iteration", "inertia", "frames")
