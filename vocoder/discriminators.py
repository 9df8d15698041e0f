"""What tells real speech from synthetic during training: discriminators of periods and of spectrograms."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from voxtok.runtime.errors import ConfigError
from voxtok.vocoder.hifigan import speechbrain_hifigan
from voxtok.vocoder.mel import magnitudes

Judged = tuple[list[torch.Tensor], list[list[torch.Tensor]]]
"""A score tensor of each discriminator, and the activations of its layers."""

SLOPE = 0.1


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Which discriminators are trained against the generator."""

    kind: Literal["resolutions", "hifigan"] = "resolutions"
    """resolutions: of periods (HiFi-GAN's) and of magnitude spectrograms (UnivNet's, as Vocos has them), as small as
    `channels` says. hifigan: SpeechBrain's multi-period and multi-scale discriminators, 70 M parameters."""
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Samples that the waveform is folded by, for each discriminator of periods."""
    resolutions: tuple[int, ...] = (2048, 1024, 512)
    """FFT sizes, for each discriminator of spectrograms; hops are a quarter of them."""
    channels: int = 32
    """Of the first layer."""

    def __post_init__(self) -> None:
        if not self.periods and not self.resolutions:
            raise ConfigError("discriminators need periods or resolutions")
        if self.channels < 1:
            raise ConfigError("discriminators.channels must be positive")


class PeriodDiscriminator(nn.Module):
    """Strided convolutions over every p-th sample (Kong et al. 2020), with few channels."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 2 * channels, 4 * channels, 4 * channels]
        self.layers = nn.ModuleList(
            [
                weight_norm(nn.Conv2d(before, after, (5, 1), (3, 1), padding=(2, 0)))
                for before, after in pairwise(widths)
            ]
        )
        self.out = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveforms: torch.Tensor) -> list[torch.Tensor]:
        """(B, T) to the layers' activations, the scores last."""
        lacking = -waveforms.shape[1] % self.period
        hidden = F.pad(waveforms[:, None], (0, lacking), mode="reflect").unflatten(2, (-1, self.period))
        return _through(self.layers, self.out, hidden)


class ResolutionDiscriminator(nn.Module):
    """Convolutions over a compressed magnitude spectrogram (Jang et al. 2021)."""

    def __init__(self, fft_samples: int, channels: int) -> None:
        super().__init__()
        self.fft_samples = fft_samples
        steps = [(1, 2), (1, 2), (1, 2), (1, 1)]
        widths = [1, *[channels] * len(steps)]
        self.layers = nn.ModuleList(
            [
                weight_norm(nn.Conv2d(before, after, (3, 7), step, padding=(1, 3)))
                for before, after, step in zip(widths[:-1], widths[1:], steps, strict=True)
            ]
        )
        self.out = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, waveforms: torch.Tensor) -> list[torch.Tensor]:
        """(B, T) to the layers' activations, the scores last."""
        spectrogram = magnitudes(waveforms, self.fft_samples, self.fft_samples // 4)
        return _through(self.layers, self.out, spectrogram.pow(0.3)[:, None])


class Discriminators(nn.Module):
    """All discriminators of a training."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.whole: nn.Module | None = None
        self.parts = nn.ModuleList()
        if config.kind == "hifigan":
            self.whole = speechbrain_hifigan().HifiganDiscriminator()
        else:
            self.parts.extend(PeriodDiscriminator(period, config.channels) for period in config.periods)
            self.parts.extend(ResolutionDiscriminator(size, config.channels) for size in config.resolutions)

    def forward(self, waveforms: torch.Tensor) -> Judged:
        """Scores and activations of (B, T) waveforms."""
        if self.whole is not None:
            scores, activations = self.whole(waveforms[:, None])
            return scores, activations
        judged = [part(waveforms) for part in self.parts]
        return [layers[-1] for layers in judged], [layers[:-1] for layers in judged]


def _through(layers: nn.ModuleList, out: nn.Module, hidden: torch.Tensor) -> list[torch.Tensor]:
    found = []
    for layer in layers:
        hidden = F.leaky_relu(layer(hidden), SLOPE)
        found.append(hidden)
    return [*found, out(hidden)]


def discriminator_loss(real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor]) -> torch.Tensor:
    """Least squares: scores of real speech shall be 1, of synthetic speech 0; a mean over discriminators."""
    losses = [(1 - a.float()).square().mean() + b.float().square().mean() for a, b in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def generator_loss(fake: Sequence[torch.Tensor]) -> torch.Tensor:
    """Least squares: scores of synthetic speech shall be 1; a mean over discriminators."""
    return torch.stack([(1 - scores.float()).square().mean() for scores in fake]).mean()


def feature_loss(real: Sequence[Sequence[torch.Tensor]], fake: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """Mean distance of activations on real and on synthetic speech (feature matching, Kumar et al. 2019)."""
    distances = [
        F.l1_loss(b.float(), a.detach().float())
        for of_real, of_fake in zip(real, fake, strict=True)
        for a, b in zip(of_real, of_fake, strict=True)
    ]
    return torch.stack(distances).mean()
