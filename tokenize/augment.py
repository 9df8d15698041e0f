"""Changes of the signal that leave what is said as it was: noise, reverberation, pitch, tempo (Gat et al. 2022).

Deterministic for a generator's seed. Noise and rooms are synthesised, so that no corpus of them is needed: pink noise
in place of recorded noise, an exponentially decaying tail in place of a simulated room.
"""

from fractions import Fraction
from typing import Literal, get_args

import numpy as np
import torch
import torchaudio.functional as F

Augmentation = Literal["noise", "reverberation", "pitch_shift", "time_stretch"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)

SNR_DB = (5.0, 15.0)
RT60_S = (0.2, 0.8)
SEMITONES = (-4, 4)
TEMPO = (0.8, 1.2)
WINDOW_S = 0.03  # of WSOLA: two periods of a low voice
SEARCH_S = 0.01


def augment(
    samples: torch.Tensor, sampling_rate: int, augmentation: Augmentation, rng: np.random.Generator
) -> torch.Tensor:
    """Change (num_samples,) float32 samples by an amount drawn from the ranges above.

    Only `time_stretch` changes the number of samples.
    """
    match augmentation:
        case "noise":
            return add_noise(samples, rng.uniform(*SNR_DB), rng)
        case "reverberation":
            return reverberate(samples, sampling_rate, rng.uniform(*RT60_S), rng)
        case "pitch_shift":
            semitones = rng.choice([step for step in range(SEMITONES[0], SEMITONES[1] + 1) if step])
            return shift_pitch(samples, sampling_rate, int(semitones))
        case "time_stretch":
            return stretch_time(samples, sampling_rate, rng.uniform(*TEMPO))


def add_noise(samples: torch.Tensor, snr_db: float, rng: np.random.Generator) -> torch.Tensor:
    """Add pink (1/f) noise at a signal-to-noise ratio over the whole utterance."""
    white = np.fft.rfft(rng.standard_normal(len(samples)))
    pink = np.fft.irfft(white / np.sqrt(np.maximum(np.arange(len(white)), 1)), n=len(samples))
    noisy: torch.Tensor = F.add_noise(samples, torch.from_numpy(pink).to(samples), torch.tensor(snr_db))
    return noisy


def reverberate(samples: torch.Tensor, sampling_rate: int, rt60_s: float, rng: np.random.Generator) -> torch.Tensor:
    """Convolve with a direct path and a tail of noise that decays by 60 dB in `rt60_s`, as loud as the direct path.

    The direct path has no delay and the tail is cut at the end, so frames stay in place.
    """
    time_s = np.arange(int(rt60_s * sampling_rate)) / sampling_rate
    tail = rng.standard_normal(len(time_s)) * 10 ** (-3 * time_s / rt60_s)
    response = np.concatenate([[1.0], tail / np.linalg.norm(tail)])
    wet: torch.Tensor = F.fftconvolve(samples, torch.from_numpy(response).to(samples))
    return wet[: len(samples)]


def shift_pitch(samples: torch.Tensor, sampling_rate: int, semitones: int) -> torch.Tensor:
    """Move pitch and formants together, keeping the duration: stretch, then resample by the inverse.

    The ratio is rounded to a fraction of small numbers (by less than 0.01 %): torchaudio's own pitch_shift resamples by
    thousands to thousands, which takes hundreds of megabytes.
    """
    ratio = Fraction(2 ** (semitones / 12)).limit_denominator(100)
    longer = stretch_time(samples, sampling_rate, float(1 / ratio))
    shifted: torch.Tensor = F.resample(longer, ratio.numerator, ratio.denominator)
    return torch.nn.functional.pad(shifted, (0, max(0, len(samples) - len(shifted))))[: len(samples)]


def stretch_time(samples: torch.Tensor, sampling_rate: int, tempo: float) -> torch.Tensor:
    """Speak `tempo` times as fast at the same pitch (WSOLA, Verhelst and Roelands 1993).

    Windows are taken `tempo` times as far apart as they are laid down, each moved by up to SEARCH_S to where it goes on
    best from the one before. Unlike a phase vocoder it keeps the loudness of speech, and no smear is heard.
    """
    hop = round(WINDOW_S * sampling_rate) // 2
    search = round(SEARCH_S * sampling_rate)
    window = np.hanning(2 * hop + 1)[:-1]  # two of them, a hop apart, add up to 1
    padded = np.pad(samples.double().numpy(), (hop + search, 4 * hop + search + round(hop * tempo)))
    length = round(len(samples) / tempo)
    stretched = np.zeros(length + 4 * hop)
    best = search  # where the first window begins: half of it before the first sample
    for step in range(length // hop + 2):
        if step:
            near = round(step * hop * tempo)  # the first of 2 * search + 1 places
            goes_on = padded[best + hop : best + 3 * hop]
            candidates = padded[near : near + 2 * (search + hop)]
            energy = np.convolve(candidates**2, np.ones(2 * hop), mode="valid")
            match = np.correlate(candidates, goes_on, mode="valid") / np.sqrt(energy + 1e-12)
            best = near + int(np.argmax(match))
        stretched[step * hop : (step + 2) * hop] += window * padded[best : best + 2 * hop]
    return torch.from_numpy(stretched[hop : hop + length]).to(samples)
