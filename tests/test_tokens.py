"""Token sequences: dedup and expand are exact inverses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtok.manifests.tokens import TokenSequence, smallest_dtype
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
