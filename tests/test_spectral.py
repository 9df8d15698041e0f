"""Distances of speech against formulas written out, and on signals whose distance is known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_whisper import save_tiny_whisper
from tests.toy_corpus import toy_speech
from voxtok.runtime.errors import ConfigError
from voxtok.vocoder.intelligibility import load_utmos, load_whisper, pesq, stoi, word_errors
from voxtok.vocoder.mel import MelShape, filters, log_mel, mel_cepstra, quality_shape
from voxtok.vocoder.spectral import compared_pitch, mel_cepstral_distortion, mel_difference, pitch_errors

RATE = 16000
SPEECH = toy_speech(2.0, seed=1)[0]
OTHER = toy_speech(2.0, seed=2)[0]


def test_log_mel_is_the_definition() -> None:
    """One frame in the middle, by a plain Fourier sum."""
    shape = MelShape(RATE, 64, 16, 8)
    signal = np.random.default_rng(0).normal(size=400).astype(np.float32)
    found = log_mel(torch.from_numpy(signal), shape)[10].numpy()
    begin = 10 * 16 - (64 - 16) // 2  # frame i is centred at (i + 1/2) hops
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / 64) for n in range(64)]
    bins = [
        abs(sum(signal[begin + n] * hann[n] * np.exp(-2j * math.pi * k * n / 64) for n in range(64))) for k in range(33)
    ]
    expected = np.log(np.maximum(np.array(bins) @ filters(shape, torch.device("cpu")).numpy(), 1e-5))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert quality_shape(16000) == MelShape(16000, 1024, 256, 80)


def test_cepstra_are_the_cosine_series_of_the_log_spectrum() -> None:
    shape = MelShape(RATE, 512, 160, 40)
    logs = log_mel(torch.from_numpy(SPEECH), shape).double().numpy()
    all_but_first = mel_cepstra(torch.from_numpy(SPEECH), shape, 39).numpy()
    angles = np.pi / 40 * (np.arange(40) + 0.5)
    terms = np.stack([all_but_first[:, [k - 1]] * np.cos(k * angles) for k in range(1, 40)])
    np.testing.assert_allclose(logs.mean(axis=1, keepdims=True) + 2 * terms.sum(axis=0), logs, atol=1e-6)


def test_mcd_is_the_formula() -> None:
    shape = quality_shape(RATE)
    a, b = (2 * mel_cepstra(torch.from_numpy(samples), shape, 24).numpy() for samples in (SPEECH, OTHER))
    per_frame = [
        10 / math.log(10) * math.sqrt(2 * sum((x - y) ** 2 for x, y in zip(row_a, row_b, strict=True)))
        for row_a, row_b in zip(a, b, strict=True)
    ]
    assert mel_cepstral_distortion(SPEECH, OTHER, RATE, aligned=True) == pytest.approx(np.mean(per_frame), rel=1e-4)


def test_warping_forgives_a_delay_and_loudness_costs_nothing() -> None:
    late = np.concatenate([np.zeros(3200, dtype=np.float32), SPEECH])
    aligned = mel_cepstral_distortion(SPEECH, late, RATE, aligned=True)
    warped = mel_cepstral_distortion(SPEECH, late, RATE, aligned=False)
    assert warped < 0.5 * aligned
    assert mel_cepstral_distortion(SPEECH, SPEECH, RATE, aligned=False) == pytest.approx(0, abs=1e-6)
    assert mel_cepstral_distortion(SPEECH, SPEECH * 0.5, RATE, aligned=True) < 0.1
    assert mel_difference(SPEECH, SPEECH * 0.5, RATE) == pytest.approx(math.log(2), rel=0.01)
    with pytest.raises(ConfigError, match="empty"):
        mel_difference(SPEECH, SPEECH[:0], RATE)


def test_pitch_errors_worked() -> None:
    """The docstring's: 100 200 0 0 against 100 100 100 0."""
    found = compared_pitch(np.array([100, 200, 0, 0], np.float32), np.array([100, 100, 100, 0], np.float32))
    assert found.log_f0_rmse == pytest.approx(math.log(2) / math.sqrt(2))
    assert found.voicing_error == 0.25
    silent = np.zeros(RATE, dtype=np.float32)
    assert pitch_errors(silent, silent, RATE).log_f0_rmse is None
    assert pitch_errors(SPEECH, SPEECH, RATE).voicing_error == 0


def test_stoi_and_pesq_fall_with_noise() -> None:
    pytest.importorskip("pystoi")
    rng = np.random.default_rng(0)
    noisy = [SPEECH + level * rng.normal(size=len(SPEECH)).astype(np.float32) for level in (0.001, 1.0)]
    good, bad = (stoi(SPEECH, one, RATE) for one in noisy)
    assert good is not None and bad is not None and good > 0.95 > bad
    assert stoi(SPEECH[:1000], SPEECH[:1000], RATE) is None
    assert stoi(SPEECH[:320], SPEECH[:320], RATE) is None, "one token"
    pytest.importorskip("pesq")
    good, bad = (pesq(SPEECH, one, RATE) for one in noisy)
    assert good is not None and bad is not None and good > bad
    assert pesq(SPEECH[:100], SPEECH[:100], RATE) is None


def test_word_errors_worked() -> None:
    assert word_errors("Ask her.", "ask him") == (1, 2)
    assert word_errors("don't", "DON'T!") == (0, 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of TorchScript
def test_models_of_the_users_own(tmp_path: Path) -> None:
    folder = tmp_path

    class Mean(torch.nn.Module):
        def forward(self, samples: torch.Tensor, rate: int) -> torch.Tensor:
            return samples.mean(dim=1) + rate

    torch.jit.script(Mean()).save(str(folder / "mos.pt"))
    score = load_utmos(folder / "mos.pt", torch.device("cpu"))
    assert score(np.ones(10, dtype=np.float32), 3) == pytest.approx(4.0)
    (folder / "text.pt").write_text("no model")
    with pytest.raises(ConfigError, match="no TorchScript"):
        load_utmos(folder / "text.pt", torch.device("cpu"))
    with pytest.raises(ConfigError, match="no Whisper"):
        load_whisper(folder, torch.device("cpu"))


def test_whisper_hears_all_of_a_long_recording(tmp_path: Path) -> None:
    hear = load_whisper(save_tiny_whisper(tmp_path), torch.device("cpu"))
    samples, _ = toy_speech(40, seed=0)
    first, second = hear(samples[: 30 * RATE], RATE), hear(samples[30 * RATE :], RATE)
    assert first != second and hear(samples, RATE) == f"{first} {second}"
