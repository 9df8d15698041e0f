"""Usage, perplexity and bitrates against definitions over plain lists."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import reference_quality as reference
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.usage import CodeCounts, Usage, dedup, usage


def measured(utterances: list[list[int]], vocab_size: int, frame_rate_hz: float) -> Usage:
    counts = CodeCounts(vocab_size)
    for codes in utterances:
        counts.add(np.array(codes, dtype=np.uint8))
    found = usage(counts, frame_rate_hz)
    assert found is not None
    return found


def bits(codes: list[int]) -> float:
    return -sum(n / len(codes) * math.log2(n / len(codes)) for n in Counter(codes).values())


def test_worked_by_hand() -> None:
    """0 0 0 1 at 50 Hz, K = 4: half of the vocabulary; 0.811 bits a frame; two tokens of 1 bit in 80 ms after dedup."""
    found = measured([[0, 0, 0, 1]], 4, 50.0)
    assert found.used == 2 and found.usage == 0.5
    assert found.entropy_bits == pytest.approx(0.811, abs=5e-4) and found.perplexity == pytest.approx(1.755, abs=5e-4)
    assert found.bitrate_bps == pytest.approx(40.56, abs=5e-3) and found.bitrate_log2k_bps == 100
    assert found.tokens_per_s == 25 and found.entropy_dedup_bits == 1
    assert (found.bitrate_dedup_bps, found.bitrate_dedup_log2k_bps, found.segment_ms) == (25, 50, 40)


@given(st.lists(st.lists(st.integers(0, 6), max_size=20), min_size=1).filter(lambda found: any(found)))
def test_equal_the_loops(utterances: list[list[int]]) -> None:
    found = measured(utterances, 7, 25.0)
    frames = [code for codes in utterances for code in codes]
    tokens = [code for codes in utterances for code in reference.runs(codes)]
    assert (found.frames, found.tokens, found.used) == (len(frames), len(tokens), len(set(frames)))
    assert found.entropy_bits == pytest.approx(bits(frames)) and found.entropy_dedup_bits == pytest.approx(bits(tokens))
    duration_s = len(frames) / 25
    assert found.bitrate_dedup_bps == pytest.approx(len(tokens) * bits(tokens) / duration_s)
    assert found.bitrate_dedup_log2k_bps == pytest.approx(len(tokens) * math.log2(7) / duration_s)
    assert found.segment_ms == pytest.approx(1000 * duration_s / len(tokens))


@given(st.lists(st.integers(0, 3)))
def test_dedup_equals_the_loop(codes: list[int]) -> None:
    assert dedup(np.array(codes, dtype=np.uint8)).tolist() == reference.runs(codes)


def test_one_token_has_no_information() -> None:
    found = measured([[3, 3, 3]], 8, 50.0)
    assert (found.entropy_bits, found.perplexity, found.bitrate_bps) == (0.0, 1.0, 0.0)


def test_nothing_counted_is_no_score() -> None:
    assert usage(CodeCounts(5), 50.0) is None


def test_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="token 9 is not in a vocabulary of 4"):
        CodeCounts(4).add(np.array([1, 9]))
