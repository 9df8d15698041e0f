"""Patterns for several streams: worked by hand, and each the exact inverse of itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.patterns import Pattern, PatternName

NAMES: tuple[PatternName, ...] = ("parallel", "flattened", "delayed")
FRAMES = np.array([[7, 1], [8, 3], [9, 0]], dtype=np.uint8)


def pattern(name: PatternName, *vocab_sizes: int) -> Pattern:
    return Pattern(name=name, vocab_sizes=vocab_sizes)


def test_worked_by_hand() -> None:
    """Vocabularies of 10 and 4: the second stream starts at 10 where flattened, padding is 10 and 4 where delayed."""
    assert pattern("parallel", 10, 4).arrange(FRAMES).tolist() == FRAMES.tolist()
    assert pattern("flattened", 10, 4).arrange(FRAMES)[:, 0].tolist() == [7, 11, 8, 13, 9, 10]
    assert pattern("delayed", 10, 4).arrange(FRAMES).tolist() == [[7, 4], [8, 1], [9, 3], [10, 0]]


@given(st.sampled_from(NAMES), st.lists(st.integers(1, 300), min_size=1, max_size=5), st.integers(0, 12), st.data())
def test_restore_undoes_arrange(name: PatternName, sizes: list[int], frames: int, data: st.DataObject) -> None:
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    rows = data.draw(st.lists(row, min_size=frames, max_size=frames))
    codes = np.array(rows, dtype=np.uint16).reshape(frames, len(sizes))
    laid = pattern(name, *sizes)
    steps = laid.arrange(codes)
    assert len(steps) == laid.num_steps(frames) and steps.shape[1] == len(laid.step_vocab_sizes)
    assert (steps < np.array(laid.step_vocab_sizes)).all()
    assert np.array_equal(laid.restore(steps), codes)


@given(st.integers(1, 4), st.integers(1, 9), st.data())
def test_a_delayed_stream_is_that_stream_later(streams: int, frames: int, data: st.DataObject) -> None:
    codes = np.array(data.draw(st.lists(st.integers(0, 6), min_size=frames * streams, max_size=frames * streams)))
    codes = codes.reshape(frames, streams)
    steps = pattern("delayed", *[7] * streams).arrange(codes)
    for step in range(len(steps)):
        for stream in range(streams):
            inside = 0 <= step - stream < frames
            assert steps[step, stream] == (codes[step - stream, stream] if inside else 7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "codes", [[[10, 0]], [[0, 4]], [[-1, 0]], [[0]], [[0, 0, 0]], [0, 0], [[0.5, 0.0]]], ids=lambda codes: str(codes)
)
def test_tokens_that_do_not_fit_are_named_errors(name: PatternName, codes: list[object]) -> None:
    with pytest.raises(ConfigError):
        pattern(name, 10, 4).arrange(np.array(codes))


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("flattened", [[7], [11], [8]], "not whole frames"),
        ("flattened", [[7], [8]], "step 1 should be of stream 1, and 8 is not"),
        ("flattened", [[14], [11]], "14 in row 0, column 0 is not below 14"),
        ("delayed", [[7, 1], [10, 3]], "step 0 of stream 1 has a token where padding belongs"),
        ("delayed", [[7, 4], [10, 4]], "step 1 of stream 1 has padding where a token belongs"),
        ("delayed", [[7, 4], [8, 3]], "step 1 of stream 0 has a token where padding belongs"),
        ("delayed", [[7, 4]], "no whole frame"),
        ("delayed", [[7, 5], [10, 1]], "5 in row 0, column 1 is not below 5"),
    ],
)
def test_steps_that_no_tokens_give_are_named_errors(name: PatternName, steps: list[list[int]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pattern(name, 10, 4).restore(np.array(steps))


def test_impossible_patterns_are_named_errors() -> None:
    for vocab_sizes in ((), (5, 0)):
        with pytest.raises(ConfigError, match="vocab_sizes"):
            pattern("delayed", *vocab_sizes)
    with pytest.raises(ConfigError, match="no pattern is called"):
        Pattern(name="delay", vocab_sizes=(5,))  # type: ignore[arg-type]
