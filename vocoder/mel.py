"""Log-mel spectrograms and mel cepstra of whole recordings: what training compares, and what quality is measured on."""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
import torchaudio

FLOOR = 1e-5
"""Of magnitudes, before the logarithm; the field's HiFi-GAN recipes have it."""


@dataclass(frozen=True)
class MelShape:
    """An STFT and its mel bands: Hann windows as long as the FFT, magnitudes, Slaney's filters up to Nyquist."""

    sampling_rate: int
    fft_samples: int
    hop_samples: int
    bands: int


def quality_shape(sampling_rate: int) -> MelShape:
    """64 ms windows every 16 ms, 80 bands: HiFi-GAN's, at 16 kHz 1024 and 256 samples."""
    return MelShape(sampling_rate, 2 ** round(sampling_rate * 0.064 - 1).bit_length(), sampling_rate * 16 // 1000, 80)


def log_mel(waveforms: torch.Tensor, shape: MelShape) -> torch.Tensor:
    """(..., T) waveforms to (..., frames, bands) natural logarithms; frame i is centred at (i + 1/2) hops.

    The waveform is reflected at both ends, as HiFi-GAN's recipes do; shorter ones than a window see zeros there.
    """
    return (
        (magnitudes(waveforms, shape.fft_samples, shape.hop_samples) @ filters(shape, waveforms.device))
        .clamp_min(FLOOR)
        .log()
    )


def magnitudes(waveforms: torch.Tensor, fft_samples: int, hop_samples: int) -> torch.Tensor:
    """(..., T) waveforms to (..., frames, fft_samples / 2 + 1) magnitudes on `log_mel`'s grid."""
    margin = (fft_samples - hop_samples) // 2
    flat = waveforms.reshape(-1, waveforms.shape[-1])
    reflects = margin < flat.shape[1]
    padded = F.pad(flat, (margin, margin), mode="reflect") if reflects else F.pad(flat, (fft_samples, fft_samples))
    framed = padded.unfold(1, fft_samples, hop_samples) * window(fft_samples, flat.device)
    spectra = torch.fft.rfft(framed)
    # The gradient of abs is not finite at 0.
    found = (spectra.real.square() + spectra.imag.square() + 1e-12).sqrt()
    result: torch.Tensor = found.reshape(*waveforms.shape[:-1], *found.shape[1:])
    return result


def mel_cepstra(samples: torch.Tensor, shape: MelShape, order: int) -> torch.Tensor:
    """(T,) samples to (frames, order) mel cepstra c_1 .. c_order: the log spectrum is c_0 + 2 sum of c_k cos."""
    logs = log_mel(samples, shape).double()  # (frames, bands)
    bands = torch.arange(shape.bands, dtype=torch.float64) + 0.5
    angles = torch.pi / shape.bands * bands[:, None] * torch.arange(1, order + 1)
    cepstra: torch.Tensor = logs @ torch.cos(angles).to(logs.device) / shape.bands
    return cepstra


@cache
def window(fft_samples: int, device: torch.device) -> torch.Tensor:
    """Periodic Hann window."""
    return torch.hann_window(fft_samples, device=device)


@cache
def filters(shape: MelShape, device: torch.device) -> torch.Tensor:
    """(fft_samples / 2 + 1, bands) mel filters of equal area."""
    made: torch.Tensor = torchaudio.functional.melscale_fbanks(
        shape.fft_samples // 2 + 1,
        0.0,
        shape.sampling_rate / 2,
        shape.bands,
        shape.sampling_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return made.to(device)
