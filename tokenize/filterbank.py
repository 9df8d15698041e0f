"""Filter banks as upstreams without weights: `mfcc`, as in HuBERT's first iteration, and `logmel`.

Both are Kaldi's features as torchaudio.compliance.kaldi computes them: 25 ms Povey windows every 10 ms, only whole
windows (snip_edges), per-frame DC removal, pre-emphasis 0.97, 512-point power spectrum, triangular mel filters from
20 Hz to 8 kHz, log with a floor at float32's epsilon, no dither. `mfcc` then takes 13 liftered cepstra of 23 filters
(C0, not energy) and appends deltas and delta-deltas over 5 frames, which repeat the utterance's edge frames: 39
dimensions, as fairseq's HuBERT recipe dumps them. Samples are taken in [-1, 1], as there, not on Kaldi's 16-bit
scale: the scale moves only C0, but it decides which silence falls under the floor.

`mfcc-cmn` and `logmel-cmn` subtract the recording's mean, weighted by each frame's loudness (RMS), so that it is the
mean of speech and not of pauses: channel and voice weigh less in them. Targets for pre-training are best made of these.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
import torchaudio

from voxtok.runtime.errors import ConfigError

FilterbankName = Literal["mfcc", "logmel", "mfcc-cmn", "logmel-cmn"]
FILTERBANKS: tuple[FilterbankName, ...] = get_args(FilterbankName)

WINDOW_SAMPLES = 400
FFT_SAMPLES = 512
PREEMPHASIS = 0.97
MFCC_FILTERS = 23
MFCC_CEPSTRA = 13
LOGMEL_FILTERS = 80
LIFTER = 22.0
FLOOR = torch.finfo(torch.float32).eps
# Frames of one pass. A fixed shape makes a frame's value the same, bit for bit, wherever it lies in the utterance:
# BLAS rounds differently for small matrices. On a CPU 256 frames stay in the cache; on a GPU launches cost more.
CPU_BLOCK_FRAMES = 256
GPU_BLOCK_FRAMES = 8192


class Filterbank:
    """MFCC or log-mel frames behind the Upstream interface; layer 0 is the only one."""

    sampling_rate = 16000
    hop_samples = 160
    min_samples = WINDOW_SAMPLES
    num_layers = 0

    def __init__(self, name: FilterbankName, device: torch.device) -> None:
        self.device = device
        cepstral = name.startswith("mfcc")
        self.width = 3 * MFCC_CEPSTRA if cepstral else LOGMEL_FILTERS
        self.identity: dict[str, Any] = {"family": name, "version": 1, "sampling_rate": self.sampling_rate}
        self._window = torch.hann_window(WINDOW_SAMPLES, periodic=False, device=device).pow(0.85)
        self._filters = mel_filters(MFCC_FILTERS if cepstral else LOGMEL_FILTERS).to(device)
        self._cepstra = liftered_dct().to(device) if cepstral else None
        self._subtracts_mean = name.endswith("-cmn")
        self._block_frames = CPU_BLOCK_FRAMES if device.type == "cpu" else GPU_BLOCK_FRAMES

    def num_frames(self, num_samples: int) -> int:
        """Whole windows in `num_samples`; 16000 samples have 98."""
        return max(0, (num_samples - WINDOW_SAMPLES) // self.hop_samples + 1)

    def statistics(self, chunks: Iterable[torch.Tensor]) -> torch.Tensor:
        """Loudness and loudness-weighted sum of the frames, (1 + D,) float64; nothing where no mean is subtracted."""
        if not self._subtracts_mean:
            return torch.zeros(0, dtype=torch.float64)
        total = torch.zeros(1 + (MFCC_CEPSTRA if self._cepstra is not None else LOGMEL_FILTERS), dtype=torch.float64)
        left = torch.zeros(0)
        for chunk in chunks:
            left = torch.cat([left, chunk.to("cpu", torch.float32)])
            count = self.num_frames(len(left))
            if count:
                windows = left.unfold(0, WINDOW_SAMPLES, self.hop_samples).to(self.device)
                total += weighted_sums(windows, self._statics(windows))
                left = left[count * self.hop_samples :]
        return total

    def extract(
        self,
        waveforms: torch.Tensor,
        lengths: torch.Tensor,
        layers: Sequence[int],
        statistics: Sequence[torch.Tensor] | None = None,
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """Frames of each utterance, computed on its own samples alone; see Upstream.extract."""
        if set(layers) - {0}:
            raise ConfigError(f"{self.identity['family']} has layer 0 only, not {sorted(set(layers) - {0})}")
        samples = lengths.tolist()
        if min(samples) < self.min_samples:
            raise ConfigError(f"{min(samples)} samples are too short: one frame needs {self.min_samples}")
        counts = [self.num_frames(length) for length in samples]
        frames = torch.zeros(len(counts), max(counts), self.width, device=self.device)
        given: Sequence[torch.Tensor | None] = statistics or [None] * len(counts)
        for row, waveform, length, count, sums in zip(frames, waveforms, samples, counts, given, strict=True):
            row[:count] = self._frames(waveform[:length].to(self.device, torch.float32), sums)
        return dict.fromkeys(layers, frames), torch.tensor(counts, device=self.device)

    @torch.inference_mode()
    def _frames(self, waveform: torch.Tensor, sums: torch.Tensor | None) -> torch.Tensor:
        windows = waveform.unfold(0, WINDOW_SAMPLES, self.hop_samples)  # (N, 400), a view
        static = self._statics(windows)
        if self._subtracts_mean:
            sums = weighted_sums(windows, static) if sums is None else sums
            static = static - (sums[1:] / sums[0].clamp_min(FLOOR)).to(static)
        return static if self._cepstra is None else with_deltas(static)

    def _statics(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._static(block) for block in windows.split(self._block_frames)])

    def _static(self, windows: torch.Tensor) -> torch.Tensor:
        """Log-mel or cepstra of one block of windows, padded to a full block and cut again."""
        full = F.pad(windows, (0, 0, 0, self._block_frames - len(windows)))  # (block, 400)
        centred = full - full.mean(dim=1, keepdim=True)
        before = torch.cat([centred[:, :1], centred[:, :-1]], dim=1)
        spectrum = torch.fft.rfft((centred - PREEMPHASIS * before) * self._window, n=FFT_SAMPLES)
        power = spectrum.real.square() + spectrum.imag.square()  # (block, 257)
        mels = (power @ self._filters).clamp_min(FLOOR).log()
        static: torch.Tensor = mels if self._cepstra is None else mels @ self._cepstra
        return static[: len(windows)]


def weighted_sums(windows: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Sum of the windows' RMS, and of frames times it, as (1 + D,) float64 on the CPU.

    Worked: frames 1 and 4 of RMS 0.3 and 0.1 give 0.4 and 0.7: a mean of 1.75, nearer to the louder frame.
    """
    loudness = windows.double().var(dim=1, correction=0).sqrt()  # (N,)
    return torch.cat([loudness.sum()[None], loudness @ frames.double()]).cpu()


