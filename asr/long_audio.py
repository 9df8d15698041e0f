"""Long recordings: windows that overlap, and the words of all of them.

Of two windows that overlap, each gives the words on its side of the longest pause between.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from voxtok.asr.alignment import Word
from voxtok.runtime.errors import ConfigError

LEAST_OVERLAP_S = 1.0
"""A word should fit into it."""


@dataclass(frozen=True, kw_only=True)
class LongAudio:
    """How recordings longer than a window are cut."""

    window_s: float = 30.0
    """Length of a window; shorter recordings are decoded whole."""
    overlap_s: float = 6.0
    """What neighbouring windows share; the pause that divides them is looked for here."""
    batch: int = 8
    """Windows decoded at a time; memory grows with it."""

    def __post_init__(self) -> None:
        if not LEAST_OVERLAP_S <= self.overlap_s <= self.window_s / 2 or self.batch < 1:
            raise ConfigError(
                f"long.overlap-s is between {LEAST_OVERLAP_S} and half of long.window-s, long.batch at least 1"
            )


@dataclass(frozen=True)
class Window:
    """What was heard in a window.

    Attributes:
        start_s: where it begins in the recording.
        stop_s: where it ends.
        words: with times in the recording; None where the search found no path.
    """

    start_s: float
    stop_s: float
    words: tuple[Word, ...] | None

    def middles_s(self) -> list[float]:
        """The time in the middle of each word; words without times are taken as spread evenly over the window."""
        words = self.words or ()
        share_s = (self.stop_s - self.start_s) / max(len(words), 1)
        return [
            self.start_s + (place + 0.5) * share_s
            if word.start_s is None or word.end_s is None
            else (word.start_s + word.end_s) / 2
            for place, word in enumerate(words)
        ]


def plan(length: int, window: int, overlap: int) -> list[tuple[int, int]]:
    """Spans of `length` samples: windows that overlap, the last one as long as what is left.

    Worked: 25 in windows of 10 that overlap by 2 are 0-10, 8-18, 16-25.
    """
    if length <= window:
        return [(0, length)]
    return [(start, min(start + window, length)) for start in range(0, length - overlap, window - overlap)]


def joined(windows: Sequence[Window]) -> list[Word]:
    """The words of a recording from those of its windows, in their order."""
    pauses_s = [pause(before.middles_s(), after.start_s, before.stop_s) for before, after in pairwise(windows)]
    bounds_s = pairwise([-math.inf, *pauses_s, math.inf])
    return [
        word
        for window, (begin_s, end_s) in zip(windows, bounds_s, strict=True)
        for word, middle_s in zip(window.words or (), window.middles_s(), strict=True)
        if begin_s <= middle_s < end_s
    ]


def pause(middles_s: Sequence[float], begin_s: float, end_s: float) -> float:
    """The middle of the longest time between the middles of words, within begin_s .. end_s."""
    points = [begin_s, *(middle_s for middle_s in middles_s if begin_s < middle_s < end_s), end_s]
    before, after = max(pairwise(points), key=lambda pair: pair[1] - pair[0])
    return (before + after) / 2
