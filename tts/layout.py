"""The layout of an utterance's tokens as the steps that a language model reads and writes, and exactly back.

Rows come first: frames as they are, or runs of equal frames merged, with their durations dropped or as one more stream
(as in pGSLM, Kharitonov et al. 2022). Then a pattern turns the streams of a row into steps (tokenize/patterns.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxtok.manifests.tokens import TokenSequence, compact, smallest_dtype
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.patterns import Pattern, PatternName

Rows = Literal["frames", "merged", "timed"]
Steps = npt.NDArray[np.int64]

IGNORED = -1
"""A target that is no decision: it follows from the pattern alone. Also a value of a prompt that is to be drawn."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How tokens of one tokenizer become steps.

    A step has one value a column: the pattern's values, and one above them, the boundary, which begins and ends every
    utterance. Column 0 may have symbols above that: what utterances are conditioned on, such as text.

    Worked: tokens 5 5 5 2, rows timed, at most 2 frames a row: rows 5 5 2 with durations 2 1 1; flattened, with a
    vocabulary of 10 and durations counted from 10: 5 11 5 10 2 10; the boundary is 12.
    """

    rows: Rows
    """frames: a step a frame. merged: runs of equal frames as one, however long. timed: with their durations."""
    pattern: PatternName
    """parallel, flattened or delayed: how the streams of a row, the durations among them, become steps."""
    max_duration_frames: int
    """Longest duration of a row where they are timed; longer runs become several rows."""
    vocab_sizes: tuple[int, ...]
    """Of the tokens' streams."""
    frame_rate_hz: float
    """Of the tokens before merging."""
    fingerprint: str
    """Of their tokenizer."""
    has_durations: bool
    """Whether the tokenizer merges runs, or makes subword pieces of them."""
    pieces: bool
    """Whether tokens are subword pieces, which are never merged or split."""
    mean_frames: float = 1.0
    """Frames of a row on average, where durations are dropped."""

    def __post_init__(self) -> None:
        if self.rows not in ("frames", "merged", "timed"):
            raise ConfigError(f"rows are frames, merged or timed, not {self.rows!r}")
        if self.rows == "frames" and self.has_durations:
            raise ConfigError(
                "these tokens are merged or subword pieces: choose rows merged or timed, "
                "or encode with --dedup false --bpe false"
            )
        if self.rows == "timed" and self.max_duration_frames < 1:
            raise ConfigError("max-duration-frames must be at least 1 where rows are timed")
        self.steps_pattern.step_vocab_sizes  # noqa: B018  raises where the pattern is impossible

    @cached_property
    def steps_pattern(self) -> Pattern:
        """The pattern over tokens and, where timed, durations."""
        durations = (self.max_duration_frames,) if self.rows == "timed" else ()
        return Pattern(name=self.pattern, vocab_sizes=self.vocab_sizes + durations)

    @property
    def streams(self) -> int:
        """Of a row, durations included."""
        return self.steps_pattern.streams

    @cached_property
    def boundaries(self) -> tuple[int, ...]:
        """The boundary of each column: the number above the pattern's values."""
        return self.steps_pattern.step_vocab_sizes

    @property
    def columns(self) -> int:
        """Values of a step."""
        return len(self.boundaries)

    @property
    def tail_steps(self) -> int:
        """Steps that delayed streams take after the last row: the first of them shows that the utterance ends."""
        return self.streams - 1 if self.pattern == "delayed" else 0

    def num_steps(self, num_rows: int) -> int:
        """Steps of so many rows."""
        return self.steps_pattern.num_steps(num_rows)

    def rows_of(self, tokens: TokenSequence) -> Steps:
        """(rows, streams) of an utterance.

        Raises:
            ConfigError: a piece lasts longer than a row may.
        """
        if self.rows == "frames" or (self.rows == "merged" and self.pieces):  # equal pieces in a row stay two
            return tokens.codes.astype(np.int64)
        merged = tokens.dedup()
        codes, durations = merged.codes.astype(np.int64), np.asarray(merged.durations, dtype=np.int64)
        if self.rows == "merged":
            return codes
        if self.pieces and durations.max(initial=0) > self.max_duration_frames:
            raise ConfigError(
                f"a piece lasts {durations.max()} frames: max-duration-frames must be at least as long, "
                "since pieces are not split"
            )
        parts = -(-durations // self.max_duration_frames)  # rows of each run
        frames = np.full(parts.sum(), self.max_duration_frames)
        frames[np.cumsum(parts) - 1] = durations - (parts - 1) * self.max_duration_frames
        return np.concatenate([np.repeat(codes, parts, axis=0), frames[:, None] - 1], axis=1)

    def tokens_of(self, rows: Steps) -> TokenSequence:
        """The inverse of `rows_of`: tokens in their tokenizer's form, without durations where those were dropped."""
        if self.rows == "timed":
            timed = self._sequence(rows[:, :-1], compact(rows[:, -1] + 1))
            if self.pieces:
                return timed
            return timed.expand().dedup() if self.has_durations else timed.expand()
        return self._sequence(rows, None)

    def frames_of(self, row: npt.NDArray[np.int64]) -> float:
        """Frames that one row of streams stands for; about, where durations were dropped."""
        if self.rows == "merged":
            return self.mean_frames
        return float(row[-1]) + 1 if self.rows == "timed" else 1.0

    def steps(self, tokens: TokenSequence) -> Steps:
        """(steps, columns) of an utterance."""
        return self.steps_pattern.arrange(self.rows_of(tokens))

    def num_complete(self, num_steps: int) -> int:
        """Rows that so many steps, of an utterance or its beginning, hold all streams of."""
        if self.pattern == "flattened":
            return num_steps // self.streams
        return max(num_steps - self.tail_steps, 0)

    def row(self, steps: Sequence[npt.NDArray[np.int64]] | Steps, number: int) -> npt.NDArray[np.int64]:
        """(streams,) of one complete row."""
        if self.pattern == "flattened":
            first = np.cumsum([0, *self.steps_pattern.vocab_sizes[:-1]], dtype=np.int64)  # number of each stream
            turn = [steps[number * self.streams + stream][0] for stream in range(self.streams)]
            return np.array(turn, dtype=np.int64) - first
        return np.array([steps[number + late][stream] for stream, late in enumerate(self._delays)], dtype=np.int64)

    def document(self, tokens: TokenSequence) -> tuple[Steps, Steps]:
        """What a model is given and what it should answer: (n, columns) inputs and targets of an utterance.

        Targets that leave no choice are IGNORED, so that what remains are the tokens and one end.
        """
        steps = self.steps(tokens)
        ended = steps if self.tail_steps else np.concatenate([steps, [self.boundaries]])
        targets = ended.copy()
        if self.tail_steps:
            padding = targets == np.array(self.steps_pattern.vocab_sizes)
            padding[len(targets) - self.tail_steps, 0] = False  # the first stream's end is a decision
            targets[padding] = IGNORED
        else:
            targets[-1, 1:] = IGNORED
        return np.concatenate([[self.boundaries], ended[:-1]]), targets

    def prompt(self, tokens: TokenSequence) -> Steps:
        """Steps of an utterance that goes on: what follows from no token yet is IGNORED, to be drawn."""
        rows = self.rows_of(tokens)
        steps = self.steps_pattern.arrange(rows)
        if self.tail_steps:
            for stream, late in enumerate(self._delays):
                steps[len(rows) + late :, stream] = IGNORED
        return steps

    @property
    def _delays(self) -> tuple[int, ...]:
        return tuple(range(self.streams)) if self.tail_steps else (0,) * self.streams

    @lru_cache(maxsize=4096)  # noqa: B019  layouts are few and live as long as the program
    def allowed(self, step: int, since_end: int | None) -> tuple[npt.NDArray[np.bool_], ...]:
        """Which values each column of a step may have, (values of the column,) each.

        Args:
            step: steps of the utterance before it.
            since_end: steps since the first stream ended, itself included; None while it goes on.
        """
        masks = [np.zeros(boundary + 1, dtype=bool) for boundary in self.boundaries]
        sizes = self.steps_pattern.vocab_sizes
        if self.pattern == "flattened":
            turn = step % self.streams
            low = sum(sizes[:turn])
            masks[0][low : low + sizes[turn]] = True
            masks[0][-1] = turn == 0 and step > 0
            return tuple(masks)
        for stream, (mask, late) in enumerate(zip(masks, self._delays, strict=True)):
            begun = step >= late
            over = since_end is not None and since_end >= late
            mask[: sizes[stream]] = begun and not over
            if self.tail_steps:  # the number above the tokens is padding; on the first stream, the end
                mask[sizes[stream]] = not begun or over or (stream == 0 and step > 0)
        if not self.tail_steps:
            masks[0][-1] = step > 0
        return tuple(masks)

    def may_end(self, step: int) -> int | None:
        """The value of column 0 that ends the utterance at a step, where that is allowed."""
        end = self.steps_pattern.vocab_sizes[0] if self.tail_steps else self.boundaries[0]
        return end if self.allowed(step, None)[0][end] else None

    def _sequence(self, codes: Steps, durations: npt.NDArray[Any] | None) -> TokenSequence:
        small = codes.astype(smallest_dtype(max(self.vocab_sizes)))
        return TokenSequence(small, self.frame_rate_hz, self.fingerprint, durations)
