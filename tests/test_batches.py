"""Batches: nothing lost, nothing over the bound, little padding, and halves where memory does not hold the whole."""

import gc
import logging
import random
import weakref
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voxtok.runtime.errors import OutOfMemory
from voxtok.tokenize.batches import halve_on_oom, padding_waste, plan_batches

LENGTHS = st.lists(st.integers(1, 1000), max_size=60)


def librispeech_like(num_utterances: int, seed: int) -> list[tuple[int, int]]:
    """Lengths like LibriSpeech's training sets: most at 12-17 s, a tail down to 1.3 s, a few up to 25 s; at 16 kHz."""
    draw = random.Random(seed)
    lengths = []
    for _ in range(num_utterances):
        kind = draw.random()
        if kind < 0.7:
            seconds = min(draw.gauss(14.6, 1.1), 17.0)
        elif kind < 0.995:
            seconds = draw.uniform(1.3, 13.5)
        else:
            seconds = draw.uniform(17.0, 25.0)
        lengths.append(int(16000 * seconds))
    return list(enumerate(lengths))


def test_a_plan_by_hand() -> None:
    """Lengths 3 9 4 10 and 20 in a batch: 9 beside 10 would be 5 % padding, 4 beside 9 more; 3 joins 4, which is small.

    Padded they are 10 + 9 + 2 x 4 = 27, of which 1 is padding.
    """
    sizes = [(0, 3), (1, 9), (2, 4), (3, 10)]
    assert plan_batches(sizes, 20) == [[3], [1], [2, 0]]
    assert padding_waste(sizes, plan_batches(sizes, 20)) == pytest.approx(1 / 27)


def test_a_batch_ends_where_padding_begins() -> None:
    """Of 80, four tens are half; a 9 would add 1 of 50, just 2 %, a second one 2 of 60, which is more."""
    lengths = [10, 10, 10, 10, 9, 9, 9]
    assert plan_batches(list(enumerate(lengths)), 80) == [[0, 1, 2, 3, 4], [5, 6]]
    assert plan_batches(list(enumerate(lengths)), 300) == [[0, 1, 2, 3, 4, 5, 6]], "not yet a quarter full"


@given(LENGTHS, st.integers(1, 3000), st.randoms(use_true_random=False))
def test_every_utterance_is_in_one_batch_within_the_bound(lengths: list[int], bound: int, draw: random.Random) -> None:
    sizes = list(enumerate(lengths))
    batches = plan_batches(sizes, bound)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= bound
    draw.shuffle(sizes)
    assert plan_batches(sizes, bound) == batches


@pytest.mark.parametrize(("num_utterances", "max_batch_s"), [(5000, 240), (1000, 240), (1000, 110)])
@pytest.mark.parametrize("seed", range(5))
def test_padding_is_at_most_one_percent_on_librispeech_lengths(
    seed: int, num_utterances: int, max_batch_s: int
) -> None:
    sizes = librispeech_like(num_utterances, seed)
    batches = plan_batches(sizes, max_batch_s * 16000)
    assert padding_waste(sizes, batches) <= 0.01
    assert len(batches) < 1.35 * sum(length for _, length in sizes) / (max_batch_s * 16000), (
        "batches are far from small"
    )
    unsorted = [list(range(start, start + 8)) for start in range(0, num_utterances, 8)]
    assert padding_waste(sizes, unsorted) > 0.15, "in order, padding would be large"


class Device:
    """Runs batches of numbers, holding at most `room` of them."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.runs: list[int] = []

    def run(self, batch: Sequence[int]) -> list[int]:
        self.runs.append(len(batch))
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore words.")
        return [10 * value for value in batch]


@pytest.mark.parametrize(("room", "runs"), [(7, [7]), (4, [7, 3, 4]), (2, [7, 3, 1, 2, 4, 2, 2])])
def test_a_batch_that_does_not_fit_is_halved(room: int, runs: list[int], caplog: pytest.LogCaptureFixture) -> None:
    device = Device(room)
    with caplog.at_level(logging.WARNING, logger="voxtok"):
        assert halve_on_oom(list(range(7)), device.run) == [0, 10, 20, 30, 40, 50, 60]
    assert device.runs == runs
    assert ("a batch of 7 did not fit in memory: running 3 and 4" in caplog.text) == (room < 7)


def test_one_utterance_that_does_not_fit_names_the_option() -> None:
    with pytest.raises(OutOfMemory, match=r"window_s.*CUDA out of memory\. Tried to allocate 9 GiB\.\)"):
        halve_on_oom([1, 2], Device(0).run)


def test_the_failed_run_holds_no_memory_when_the_halves_run() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def run(batch: Sequence[int]) -> list[int]:
        gc.collect()
        assert not any(tensor() is not None for tensor in held)
        activations = torch.zeros(10)
        held.append(weakref.ref(activations))
        if len(batch) > 1:
            raise torch.OutOfMemoryError
        return list(batch)

    assert halve_on_oom([1, 2, 3], run) == [1, 2, 3]


def test_other_errors_pass() -> None:
    def run(batch: Sequence[int]) -> list[int]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        halve_on_oom([1, 2], run)


def test_a_library_that_cannot_allocate_counts_as_out_of_memory() -> None:
    """cuBLAS and cuFFT raise plain RuntimeErrors."""

    def run(batch: Sequence[int]) -> list[int]:
        if len(batch) > 1:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")
        return list(batch)

    assert halve_on_oom([1, 2], run) == [1, 2]
