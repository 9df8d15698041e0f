"""Kaldi's MFCC and log-mel by loops over frames, bins and filters, in float64: shares no product code."""

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def mel(hertz: float) -> float:
    """Kaldi's mel scale."""
    return 1127.0 * math.log(1.0 + hertz / 700.0)


def power_spectrum(window: Array) -> list[float]:
    """Power in the bins 0 .. 255 of one 400-sample window."""
    centred = window - window.mean()
    shaped = []
    for n in range(400):
        emphasised = centred[n] - 0.97 * centred[max(n - 1, 0)]
        shaped.append(emphasised * (0.5 - 0.5 * math.cos(2 * math.pi * n / 399)) ** 0.85)
    powers = []
    for k in range(256):
        angles = 2 * math.pi * k * np.arange(400) / 512
        powers.append(float(np.dot(shaped, np.cos(angles)) ** 2 + np.dot(shaped, np.sin(angles)) ** 2))
    return powers


def log_mels(window: Array, num_filters: int) -> list[float]:
    """Log energies of triangular filters between 20 Hz and 8 kHz."""
    powers = power_spectrum(window)
    step = (mel(8000) - mel(20)) / (num_filters + 1)
    logs = []
    for m in range(num_filters):
        left, centre, right = (mel(20) + (m + i) * step for i in range(3))
        energy = 0.0
        for k, power in enumerate(powers):
            here = mel(k * 16000 / 512)
            energy += power * max(0.0, min((here - left) / (centre - left), (right - here) / (right - centre)))
        logs.append(math.log(max(energy, 2.0**-23)))
    return logs


def cepstra(logs: list[float]) -> list[float]:
    """13 liftered cepstra of 23 log energies."""
    values = []
    for i in range(13):
        total = sum(log * math.cos(math.pi * i * (j + 0.5) / 23) for j, log in enumerate(logs))
        scale = math.sqrt(1 / 23) if i == 0 else math.sqrt(2 / 23)
        values.append(total * scale * (1 + 11 * math.sin(math.pi * i / 22)))
    return values


def slope(frames: Array) -> Array:
    """Regression over 5 frames with repeated edges."""
    result = np.zeros_like(frames)
    for t in range(len(frames)):
        for n in (1, 2):
            after, before = min(t + n, len(frames) - 1), max(t - n, 0)
            result[t] += n * (frames[after] - frames[before]) / 10
    return result


def logmel(samples: Array) -> Array:
    """(N, 80) log-mel frames."""
    return np.array([log_mels(samples[start : start + 400], 80) for start in range(0, len(samples) - 399, 160)])


def mfcc(samples: Array) -> Array:
    """(N, 39): cepstra, deltas, delta-deltas."""
    windows = [samples[start : start + 400] for start in range(0, len(samples) - 399, 160)]
    static = np.array([cepstra(log_mels(window, 23)) for window in windows])
    return np.concatenate([static, slope(static), slope(slope(static))], axis=1)
