"""Token sequences: dedup and expand are exact inverses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtok.manifests.tokens import TokenSequence, concatenate, smallest_dtype, stack_streams
from voxtok.runtime.errors import ConfigError


def sequence(codes: list[list[int]], streams: int = 1) -> TokenSequence:
    return TokenSequence(np.array(codes, dtype=np.uint16).reshape(-1, streams), 50.0, "f")


def test_dedup_worked_by_hand() -> None:
    """5 5 5 2 2 9 -> 5 2 9 lasting 3 2 1 frames; six frames at 50 Hz are 0.12 s before and after."""
    merged = sequence([[5], [5], [5], [2], [2], [9]]).dedup()
    assert merged.codes[:, 0].tolist() == [5, 2, 9]
    assert merged.durations is not None and merged.durations.tolist() == [3, 2, 1]
    assert merged.duration_s == pytest.approx(0.12)


def test_rows_merge_only_where_all_streams_agree() -> None:
    merged = sequence([[1, 2], [1, 2], [1, 3], [1, 3]], streams=2).dedup()
    assert merged.codes.tolist() == [[1, 2], [1, 3]]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1))))
def test_expand_undoes_dedup(rows: list[tuple[int, int]]) -> None:
    tokens = sequence([list(row) for row in rows], streams=2)
    merged = tokens.dedup()
    assert np.array_equal(merged.expand().codes, tokens.codes)
    assert merged.num_frames == len(tokens)
    assert not np.any(np.all(merged.codes[1:] == merged.codes[:-1], axis=1))
    assert np.array_equal(merged.dedup().codes, merged.codes)


@pytest.mark.parametrize(
    ("vocab_size", "name"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_the_smallest_dtype_holds_the_vocabulary(vocab_size: int, name: str) -> None:
    assert smallest_dtype(vocab_size) == np.dtype(name)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ConfigError):
        TokenSequence(np.zeros(3, dtype=np.uint8), 50.0, "f")
    with pytest.raises(ConfigError):
        TokenSequence(np.zeros((3, 1), dtype=np.int64), 50.0, "f")
    with pytest.raises(ConfigError):
        TokenSequence(np.zeros((3, 1), dtype=np.uint8), 50.0, "f", np.ones(2, dtype=np.uint8))


def test_each_stream_merges_by_itself() -> None:
    """Rows (1, 4) (1, 5) (1, 5): the first stream is one token of 3 frames, the second 4 5 of 1 and 2 frames."""
    tokens = sequence([[1, 4], [1, 5], [1, 5]], streams=2)
    first, second = (stream.dedup() for stream in tokens.streams())
    assert first.codes.tolist() == [[1]] and first.durations is not None and first.durations.tolist() == [3]
    assert second.codes.tolist() == [[4], [5]] and second.spans().tolist() == [[0, 1], [1, 3]]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 3))), st.booleans())
def test_stacking_undoes_merging_by_stream(rows: list[tuple[int, int, int]], merged: bool) -> None:
    tokens = sequence([list(row) for row in rows], streams=3)
    streams = (tokens.dedup() if merged else tokens).streams()
    assert len(streams) == 3
    assert np.array_equal(stack_streams([stream.dedup() for stream in streams]).codes, tokens.codes)


def test_streams_of_different_utterances_are_not_stacked() -> None:
    with pytest.raises(ConfigError, match=r"\[2, 1\] frames"):
        stack_streams([sequence([[1], [1]]).dedup(), sequence([[1]])])
    with pytest.raises(ConfigError):
        stack_streams([])


def test_spans_of_rows() -> None:
    """5 5 5 2 2 9: three frames, then two, then one."""
    tokens = sequence([[5], [5], [5], [2], [2], [9]])
    assert tokens.spans().tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6]]
    assert tokens.dedup().spans().tolist() == [[0, 3], [3, 5], [5, 6]]
    assert sequence([]).dedup().spans().shape == (0, 2)


def test_parts_are_concatenated_as_they_are() -> None:
    long = sequence([[3]] * 300).dedup()
    joined = concatenate([sequence([[1], [3]]).dedup(), long])
    assert joined.codes[:, 0].tolist() == [1, 3, 3]
    assert joined.durations is not None and joined.durations.tolist() == [1, 1, 300]
    with pytest.raises(ConfigError):
        concatenate([sequence([[1]]), sequence([[1]]).dedup()])
