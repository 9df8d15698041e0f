"""The iSTFT generator: a ConvNeXt backbone predicts spectra, one inverse FFT makes the waveform (Vocos, Siuzdak 2023).

Its head either predicts magnitudes and phases, or filters a harmonic source (as HiFTNet, Li et al. 2023, puts a source
into an iSTFT generator): the phases of voiced speech then come from the pitch, so that little training gives speech
without buzz. Every convolution sees zeros beyond an utterance's end, so padding changes nothing.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from voxtok.vocoder.model_config import IstftConfig
from voxtok.vocoder.source import Place, Source

PITCH_KERNEL = 9
LOUDEST = 100.0
"""Largest magnitude, against overflow."""


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over 7 frames, then two matrices on each frame, as a scaled residual (Liu et al. 2022)."""

    reach = 3

    def __init__(self, width: int, expansion: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 2 * self.reach + 1, padding=self.reach, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, width * expansion)
        self.narrow = nn.Linear(width * expansion, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, N, width) with mask (B, N, 1) to the same."""
        mixed = self.depthwise((hidden * mask).transpose(1, 2)).transpose(1, 2)
        out: torch.Tensor = hidden + self.scale * self.narrow(F.gelu(self.wide(self.norm(mixed))))
        return out


class Backbone(nn.Module):
    """Hidden frames -> upsampled hidden frames."""

    def __init__(self, config: IstftConfig, width_in: int) -> None:
        super().__init__()
        width, blocks = config.width, config.coarse_blocks + config.fine_blocks
        self.upsample = config.upsample
        self.embed = nn.Conv1d(width_in, width, 7, padding=3)
        self.norm = nn.LayerNorm(width)
        made = [ConvNeXtBlock(width, config.expansion, 1 / max(blocks, 1)) for _ in range(blocks)]
        self.coarse, self.fine = (
            nn.ModuleList(made[: config.coarse_blocks]),
            nn.ModuleList(made[config.coarse_blocks :]),
        )
        self.spread = nn.Linear(width, width * config.upsample) if config.upsample > 1 else nn.Identity()
        self.last_norm = nn.LayerNorm(width)
        self.reach = 3 + ConvNeXtBlock.reach * (
            config.coarse_blocks + math.ceil(config.fine_blocks / config.upsample)
        )  # frames

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, N, width_in) with mask (B, N, 1) to (B, N * upsample, width)."""
        hidden = self.norm(self.embed((hidden * mask).transpose(1, 2)).transpose(1, 2))
        for block in self.coarse:
            hidden = block(hidden, mask)
        batch, frames, width = hidden.shape
        hidden = self.spread(hidden).reshape(batch, frames * self.upsample, width)
        mask = mask.repeat_interleave(self.upsample, dim=1)
        for block in self.fine:
            hidden = block(hidden, mask)
        normed: torch.Tensor = self.last_norm(hidden)
        return normed


