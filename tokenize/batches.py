"""Utterances of like length in one batch, within a memory bound; and what to do when a batch does not fit after all."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from voxtok.runtime.errors import OutOfMemory

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger("voxtok")


def plan_batches(sizes: Sequence[tuple[int, int]], max_samples: int) -> list[list[int]]:
    """Group utterances so that each batch, padded to its longest, holds at most `max_samples`.

    Utterances are sorted by length first, so padding is small where many are planned at once: at most 1 % on lengths
    like LibriSpeech's for 5,000 utterances in batches of 240 s, or 1,000 in batches of 110 s. Longest first: what does
    not fit in memory shows at once. The plan depends on the set of pairs only, not on their order.

    Args:
        sizes: (index, num_samples) of each utterance; indices are distinct and come back in the batches.
        max_samples: bound on utterances x longest; an utterance above it has a batch of its own.

    Returns:
        Batches of indices; every index is in one. Worked: lengths a 3, b 9, c 4, d 10 with 20 give [[d, b], [c, a]].
    """
    batches: list[list[int]] = []
    longest = 0
    for index, num_samples in sorted(sizes, key=lambda pair: (-pair[1], pair[0])):
        if not batches or (len(batches[-1]) + 1) * longest > max_samples:
            batches.append([])
            longest = num_samples
        batches[-1].append(index)
    return batches


def padding_waste(sizes: Sequence[tuple[int, int]], batches: Sequence[Sequence[int]]) -> float:
    """Share of the padded batches that is padding, 0 .. 1."""
    lengths = dict(sizes)
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return 1 - sum(lengths.values()) / padded


def halve_on_oom(batch: Sequence[T], run: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """Run a batch; if the device's memory does not hold it, say so and run its two halves, in order.

    Args:
        batch: at least one utterance.
        run: gives one result an utterance, which does not depend on the other utterances.

    Raises:
        OutOfMemory: one utterance alone does not fit.
    """
    try:
        return list(run(batch))
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0] if str(error) else "out of memory"
    # Out of the except block the failed run's tensors are no longer held by its traceback.
    torch.cuda.empty_cache()
    if len(batch) == 1:
        raise OutOfMemory(f"one utterance alone does not fit in the device's memory: set window_s, or less ({reason})")
    half = len(batch) // 2
    log.warning("a batch of %d did not fit in memory: running %d and %d", len(batch), half, len(batch) - half)
    return halve_on_oom(batch[:half], run) + halve_on_oom(batch[half:], run)
