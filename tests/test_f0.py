"""Pitch of signals whose pitch is known."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtok.vocoder.f0 import _normalised_difference, pitch

RATE, HOP = 16000, 320


def harmonics(f0_hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Ten harmonics of falling strength at a pitch given for every sample."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE
    summed: npt.NDArray[np.float64] = np.stack([np.cos(k * phase) / k for k in range(1, 11)]).sum(axis=0)
    return (0.1 * summed).astype(np.float32)


@settings(deadline=None, max_examples=15)
@given(st.floats(65, 400))
def test_a_steady_pitch(f0_hz: float) -> None:
    found = pitch(harmonics(np.full(RATE, f0_hz)), RATE, HOP, 50)
    np.testing.assert_allclose(found[2:-2], f0_hz, rtol=0.01)


def test_a_gliding_pitch_at_the_centres_of_frames() -> None:
    glide = np.linspace(100, 200, RATE)
    found = pitch(harmonics(glide), RATE, HOP, 50)
    np.testing.assert_allclose(found[2:-2], glide[HOP // 2 :: HOP][2:-2], rtol=0.015)


def test_noise_and_silence_have_none() -> None:
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    voiced = harmonics(np.full(RATE, 150.0))
    found = pitch(np.concatenate([noise * 0.1, voiced, np.zeros(RATE, dtype=np.float32)]), RATE, HOP, 150)
    assert (found[:48] > 0).mean() < 0.05
    assert (found[52:98] > 0).all()
    assert (found[102:] == 0).all()
    assert (pitch(np.zeros(RATE, dtype=np.float32), RATE, HOP, 50) == 0).all()


@pytest.mark.parametrize("count", [1, 10, 400])
def test_as_many_frames_as_asked_for(count: int) -> None:
    assert pitch(harmonics(np.full(1000, 100.0)), RATE, HOP, count).shape == (count,)


def test_the_difference_function_is_that_of_the_paper() -> None:
    """Equations 6 and 8 of de Cheveigné and Kawahara, as loops."""
    import torch

    frame = np.random.default_rng(1).normal(size=60)
    length, lags = 40, 20
    plain = [sum((frame[t] - frame[t + lag]) ** 2 for t in range(length)) for lag in range(lags)]
    expected = [1.0] + [plain[lag] / (sum(plain[1 : lag + 1]) / lag) for lag in range(1, lags)]
    found = _normalised_difference(torch.from_numpy(frame)[None], length, lags)[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