def load_filterbank(name: str, device: torch.device) -> Filterbank:
    """The filter bank called `name`.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in FILTERBANKS:
        raise ConfigError(f"no filter bank is called {name!r}: there are {', '.join(FILTERBANKS)}")
    return Filterbank(name, device)


def mel_filters(num_filters: int) -> torch.Tensor:
    """Kaldi's triangular mel filters between 20 Hz and 8 kHz, as (257, num_filters)."""
    unwarped = {"vtln_low": 100.0, "vtln_high": -500.0, "vtln_warp_factor": 1.0}
    filters, _ = torchaudio.compliance.kaldi.get_mel_banks(num_filters, FFT_SAMPLES, 16000.0, 20.0, 0.0, **unwarped)
    padded: torch.Tensor = F.pad(filters, (0, 1))  # the Nyquist bin belongs to no filter
    return padded.T.contiguous()


def liftered_dct() -> torch.Tensor:
    """Orthonormal DCT-II of the log filters with Kaldi's liftering folded in, as (23, 13)."""
    dct: torch.Tensor = torchaudio.functional.create_dct(MFCC_FILTERS, MFCC_FILTERS, norm="ortho")[:, :MFCC_CEPSTRA]
    lifter = 1 + LIFTER / 2 * torch.sin(torch.pi * torch.arange(MFCC_CEPSTRA) / LIFTER)
    return dct * lifter


def with_deltas(static: torch.Tensor) -> torch.Tensor:
    """Append first and second differences, (N, D) -> (N, 3 D)."""
    first = deltas(static)
    return torch.cat([static, first, deltas(first)], dim=1)


def deltas(frames: torch.Tensor) -> torch.Tensor:
    """Regression slope over 5 frames, repeating the first and last frame beyond the edges.

    Worked: in 0 1 2 3 4 the middle slope is (-2*0 - 1*1 + 0*2 + 1*3 + 2*4) / 10 = 1.
    """
    padded = torch.cat([frames[:1], frames[:1], frames, frames[-1:], frames[-1:]])
    return (2 * (padded[4:] - padded[:-4]) + (padded[3:-1] - padded[1:-3])) / 10
