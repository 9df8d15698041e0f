"""How far synthetic speech is from a recording: spectrum, cepstrum and pitch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.dtw import dtw
from voxtok.vocoder.f0 import pitch
from voxtok.vocoder.mel import log_mel, mel_cepstra, quality_shape

Samples = npt.NDArray[np.float32]
CEPSTRA = 24
DECIBEL = 10 / np.log(10)
F0_HOP_S = 0.01


def mel_difference(real: Samples, made: Samples, sampling_rate: int) -> float:
    """Mean absolute difference of log-mel magnitudes (natural logarithm, 80 bands), over the shorter of the two.

    Raises:
        ConfigError: one of them is empty.
    """
    count = _common(real, made)
    shape = quality_shape(sampling_rate)
    logs = [log_mel(torch.from_numpy(samples[:count]), shape) for samples in (real, made)]
    return float((logs[0] - logs[1]).abs().mean())


def mel_cepstral_distortion(real: Samples, made: Samples, sampling_rate: int, *, aligned: bool) -> float:
    """Mean distance of mel cepstra 1 .. 24 in dB: 10 / ln 10 * sqrt(2 * sum of squared differences) (Kubichek 1993).

    Cepstra are the cosine transform of 80 log-mel bands; figures from SPTK's mel-generalised cepstra are of another
    scale, so compare figures of one program.

    Args:
        real, made: (T,) float32 at `sampling_rate`.
        sampling_rate: Hz.
        aligned: True compares frames at the same time; False along the cheapest path of dynamic time warping.

    Raises:
        ConfigError: one of them is empty.

    Worked: cepstra that differ by 1 in one coefficient of the series c_0 + sum of c_k cos: 4.343 * sqrt(2) = 6.14 dB.
    """
    count = _common(real, made)
    shape = quality_shape(sampling_rate)
    ends = (count, count) if aligned else (len(real), len(made))
    # `mel_cepstra` writes c_0 + 2 sum of c_k cos.
    a, b = (
        2 * mel_cepstra(torch.from_numpy(samples[:end]), shape, CEPSTRA)
        for samples, end in zip((real, made), ends, strict=True)
    )
    scale = DECIBEL * np.sqrt(2)
    if aligned:
        return float(scale * (a - b).square().sum(dim=1).sqrt().mean())
    cost = torch.cdist(a, b)[None].float()
    return float(scale * dtw(cost, torch.tensor([len(a)]), torch.tensor([len(b)])))


@dataclass(frozen=True)
class PitchErrors:
    """How far the pitch is off.

    Attributes:
        log_f0_rmse: root mean square difference of log F0 (natural) where both are voiced; None where nothing is.
        voicing_error: share of frames that are voiced in one only.
    """

    log_f0_rmse: float | None
    voicing_error: float


def pitch_errors(real: Samples, made: Samples, sampling_rate: int) -> PitchErrors:
    """Pitch and voicing of two recordings every 10 ms, over the shorter of the two.

    Raises:
        ConfigError: one of them is empty.
    """
    count = _common(real, made)
    hop = round(F0_HOP_S * sampling_rate)
    frames = max(count // hop, 1)
    return compared_pitch(*(pitch(samples[:count], sampling_rate, hop, frames) for samples in (real, made)))


def compared_pitch(real: npt.NDArray[np.float32], made: npt.NDArray[np.float32]) -> PitchErrors:
    """Errors of two (N,) pitch contours in Hz, 0 where unvoiced.

    Worked: 100 200 0 0 against 100 100 100 0: differences 0 and log 2, RMSE 0.490; one of four frames is voiced in one
    only.
    """
    both = (real > 0) & (made > 0)
    differences = np.log(real[both]) - np.log(made[both])
    rmse = float(np.sqrt(np.mean(differences**2))) if both.any() else None
    return PitchErrors(rmse, float(np.mean((real > 0) != (made > 0))))


def _common(real: Samples, made: Samples) -> int:
    count = min(len(real), len(made))
    if count == 0:
        raise ConfigError("there is nothing to compare: a recording is empty")
    return count
