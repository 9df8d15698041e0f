"""Windows of long recordings, and the words of all of them."""

from itertools import pairwise

import pytest

from voxtok.asr.alignment import Word
from voxtok.asr.long_audio import Window, joined, pause, plan


def test_spans_cover_everything_once_beside_their_overlaps() -> None:
    assert plan(25, 10, 2) == [(0, 10), (8, 18), (16, 25)]
    assert plan(10, 10, 2) == [(0, 10)] and plan(11, 10, 2) == [(0, 10), (8, 11)]
    for length in range(1, 60):
        spans = plan(length, 10, 3)
        assert spans[0][0] == 0 and spans[-1][1] == length
        for (_, stop), (start, _) in pairwise(spans):
            assert stop - start == 3


def test_windows_part_in_the_longest_pause() -> None:
    assert pause([1.1, 1.7], 1.0, 2.0) == pytest.approx(1.4)
    assert pause([], 1.0, 2.0) == 1.5
    before = Window(0.0, 2.0, (Word("a", 1.0, 1.2, None), Word("b", 1.6, 1.8, None)))
    after = Window(1.0, 3.0, (Word("x", 1.0, 1.2, None), Word("c", 1.6, 1.8, None), Word("d", 2.5, 2.6, None)))
    assert [word.text for word in joined([before, after])] == ["a", "c", "d"]
    assert joined([before, Window(1.0, 3.0, None)]) == [Word("a", 1.0, 1.2, None)]


def test_words_without_times_are_taken_as_spread_evenly() -> None:
    """As where a decoder looped, and wrote more pieces than CTC has frames for."""
    before = Window(0.0, 4.0, tuple(Word(text, None, None, None) for text in "abcd"))
    after = Window(3.0, 6.0, (Word("d", 3.2, 3.6, None), Word("e", 5.0, 5.5, None)))
    assert before.middles_s() == [0.5, 1.5, 2.5, 3.5]
    assert [word.text for word in joined([before, after])] == list("abcde")
