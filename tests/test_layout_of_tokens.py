"""Tokens as the steps of a language model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_lm import FINGERPRINT, RATE_HZ, toy_layout, toy_tokens
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.patterns import PatternName
from voxtok.tts.layout import IGNORED, Layout, Rows

PATTERNS: list[PatternName] = ["parallel", "flattened", "delayed"]


def written(layout: Layout, steps: np.ndarray) -> TokenSequence:
    count = layout.num_complete(len(steps))
    rows = [layout.row(steps, number) for number in range(count)]
    return layout.tokens_of(np.array(rows, dtype=np.int64).reshape(count, layout.streams))


def same(one: TokenSequence, other: TokenSequence) -> bool:
    durations = (one.durations is None) == (other.durations is None)
    if durations and one.durations is not None and other.durations is not None:
        durations = one.durations.tolist() == other.durations.tolist()
    return durations and one.codes.tolist() == other.codes.tolist()


def test_worked_example() -> None:
    """Tokens 5 5 5 2, timed, at most 2 frames a row, flattened: 5 11 5 10 2 10 and the boundary 12."""
    layout = Layout(
        rows="timed",
        pattern="flattened",
        max_duration_frames=2,
        vocab_sizes=(10,),
        frame_rate_hz=RATE_HZ,
        fingerprint=FINGERPRINT,
        has_durations=False,
        pieces=False,
    )
    tokens = TokenSequence(np.array([[5], [5], [5], [2]], dtype=np.uint8), RATE_HZ, FINGERPRINT)
    assert layout.steps(tokens)[:, 0].tolist() == [5, 11, 5, 10, 2, 10]
    inputs, targets = layout.document(tokens)
    assert inputs[:, 0].tolist() == [12, 5, 11, 5, 10, 2, 10]
    assert targets[:, 0].tolist() == [5, 11, 5, 10, 2, 10, 12]
    assert same(written(layout, layout.steps(tokens)), tokens)


@given(
    num_frames=st.integers(0, 20),
    streams=st.integers(1, 3),
    rows=st.sampled_from(["frames", "timed"]),
    pattern=st.sampled_from(PATTERNS),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_steps_give_the_tokens_back(num_frames: int, streams: int, rows: Rows, pattern: PatternName, seed: int) -> None:
    sizes = (7, 5, 3)[:streams]
    tokens = toy_tokens(num_frames, sizes, seed)
    layout = toy_layout(rows, pattern, sizes)
    assert same(written(layout, layout.steps(tokens)), tokens)
    merged = tokens.dedup()
    if rows == "timed" and num_frames:
        layout = toy_layout(rows, pattern, sizes, has_durations=True)
        assert same(written(layout, layout.steps(merged)), merged)


@given(
    num_frames=st.integers(1, 12),
    streams=st.integers(1, 3),
    rows=st.sampled_from(["frames", "timed", "merged"]),
    pattern=st.sampled_from(PATTERNS),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_a_document_holds_each_token_and_one_end_and_is_allowed(
    num_frames: int, streams: int, rows: Rows, pattern: PatternName, seed: int
) -> None:
    sizes = (7, 5, 3)[:streams]
    layout = toy_layout(rows, pattern, sizes)
    tokens = toy_tokens(num_frames, sizes, seed)
    inputs, targets = layout.document(tokens)
    num_rows = len(layout.rows_of(tokens))
    assert inputs.shape == targets.shape
    assert (targets != IGNORED).sum() == num_rows * layout.streams + 1
    assert inputs[0].tolist() == list(layout.boundaries)
    ended_at = None
    for step, wanted in enumerate(targets):
        masks = layout.allowed(step, None if ended_at is None else step - ended_at)
        for column, value in enumerate(wanted.tolist()):
            if value != IGNORED:
                assert masks[column][value], (step, column, value)
            else:
                assert ended_at is not None or masks[column].sum() == 1 or wanted[0] == layout.boundaries[0]
        if ended_at is None and wanted[0] == layout.may_end(step):
            ended_at = step
    assert ended_at is not None


def test_the_end_of_a_delayed_prompt_is_open() -> None:
    layout = toy_layout("frames", "delayed", (7, 5, 3))
    tokens = TokenSequence(np.array([[1, 2, 0], [3, 4, 2]], dtype=np.uint8), RATE_HZ, FINGERPRINT)
    unknown = IGNORED
    assert layout.prompt(tokens).tolist() == [[1, 5, 3], [3, 2, 3], [unknown, 4, 0], [unknown, unknown, 2]]


def test_bad_layouts_are_named() -> None:
    with pytest.raises(ConfigError, match="merged or subword pieces"):
        toy_layout("frames", has_durations=True)
    with pytest.raises(ConfigError, match="rows are frames, merged or timed"):
        toy_layout("units")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no pattern"):
        toy_layout("frames", "zigzag")  # type: ignore[arg-type]
    pieces = TokenSequence(np.array([[1]], dtype=np.uint8), RATE_HZ, FINGERPRINT, np.array([9], dtype=np.uint8))
    with pytest.raises(ConfigError, match="a piece lasts 9 frames"):
        toy_layout("timed", has_durations=True, pieces=True).steps(pieces)
