"""When drawing must stop although the model goes on: an utterance that loops, is stuck, or does not end.

A language model that has said the same thing twice believes in a third time. Such an utterance is cut back to the
first round, and it says why it ended, so that failures can be counted.
"""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from voxtok.runtime.errors import ConfigError

Ended = Literal["end", "length", "loop", "stuck"]
"""end: the model's own end. length: the longest that was allowed. loop, stuck: see StopRules."""

LONGEST_CYCLE = 128
"""Runs of equal tokens in the longest round that is looked for."""


@dataclass(frozen=True, kw_only=True)
class StopRules:
    """When an utterance ends, in seconds of speech; the beginning that was given does not count."""

    max_s: float
    """Longest utterance."""
    min_s: float = 0.0
    """Shortest: the model may not end before."""
    loop_rounds: int = 3
    """Rounds of the same tokens, whatever their durations, that are a loop ..."""
    loop_s: float = 1.5
    """... if they last so long together."""
    stuck_tokens: int = 4
    """Fewer different tokens than this within stuck-s are a silence or a sound that does not end; 0 allows it."""
    stuck_s: float = 2.0
    """See stuck-tokens."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_s < self.max_s:
            raise ConfigError("max-s must be positive, and min-s below it")
        if self.loop_rounds < 2 or self.loop_s < 0:
            raise ConfigError("loop-rounds must be at least 2 and loop-s not negative")
        if self.stuck_tokens < 0 or self.stuck_s <= 0:
            raise ConfigError("stuck-tokens must not be negative, and stuck-s positive")


class Watch:
    """Follows one utterance row by row.

    Attributes:
        frames: of the rows so far.
        kept_rows: how many to keep once `add` has found that the utterance must stop.
    """

    def __init__(self, rules: StopRules, frame_rate_hz: float) -> None:
        self.rules = rules
        self.frames = 0.0
        self.kept_rows = 0
        self._rate = frame_rate_hz
        self._rows = 0
        self._runs: list[int] = []  # tokens
        self._run_rows: list[int] = []  # first row of each
        self._run_begins: list[float] = []  # frames before each
        # How many runs up to the last equal those so many runs before; the first two lengths are no cycles.
        self._equal = np.zeros(LONGEST_CYCLE + 1, dtype=np.int64)
        self._recent: deque[tuple[int, float, int]] = deque()  # token, frame where it ends, row
        self._counts: Counter[int] = Counter()

    def add(self, token: int, frames: float) -> Ended | None:
        """Note the next row's first token and its frames; returns why the utterance must stop, if so."""
        if not self._runs or self._runs[-1] != token:
            self._begin_run(token)
        self.frames += frames
        self._rows += 1
        self._recent.append((token, self.frames, self._rows - 1))
        self._counts[token] += 1
        kept = self._looped()
        if kept is not None:
            self.kept_rows = kept
            return "loop"
        kept = self._stuck()
        if kept is not None:
            self.kept_rows = kept
            return "stuck"
        self.kept_rows = self._rows
        return "length" if self.frames >= self.rules.max_s * self._rate else None

    @property
    def may_end(self) -> bool:
        """Whether the utterance is long enough to end."""
        return self.frames >= self.rules.min_s * self._rate

    def _begin_run(self, token: int) -> None:
        before: npt.NDArray[np.int64] = np.array(self._runs[-1 : -LONGEST_CYCLE - 1 : -1], dtype=np.int64)
        same = np.zeros(LONGEST_CYCLE + 1, dtype=bool)
        same[1 : len(before) + 1] = before == token
        self._equal = np.where(same, self._equal + 1, 0)
        self._runs.append(token)
        self._run_rows.append(self._rows)
        self._run_begins.append(self.frames)

    def _looped(self) -> int | None:
        """Rows up to the end of the first round of a loop, where there is one."""
        cycles = np.arange(LONGEST_CYCLE + 1)
        enough = (self._equal > 0) & (self._equal + cycles >= self.rules.loop_rounds * cycles)
        for cycle in np.flatnonzero(enough).tolist():
            first = len(self._runs) - int(self._equal[cycle]) - cycle
            if self.frames - self._run_begins[first] >= self.rules.loop_s * self._rate:
                return self._run_rows[first + cycle]
        return None

    def _stuck(self) -> int | None:
        """Rows up to a quarter of a stretch of too few different tokens: a pause, not a silence."""
        window = self.rules.stuck_s * self._rate
        while self._recent[0][1] <= self.frames - window:
            gone, _, _ = self._recent.popleft()
            self._counts[gone] -= 1
            if not self._counts[gone]:
                del self._counts[gone]
        if self.frames < window or len(self._counts) >= self.rules.stuck_tokens:
            return None
        quarter = self.frames - 0.75 * window
        return next((row for _, end, row in self._recent if end > quarter), self._rows)
