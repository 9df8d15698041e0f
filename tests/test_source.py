"""The harmonic source against sums of cosines, and in chunks."""

import numpy as np
import torch

from voxtok.vocoder.inputs import f0_levels
from voxtok.vocoder.source import HIGHEST, Place, Source, pulse_train

RATE, HOP = 16000, 320


def test_pulses_are_the_sum_of_all_harmonics() -> None:
    """200 Hz has 38 harmonics below 0.475 x 16 kHz, each of amplitude sqrt(2 / 38)."""
    time = np.arange(4000)
    expected = sum(np.cos(2 * np.pi * k * 200 * time / RATE) for k in range(1, 39)) * np.sqrt(2 / 38)
    phase = torch.from_numpy(200 * time / RATE % 1.0)[None]
    found = pulse_train(phase, torch.full((1, 4000), 200.0), RATE)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert abs(found.var() - 1) < 0.05
    assert HIGHEST * RATE / 200 == 38


def test_the_number_of_harmonics_changes_without_a_step() -> None:
    phase = torch.full((1, 2), 0.3, dtype=torch.float64)
    around = HIGHEST * RATE / 40
    below, above = pulse_train(phase, torch.tensor([[around - 1e-3, around + 1e-3]]), RATE)[0].tolist()
    assert abs(below - above) < 1e-3


def test_a_chunk_continues_where_the_recording_was() -> None:
    source = Source(RATE, HOP)
    f0_hz = torch.from_numpy(np.random.default_rng(0).uniform(90, 200, (1, 30)).astype(np.float32))
    voiced = torch.ones(1, 30, dtype=torch.bool)
    pulses, noise = source(f0_hz, voiced, Place())
    phase = source.phase_at(f0_hz, Place(), 10)
    place = Place(first_frame=8, anchor_frame=2, phase=phase)
    part, part_noise = source(f0_hz[:, 8:20], voiced[:, 8:20], place)
    inner = slice(HOP, 11 * HOP)  # interpolation at the outer half frames sees no neighbour
    torch.testing.assert_close(part[:, inner], pulses[:, 8 * HOP : 20 * HOP][:, inner], atol=1e-5, rtol=0)
    torch.testing.assert_close(part_noise, noise[:, 8 * HOP : 20 * HOP])


def test_silence_where_unvoiced() -> None:
    source = Source(RATE, HOP)
    pulses, _ = source(torch.full((1, 5), 100.0), torch.zeros(1, 5, dtype=torch.bool), Place())
    assert pulses.abs().max() == 0


def test_pitch_levels_worked() -> None:
    """The docstring's: 100 Hz is the middle of five levels, 50 Hz at (-1 + 2.5) / 5 = 0.3 is level 2; 0 is unvoiced."""
    norm = torch.tensor([[np.log(100.0), np.log(2.0)]], dtype=torch.float32)
    levels = f0_levels(torch.tensor([[100.0, 50.0, 0.0, 1.0, 1e4]]), norm, 5)
    assert levels.tolist() == [[3, 2, 0, 1, 5]]
