"""What the generator is trained on: spectral distance at several resolutions, pitch, voicing and durations."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from voxtok.runtime.errors import ConfigError
from voxtok.vocoder.mel import MelShape, filters, magnitudes
from voxtok.vocoder.segments import Batch

MEL_FLOOR = 1e-4


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms that are added up."""

    resolutions: tuple[int, ...] = (2048, 1024, 512, 256)
    """FFT sizes of the log-mel distances, whose mean is the term; hops are a quarter of them."""
    mel: float = 45.0
    """Of the log-mel distance (45 in HiFi-GAN)."""
    adversarial: float = 1.0
    """Of what the discriminators say."""
    features: float = 2.0
    """Of the distance of their activations (2 in HiFi-GAN)."""
    pitch: float = 5.0
    """Of the predicted pitch and voicing, where the generator has a harmonic source."""
    durations: float = 1.0
    """Of the predicted log durations."""

    def __post_init__(self) -> None:
        if not self.resolutions:
            raise ConfigError("losses.resolutions needs at least one FFT size")


def mel_distance(
    made: torch.Tensor, real: torch.Tensor, sampling_rate: int, resolutions: Sequence[int]
) -> torch.Tensor:
    """Mean absolute difference of log-mel spectrograms (B, T), a mean over resolutions."""
    terms = []
    for size in resolutions:
        shape = MelShape(sampling_rate, size, size // 4, min(80, size // 16))
        bands = filters(shape, made.device)
        spectra = magnitudes(torch.stack([made, real]), size, size // 4)
        logs = (spectra @ bands).clamp_min(MEL_FLOOR).log()
        terms.append(F.l1_loss(logs[0], logs[1]))
    return torch.stack(terms).mean()


def pitch_terms(predicted: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean absolute error of log F0 over voiced frames, and cross-entropy of voicing over all frames."""
    assert batch.frames.f0_hz is not None
    mask, f0_hz = batch.frames.mask(), batch.frames.f0_hz
    voiced = (f0_hz > 0) & mask
    errors = (predicted[..., 0] - f0_hz.clamp_min(1).log()).abs() * voiced
    missed = F.binary_cross_entropy_with_logits(predicted[..., 1], voiced.float(), reduction="none") * mask
    return errors.sum() / voiced.sum().clamp_min(1), missed.sum() / mask.sum().clamp_min(1)


def duration_term(logs: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of log durations over the runs whose length is seen."""
    seen = durations > 0
    errors = (logs - durations.clamp_min(1).float().log()).abs() * seen
    return errors.sum() / seen.sum().clamp_min(1)
