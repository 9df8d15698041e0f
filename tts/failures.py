"""What goes wrong with spoken sentences, told from their tokens and sound alone, whatever model made them.

Language models that speak stop early, loop, or fall silent; how often, over a hundred sentences or more, says more of
them than their loss.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from voxtok.manifests.tokens import TokenSequence
from voxtok.tts.stop_rules import StopRules, Watch

Failure = Literal["early stop", "too long", "loop", "silence"]
FAILURES: tuple[Failure, ...] = ("early stop", "too long", "loop", "silence")

MOST_LETTERS_PER_S = 30.0
"""Twice as fast as usual English, which nobody is."""
LEAST_LETTERS_PER_S = 4.0
SLACK_S = 1.5
"""Beyond which a sentence is too long: silence at its ends."""
SILENCE_S = 1.0
"""Longest pause within a sentence."""
SILENCE_DB = 40.0
"""What is this far below the loud parts is silence."""
WINDOW_S = 0.02


def failure_of(
    text: str, tokens: TokenSequence, samples: npt.NDArray[np.float32], sampling_rate: int
) -> Failure | None:
    """What is wrong with a spoken sentence: the first of FAILURES that applies, or None.

    Args:
        text: the sentence; its letters and digits say how long it should be.
        tokens: what was said.
        samples: (T,) how it sounds.
        sampling_rate: of `samples`.

    Worked: 60 letters take from 2 s to 16.5 s.
    """
    letters = sum(letter.isalnum() for letter in text)
    duration_s = len(samples) / sampling_rate
    if duration_s < letters / MOST_LETTERS_PER_S:
        return "early stop"
    if duration_s > letters / LEAST_LETTERS_PER_S + SLACK_S:
        return "too long"
    if loops(tokens):
        return "loop"
    return "silence" if longest_pause_s(samples, sampling_rate) > SILENCE_S else None


def loops(tokens: TokenSequence) -> bool:
    """Whether the same tokens come three times in a row, for 1.5 s together or more (see StopRules)."""
    timed = tokens.dedup()
    assert timed.durations is not None
    watch = Watch(StopRules(max_s=max(timed.duration_s, 1.0) + 1, stuck_tokens=0), tokens.frame_rate_hz)
    rows = zip(timed.codes[:, 0].tolist(), timed.durations.tolist(), strict=True)
    return any(watch.add(token, frames) == "loop" for token, frames in rows)


def longest_pause_s(samples: npt.NDArray[np.float32], sampling_rate: int) -> float:
    """Seconds of the longest silence between sounds; all of it where there is no sound."""
    window = max(round(WINDOW_S * sampling_rate), 1)
    whole = samples[: len(samples) // window * window].reshape(-1, window).astype(np.float64)
    power = np.square(whole).mean(axis=1)
    loud = np.quantile(power, 0.95) if len(power) else 0.0
    if loud <= 0:
        return len(samples) / sampling_rate
    sounds = np.flatnonzero(power > loud * 10 ** (-SILENCE_DB / 10))
    return float(np.diff(sounds).max(initial=1) - 1) * window / sampling_rate