class Pitch(nn.Module):
    """Log F0 and the logit of voicing of each frame, from the vocoder's inputs."""

    reach = 2 * (PITCH_KERNEL // 2)

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(width_in, width, PITCH_KERNEL, padding=PITCH_KERNEL // 2)
        self.second = nn.Conv1d(width, width, PITCH_KERNEL, padding=PITCH_KERNEL // 2)
        self.out = nn.Linear(width, 2)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([math.log(150.0), 0.0]))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, N, width_in) with mask (B, N, 1) to (B, N, 2)."""
        mixed = F.gelu(self.first((hidden * mask).transpose(1, 2))).transpose(1, 2)
        mixed = F.gelu(self.second((mixed * mask).transpose(1, 2))).transpose(1, 2)
        found: torch.Tensor = self.out(mixed)
        return found


class Spectra(nn.Module):
    """Waveforms to and from overlapping spectra on one grid: spectrum j is centred half a hop into its hop."""

    window: torch.Tensor

    def __init__(self, hop_samples: int, overlap: int) -> None:
        super().__init__()
        self.hop_samples, self.overlap = hop_samples, overlap
        self.size = hop_samples * overlap
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)
        # Squared Hann windows that overlap by at least 4 sum to a constant; the waveform fades in over the first hops.
        self.gain = float(self.window.square().sum()) / hop_samples

    def analyse(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, M * hop) to (B, M, size / 2 + 1) complex, windowed."""
        margin = (self.size - self.hop_samples) // 2
        padded = F.pad(waveforms, (margin, self.size - self.hop_samples - margin))
        spectra: torch.Tensor = torch.fft.rfft(padded.unfold(1, self.size, self.hop_samples) * self.window)
        return spectra

    def synthesise(self, spectra: torch.Tensor) -> torch.Tensor:
        """(B, M, size / 2 + 1) complex to (B, M * hop): the windowed overlap-add."""
        batch, count, _ = spectra.shape
        frames = torch.fft.irfft(spectra, n=self.size) * (self.window / self.gain)
        pieces = frames.reshape(batch, count, self.overlap, self.hop_samples)
        shifted = [F.pad(pieces[:, :, i], (0, 0, i, self.overlap - 1 - i)) for i in range(self.overlap)]
        summed = torch.stack(shifted).sum(dim=0)  # (B, M + overlap - 1, hop)
        margin = (self.size - self.hop_samples) // 2
        waveforms: torch.Tensor = summed.reshape(batch, -1)[:, margin : margin + count * self.hop_samples]
        return waveforms


class PhaseHead(nn.Module):
    """Vocos' head: log magnitudes and phases of every bin."""

    def __init__(self, width: int, spectra: Spectra) -> None:
        super().__init__()
        self.spectra = spectra
        self.out = nn.Linear(width, 2 * (spectra.size // 2 + 1))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, M, width) with mask (B, M, 1) to (B, M * hop)."""
        log_magnitude, phase = self.out(hidden).chunk(2, dim=-1)
        magnitude = log_magnitude.exp().clamp(max=LOUDEST) * mask
        return self.spectra.synthesise(torch.polar(magnitude, phase))


class FilterHead(nn.Module):
    """Filters of pulses and of noise, in bands; the pulses' filter has minimum phase, as a vocal tract has."""

    to_bins: torch.Tensor
    fold: torch.Tensor

    def __init__(self, width: int, spectra: Spectra, bands: int, sampling_rate: int) -> None:
        super().__init__()
        self.spectra = spectra
        self.out = nn.Linear(width, 2 * bands)
        nn.init.constant_(self.out.bias, math.log(0.03))
        self.register_buffer("to_bins", band_weights(bands, spectra.size // 2 + 1, sampling_rate), persistent=False)
        fold = torch.zeros(spectra.size)
        fold[0], fold[1 : spectra.size // 2], fold[spectra.size // 2] = 1, 2, 1
        self.register_buffer("fold", fold, persistent=False)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, pulses: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """(B, M, width), mask (B, M, 1), and (B, M * hop) pulses and noise to (B, M * hop)."""
        pulse_bands, noise_bands = self.out(hidden).chunk(2, dim=-1)
        harmonic = self.spectra.analyse(pulses) * self.minimum_phase(pulse_bands @ self.to_bins)
        random = self.spectra.analyse(noise) * (noise_bands @ self.to_bins).clamp(max=math.log(LOUDEST)).exp()
        return self.spectra.synthesise((harmonic + random) * mask)

    def minimum_phase(self, log_magnitude: torch.Tensor) -> torch.Tensor:
        """(B, M, bins) log magnitudes to the complex spectrum of minimum phase, by folding the cepstrum."""
        cepstrum = torch.fft.irfft(log_magnitude.clamp(max=math.log(LOUDEST)), n=self.spectra.size)
        spectra: torch.Tensor = torch.fft.rfft(cepstrum * self.fold).exp()
        return spectra


def band_weights(bands: int, bins: int, sampling_rate: int) -> torch.Tensor:
    """(bands, bins) weights of linear interpolation on the mel axis, from bands evenly spaced on it to FFT bins."""
    mels = 2595 * torch.log10(1 + torch.linspace(0, sampling_rate / 2, bins) / 700)
    place = mels / mels[-1] * (bands - 1)
    return (1 - (place[None] - torch.arange(bands)[:, None]).abs()).clamp_min(0)


class IstftGenerator(nn.Module):
    """Hidden frames -> waveforms.

    Attributes:
        context_frames: frames on either side that a frame's samples depend on.
    """

    def __init__(self, config: IstftConfig, width_in: int, hop_samples: int, sampling_rate: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config, width_in)
        spectra = Spectra(hop_samples // config.upsample, config.overlap)
        reach = self.backbone.reach
        self.pitch: Pitch | None = None
        self.source: Source | None = None
        self.head: PhaseHead | FilterHead
        if config.source == "harmonic":
            self.pitch = Pitch(width_in, config.width // 2)
            self.source = Source(sampling_rate, hop_samples)
            self.head = FilterHead(config.width, spectra, config.bands, sampling_rate)
            reach = max(reach, Pitch.reach + 1 + math.ceil(config.overlap / config.upsample))
        else:
            self.head = PhaseHead(config.width, spectra)
        self.context_frames = reach + math.ceil(config.overlap / config.upsample)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, f0_hz: torch.Tensor | None, place: Place
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Waveforms, and the predicted pitch where there is a source.

        Args:
            hidden: (B, N, width_in), zero on padding.
            mask: (B, N) bool.
            f0_hz: (B, N) pitch to follow, 0 where unvoiced; None follows the predicted one.
            place: of the frames in their recording.

        Returns:
            (B, N * hop_samples) float32, zero on padding; (B, N, 2) log F0 and voicing logits, or None.
        """
        frame_mask = mask[..., None].to(hidden.dtype)
        fine_mask = frame_mask.repeat_interleave(self.config.upsample, dim=1)
        backbone = self.backbone(hidden, frame_mask)
        sounding = mask.repeat_interleave(self.head.spectra.hop_samples * self.config.upsample, dim=1)
        if self.pitch is None or self.source is None:
            with torch.autocast(hidden.device.type, enabled=False):
                return self.head(backbone.float(), fine_mask.float()) * sounding, None
        predicted = self.pitch(hidden, frame_mask).float()
        pitch, voiced = followed(predicted.detach(), f0_hz)
        pulses, noise = self.source(*to_the_end(pitch, voiced, mask), place)
        with torch.autocast(hidden.device.type, enabled=False):  # FFTs and logarithms of magnitudes need float32
            waveforms = self.head(backbone.float(), fine_mask.float(), pulses * sounding, noise * sounding)
        return waveforms * sounding, predicted


def followed(predicted: torch.Tensor, f0_hz: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Pitch (B, N), positive everywhere, and voicing (B, N) bool, of (B, N, 2) predictions and what is given."""
    pitch = predicted[..., 0].clamp(math.log(40.0), math.log(1000.0)).exp()
    if f0_hz is None:
        return pitch, predicted[..., 1] > 0
    return torch.where(f0_hz > 0, f0_hz, pitch), f0_hz > 0


def to_the_end(pitch: torch.Tensor, voiced: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both (B, N) with padding replaced by the last frame, which interpolation then sees as in an utterance alone."""
    last = (mask.sum(dim=1, keepdim=True) - 1).clamp_min(0)
    positions = torch.arange(mask.shape[1], device=mask.device)[None].minimum(last)
    return pitch.gather(1, positions), voiced.gather(1, positions)
