"""What goes wrong with spoken sentences."""

import numpy as np
import numpy.typing as npt
import pytest

from tests.toy_lm import FINGERPRINT, RATE_HZ
from voxtok.manifests.tokens import TokenSequence
from voxtok.tts.failures import failure_of, longest_pause_s, loops

RATE = 16000
TEXT = "x" * 30


def sequence(tokens: list[int]) -> TokenSequence:
    return TokenSequence(np.array(tokens, dtype=np.uint8)[:, None], RATE_HZ, FINGERPRINT)


def sound(*parts: float) -> npt.NDArray[np.float32]:
    """Noise for so many seconds, then silence, then noise, ..."""
    rng = np.random.default_rng(0)
    pieces = [rng.normal(scale=1.0 - i % 2, size=round(part * RATE)) for i, part in enumerate(parts)]
    return (0.1 * np.concatenate(pieces)).astype(np.float32)


SPEECH = sequence([i * i % 61 for i in range(150)])


@pytest.mark.parametrize(
    ("tokens", "samples", "expected"),
    [
        (SPEECH, sound(3.0), None),
        (SPEECH, sound(0.99), "early stop"),
        (SPEECH, sound(9.1), "too long"),
        (sequence([*range(20), *list(range(20, 50)) * 4]), sound(3.0), "loop"),
        (SPEECH, sound(1.0, 1.1, 1.0), "silence"),
        (SPEECH, sound(1.0, 0.9, 1.0), None),
        (SPEECH, sound(1.0, 2.0), None),  # silence at the end is no pause
        (SPEECH, np.zeros(3 * RATE, dtype=np.float32), "silence"),
    ],
)
def test_failures(tokens: TokenSequence, samples: npt.NDArray[np.float32], expected: str | None) -> None:
    assert failure_of(TEXT, tokens, samples, RATE) == expected


def test_loops_whatever_the_durations() -> None:
    words = [1, 2, 3, 4, 5, 6, 7]
    slower = [token for token in words for _ in range(5)]
    assert loops(sequence(slower * 2 + words * 2))
    assert loops(sequence(slower * 2 + words * 2).dedup())
    assert not loops(sequence(words * 3))  # for less than a second


def test_pauses() -> None:
    assert longest_pause_s(sound(0.5, 0.4, 0.5, 0.2, 0.5), RATE) == pytest.approx(0.4, abs=0.03)
    assert longest_pause_s(sound(0.5), RATE) == 0.0
    assert longest_pause_s(np.zeros(0, dtype=np.float32), RATE) == 0.0
