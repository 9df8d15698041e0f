"""The harmonic source: pulses at the pitch where speech is voiced, and noise (Wang et al. 2019, neural source-filter).

Pulses are sums of all harmonics below Nyquist, in closed form. Their phase is the sum of the pitch over all samples
before, so a chunk of a recording is told the phase at one of its samples.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HIGHEST = 0.475
"""Highest harmonic over the sampling rate."""
NOISE_SAMPLES = 1 << 16


@dataclass(frozen=True)
class Place:
    """Where a chunk lies in its recording, so that its source continues what came before.

    Attributes:
        first_frame: of the chunk.
        anchor_frame: a frame of the chunk, counted from its first, at whose beginning the phase is known.
        phase: of the pulses there, in cycles.
    """

    first_frame: int = 0
    anchor_frame: int = 0
    phase: float = 0.0


class Source(nn.Module):
    """Pitch and voicing of frames -> pulses and noise, (B, T) each, of unit variance where they sound."""

    noise: torch.Tensor

    def __init__(self, sampling_rate: int, hop_samples: int) -> None:
        super().__init__()
        self.sampling_rate, self.hop_samples = sampling_rate, hop_samples
        table = np.random.default_rng(0).standard_normal(NOISE_SAMPLES, dtype=np.float32)
        self.register_buffer("noise", torch.from_numpy(table), persistent=False)

    def forward(self, f0_hz: torch.Tensor, voiced: torch.Tensor, place: Place) -> tuple[torch.Tensor, torch.Tensor]:
        """Pulses and noise.

        Args:
            f0_hz: (B, N), positive everywhere.
            voiced: (B, N) bool.
            place: of these frames in their recording.
        """
        phase = self.phase(f0_hz, place)
        gate = self._per_sample(voiced.to(f0_hz.dtype))
        pulses = gate * pulse_train(phase, self._per_sample(f0_hz), self.sampling_rate)
        first = place.first_frame * self.hop_samples
        positions = torch.arange(first, first + pulses.shape[1], device=pulses.device) % NOISE_SAMPLES
        return pulses, self.noise[positions].expand_as(pulses)

    def phase(self, f0_hz: torch.Tensor, place: Place) -> torch.Tensor:
        """(B, T) float64 cycles at each sample; the pitch is linear from the centre of one frame to the next."""
        steps = self._per_sample(f0_hz).double() / self.sampling_rate
        summed = F.pad(steps.cumsum(dim=1), (1, 0))  # (B, T + 1): before the first sample, after it, ...
        anchor = summed[:, place.anchor_frame * self.hop_samples, None]
        return (summed[:, :-1] - anchor + place.phase) % 1.0

    def phase_at(self, f0_hz: torch.Tensor, place: Place, frame: int) -> float:
        """Phase at the beginning of a frame of this chunk of one recording, for the next chunk."""
        return float(self.phase(f0_hz, place)[0, frame * self.hop_samples])

    def _per_sample(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, N) at the centres of frames to (B, N * hop), linearly; beyond the outer centres it is constant.

        The weights are the same in every frame, so a chunk has the values of the whole to the last bit.
        """
        place = (torch.arange(self.hop_samples, device=frames.device) + 0.5) / self.hop_samples - 0.5  # -0.5 .. 0.5
        before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        after = torch.cat([frames[:, 1:], frames[:, -1:]], dim=1)
        weight = place.abs().to(frames.dtype)
        neighbour = torch.where(place < 0, before[..., None], after[..., None])  # (B, N, hop)
        return (frames[..., None] * (1 - weight) + neighbour * weight).flatten(1)


def pulse_train(phase: torch.Tensor, f0_hz: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """Sum of cosines at all multiples of the pitch, of unit variance.

    The number of harmonics is not whole: its fraction weighs one harmonic more, so a gliding pitch makes no clicks.
    The sum of cos(2 pi k phase), k = 1 .. K, is (sin((2 K + 1) pi phase) / sin(pi phase) - 1) / 2.

    Args:
        phase: (B, T) float64 cycles.
        f0_hz: (B, T) float32.
        sampling_rate: Hz.
    """
    count = (HIGHEST * sampling_rate / f0_hz).clamp_min(1)
    whole = count.floor()
    centred = phase - (phase > 0.5).to(phase.dtype)  # -0.5 .. 0.5, where the quotient is well conditioned
    half = torch.pi * centred
    below = torch.sin(half)
    order = 2 * whole + 1
    close = below.abs() < 1e-6
    ratio = torch.where(close, order, torch.sin(order * half) / below.where(~close, 1.0))
    summed = (ratio - 1) / 2 + (count - whole) * torch.cos(2 * half * (whole + 1))
    return (summed * (2 / count).sqrt()).to(f0_hz.dtype)
