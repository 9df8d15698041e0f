"""Utterances of like length in one batch, within a memory bound; and what to do when a batch does not fit after all."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from voxtok.runtime.errors import OutOfMemory, one_line

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger("voxtok")

MAX_PADDING = 0.02
MIN_FILL = 0.25


def plan_batches(sizes: Sequence[tuple[int, int]], max_samples: int) -> list[list[int]]:
    """Group utterances so that each batch, padded to its longest, holds at most `max_samples`.

    Utterances are sorted by length first, longest in front: what does not fit in memory shows at once. A batch ends
    when it is full, or when it is a quarter full and the next utterance would make more than 2 % of it padding. On
    lengths like LibriSpeech's and batches of 240 s, padding is then below 1 % where 1,000 utterances are planned at
    once, and 0.3 % with 5,000. The plan depends on the set of pairs only, not on their order.

    Args:
        sizes: (index, num_samples) of each utterance; indices are distinct and come back in the batches.
        max_samples: bound on utterances x longest; an utterance above it has a batch of its own.

    Returns:
        Batches of indices; every index is in one. Worked: lengths a 3, b 9, c 4, d 10 with 20 give [[d], [b], [c, a]].
    """
    batches: list[list[int]] = []
    longest = held = 0  # samples of the open batch: its longest utterance, and all of them
    for index, num_samples in sorted(sizes, key=lambda pair: (-pair[1], pair[0])):
        padded = (len(batches[-1]) + 1) * longest if batches else 0
        wasteful = padded - held - num_samples > MAX_PADDING * padded and padded - longest >= MIN_FILL * max_samples
        if not batches or padded > max_samples or wasteful:
            batches.append([])
            longest, held = num_samples, 0
        batches[-1].append(index)
        held += num_samples
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
    except RuntimeError as error:
        # cuBLAS and cuFFT have no class of their own for it.
        if not isinstance(error, torch.OutOfMemoryError) and "ALLOC_FAILED" not in str(error):
            raise
        reason = one_line(error)
    # Out of the except block the failed run's tensors are no longer held by its traceback.
    torch.cuda.empty_cache()
    if len(batch) == 1:
        raise OutOfMemory(f"one utterance alone does not fit in the device's memory: set window_s, or less ({reason})")
    half = len(batch) // 2
    log.warning("a batch of %d did not fit in memory: running %d and %d", len(batch), half, len(batch) - half)
    return halve_on_oom(batch[:half], run) + halve_on_oom(batch[half:], run)
