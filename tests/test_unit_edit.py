"""Unit edit distance against the recurrence, and augmentations that change what they say and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import reference_quality as reference
from tests.toy_corpus import RATE, toy_speech
from voxtok.tokenize.augment import (
    AUGMENTATIONS,
    Augmentation,
    add_noise,
    augment,
    reverberate,
    shift_pitch,
    stretch_time,
)
from voxtok.tokenize.unit_edit import edits, unit_edit

CODES = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def speech(seed: int = 0, duration_s: float = 1.5) -> torch.Tensor:
    return torch.from_numpy(toy_speech(duration_s, seed)[0])


def tone(frequency_hz: float) -> torch.Tensor:
    return 0.3 * torch.sin(2 * torch.pi * frequency_hz * torch.arange(2 * RATE) / RATE)


def peak_hz(samples: torch.Tensor) -> float:
    spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs()
    return int(spectrum.argmax()) * RATE / len(samples)


def test_worked_by_hand() -> None:
    """1 1 1 2 3 3 -> 1 2 3 and 1 1 4 4 3 -> 1 4 3: one edit over 6 frames, or over 3 tokens."""
    found = unit_edit([(np.array([1, 1, 1, 2, 3, 3]), np.array([1, 1, 4, 4, 3]))])
    assert found is not None
    assert (found.ued, found.token_error_rate, found.utterances) == (1 / 6, 1 / 3, 1)


@given(CODES, CODES)
def test_edits_equal_the_recurrence(clean: list[int], changed: list[int]) -> None:
    expected = reference.edit_distance(reference.runs(clean), reference.runs(changed))
    assert edits(np.array(clean), np.array(changed)) == expected


@given(CODES, st.integers(1, 3))
def test_tempo_alone_is_no_edit(codes: list[int], times: int) -> None:
    assert edits(np.array(codes), np.repeat(codes, times)) == 0


def test_utterances_weigh_the_same_in_ued_and_by_length_in_the_error_rate() -> None:
    pairs = [(np.array([0, 1]), np.array([2, 3])), (np.array([0, 1, 2, 3, 0, 1, 2, 3]),) * 2]
    found = unit_edit(pairs)
    assert found is not None and (found.ued, found.token_error_rate) == (0.5, 2 / 10)
    assert unit_edit([]) is None


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_follow_the_seed(name: Augmentation) -> None:
    samples = speech()
    changed = [augment(samples, RATE, name, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert torch.equal(changed[0], changed[1])
    assert len(changed[0]) != len(changed[2]) or not torch.equal(changed[0], changed[2])
    assert changed[0].dtype == torch.float32 and torch.isfinite(changed[0]).all()
    assert (len(changed[0]) == len(samples)) == (name != "time_stretch")
    shared = min(len(samples), len(changed[0]))
    assert not torch.equal(changed[0][:shared], samples[:shared])
    assert torch.equal(samples, speech())  # untouched


@pytest.mark.parametrize("snr_db", [5.0, 15.0])
def test_noise_has_the_asked_level(snr_db: float) -> None:
    samples = speech()
    noise = add_noise(samples, snr_db, np.random.default_rng(0)) - samples
    found = 10 * torch.log10(samples.square().sum() / noise.square().sum())
    assert float(found) == pytest.approx(snr_db, abs=0.01)


def test_noise_falls_with_frequency() -> None:
    noise = add_noise(speech(), 10.0, np.random.default_rng(0)) - speech()
    power = torch.fft.rfft(noise).abs().square()
    low, high = power[200:400].mean(), power[3200:6400].mean()
    assert float(low / high) == pytest.approx(16, rel=0.3)


def test_reverberation_starts_at_once_and_dies_away() -> None:
    impulse = torch.zeros(RATE)
    impulse[100] = 1
    wet = reverberate(impulse, RATE, 0.5, np.random.default_rng(0))
    assert float(wet[:100].abs().max()) < 1e-6 and float(wet[100]) == pytest.approx(1, abs=1e-5)
    early, late = wet[101:901].square().mean(), wet[4001:4801].square().mean()
    decay_db = float(10 * torch.log10(early / late))
    assert decay_db == pytest.approx(60 * (3900 / RATE) / 0.5, abs=3)


@pytest.mark.parametrize("semitones", [-4, -1, 2, 4])
def test_pitch_moves_and_duration_stays(semitones: int) -> None:
    samples = tone(220)
    shifted = shift_pitch(samples, RATE, semitones)
    assert len(shifted) == len(samples)
    assert peak_hz(shifted) == pytest.approx(220 * 2 ** (semitones / 12), rel=0.005)
    assert float(shifted.std() / samples.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("tempo", [0.8, 1.0, 1.2])
def test_duration_changes_and_pitch_stays(tempo: float) -> None:
    samples = tone(220)
    stretched = stretch_time(samples, RATE, tempo)
    assert len(stretched) == round(len(samples) / tempo)
    assert peak_hz(stretched) == pytest.approx(220, abs=1)
    assert float(stretched.std() / samples.std()) == pytest.approx(1, abs=0.05)


def test_tempo_1_is_the_same_speech() -> None:
    torch.testing.assert_close(stretch_time(speech(), RATE, 1.0), speech(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_samples", [1, 10, 400])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_short_and_silent_audio_passes(name: Augmentation, num_samples: int) -> None:
    for samples in (torch.zeros(num_samples), speech()[:num_samples]):
        assert torch.isfinite(augment(samples, RATE, name, np.random.default_rng(2))).all()
