"""Samples in memory: made mono, resampled, filled up."""

import numpy as np
import numpy.typing as npt
import torch
from lhotse.augmentation import get_or_create_resampler
from lhotse.utils import compute_num_samples

from voxtok.runtime.errors import ConfigError

Floats = npt.NDArray[np.float32]


def mono(samples: npt.ArrayLike) -> Floats:
    """(num_samples,) or (channels, num_samples) as (num_samples,) float32, channels averaged.

    Raises:
        ConfigError: another shape, or not finite.
    """
    array = np.atleast_2d(np.asarray(samples, dtype=np.float32))
    if array.ndim != 2:
        raise ConfigError(f"samples are (num_samples,) or (channels, num_samples), not {array.shape}")
    averaged: Floats = array.mean(axis=0)
    if not np.isfinite(averaged).all():
        raise ConfigError("samples have NaN or infinite values")
    return averaged


def resample(samples: Floats, from_rate: int, to_rate: int) -> Floats:
    """Resample a whole recording in memory to the samples that `read_audio` gives of it in a file.

    Args:
        samples: (n,) float32.
        from_rate, to_rate: Hz.

    Returns:
        (n * to_rate / from_rate, rounded half up,) float32, Lhotse's rule.
    """
    if from_rate == to_rate:
        return samples
    length = int(compute_num_samples(len(samples) / from_rate, to_rate))
    return fill(filtered(samples, from_rate, to_rate)[:length], length)


def filtered(samples: Floats, from_rate: int, to_rate: int) -> Floats:
    """Windowed sinc, as Lhotse does; (n * to_rate / from_rate, rounded up,)."""
    with torch.inference_mode():
        resampled: Floats = get_or_create_resampler(from_rate, to_rate)(torch.from_numpy(samples)).numpy()
    return resampled


def fill(audio: Floats, length: int) -> Floats:
    """Zeros after the end, where the last few samples are missing within the tolerance, or by rounding."""
    lacking = length - audio.shape[-1]
    return np.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(0, lacking)]) if lacking else np.ascontiguousarray(audio)
