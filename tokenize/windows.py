"""Long audio in overlapping windows: memory is bounded by the window, whatever the length of the file.

Windows start at multiples of the hop, so their frames lie on the whole file's grid; of two windows that overlap, each
gives the frames of its half of the overlap, and the other half is only context. What a model normalises over the whole
file is summed in a first pass over the samples, so what is left between windows and the whole file is the reach of
attention and of the positional convolution. Filter banks are bit for bit equal. For transformers, windows of 30 s that
overlap by 4 s are a good start: benchmarks/windows.py measures the tokens that change.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.batches import halve_on_oom
from voxtok.tokenize.upstream import Upstream

Read = Callable[[int, int], npt.NDArray[np.float32]]
"""Samples start .. stop of one recording at the upstream's rate."""

Features = dict[int, torch.Tensor]
"""{layer: (N, width) float32}."""

MIN_OVERLAP_S = 0.1
"""The deltas of deltas reach 4 frames of 10 ms from either side."""


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How recordings longer than a window are computed. Part of a tokenizer's identity: it changes tokens."""

    window_s: float
    """Length of a window; shorter recordings are computed whole. Memory grows with it."""
    overlap_s: float
    """What neighbouring windows share; half of it is context that each window gives and half that it uses."""

    def __post_init__(self) -> None:
        if not MIN_OVERLAP_S <= self.overlap_s <= self.window_s / 2:
            most = f"half of window_s ({self.window_s})"
            raise ConfigError(f"overlap_s must be between {MIN_OVERLAP_S} and {most}, not {self.overlap_s}")


def windows_of(window_s: float | None, overlap_s: float) -> WindowConfig | None:
    """The windows that options ask for: none where recordings of any length are computed whole."""
    return None if window_s is None else WindowConfig(window_s=window_s, overlap_s=overlap_s)


@dataclass(frozen=True)
class Window:
    """Frames `first .. last` are computed and `keep_from .. keep_to` of them used; all count from the file's start."""

    first: int
    last: int
    keep_from: int
    keep_to: int


def plan_windows(num_frames: int, window_frames: int, context_frames: int) -> list[Window]:
    """Cover `num_frames` with windows of one length; the last one is moved back to end with the file.

    Worked: 23 frames, windows of 10, context 2: 0-10 keeps 0-8, 6-16 keeps 8-14, 12-22 keeps 14-20, 13-23 keeps 20-23.
    """
    windows: list[Window] = []
    kept = 0
    while kept < num_frames:
        windows.append(next_window(len(windows), kept, num_frames, window_frames, context_frames))
        kept = windows[-1].keep_to
    return windows


def next_window(index: int, kept: int, num_frames: int, window_frames: int, context_frames: int) -> Window:
    """Window number `index` of `num_frames`, the frames before `kept` being done; see `plan_windows`."""
    step = window_frames - 2 * context_frames
    first = max(0, min(index * step, num_frames - window_frames))
    last = min(first + window_frames, num_frames)
    return Window(first, last, kept, num_frames if last == num_frames else last - context_frames)


def window_sizes(upstream: Upstream, windows: WindowConfig) -> tuple[int, int]:
    """Frames of a window, and of the context that it gives up on either side."""
    frame_rate_hz = upstream.sampling_rate / upstream.hop_samples
    frames = upstream.num_frames(int(windows.window_s * upstream.sampling_rate))
    return frames, round(windows.overlap_s / 2 * frame_rate_hz)


def extract_long(
    upstream: Upstream, read: Read, num_samples: int, layers: Sequence[int], windows: WindowConfig
) -> Iterator[tuple[int, Features]]:
    """Features of one recording of any length, a window at a time.

    Args:
        upstream: what computes them.
        read: gives any span of samples; the recording is read twice where the upstream normalises over all of it.
        num_samples: length of the recording, at least `upstream.min_samples`.
        layers: layer numbers.
        windows: length and overlap. A recording that is no longer than a window is computed whole.

    Yields:
        The position of the first frame, and {layer: (N, width) float32} on the upstream's device: together exactly
        `upstream.num_frames(num_samples)` frames, in order, without gaps.

    Raises:
        ConfigError: `read` gives another number of samples than asked.
        OutOfMemory: a window does not fit in the device's memory.
    """
    window_frames, context_frames = window_sizes(upstream, windows)
    num_frames = upstream.num_frames(num_samples)
    if num_frames <= window_frames:
        yield 0, extract_one(upstream, _span(read, 0, num_samples), layers)
        return
    chunks = _chunks(read, num_samples, window_frames * upstream.hop_samples)
    statistics = upstream.statistics(chunks)
    for window in plan_windows(num_frames, window_frames, context_frames):
        yield window.keep_from, extract_window(upstream, read, window, layers, statistics)


def extract_window(
    upstream: Upstream, read: Read, window: Window, layers: Sequence[int], statistics: torch.Tensor
) -> Features:
    """The frames of one window that are used."""
    start = window.first * upstream.hop_samples
    stop = (window.last - 1) * upstream.hop_samples + upstream.min_samples
    features = extract_one(upstream, _span(read, start, stop), layers, statistics)
    kept = slice(window.keep_from - window.first, window.keep_to - window.first)
    return {layer: frames[kept] for layer, frames in features.items()}


def extract_samples(
    upstream: Upstream, samples: npt.NDArray[np.float32], layers: Sequence[int], windows: WindowConfig | None
) -> Features:
    """Features of one recording that is in memory: whole where `windows` is None or it fits one window.

    Args:
        upstream: what computes them.
        samples: (num_samples,) float32 at the upstream's rate.
        layers: layer numbers.
        windows: length and overlap.
    """
    if windows is None:
        return extract_one(upstream, torch.tensor(samples), layers)
    parts = [part for _, part in extract_long(upstream, lambda a, b: samples[a:b], len(samples), layers, windows)]
    return {layer: torch.cat([part[layer] for part in parts]) for layer in layers}


def extract_one(
    upstream: Upstream, samples: torch.Tensor, layers: Sequence[int], statistics: torch.Tensor | None = None
) -> Features:
    """Features of one waveform (T,), in a batch of its own."""

    def run(batch: Sequence[torch.Tensor]) -> list[Features]:
        waveform = batch[0][None].to(upstream.device)  # (1, T)
        length = torch.tensor([waveform.shape[1]], device=upstream.device)
        features, _ = upstream.extract(waveform, length, layers, None if statistics is None else [statistics])
        return [{layer: frames[0] for layer, frames in features.items()}]

    return halve_on_oom([samples], run)[0]


def _chunks(read: Read, num_samples: int, chunk_samples: int) -> Iterator[torch.Tensor]:
    for start in range(0, num_samples, chunk_samples):
        yield _span(read, start, min(start + chunk_samples, num_samples))


def _span(read: Read, start: int, stop: int) -> torch.Tensor:
    samples = torch.tensor(read(start, stop))
    if samples.shape != (stop - start,):
        raise ConfigError(f"samples {start} .. {stop} were asked for and {tuple(samples.shape)} read")
    return samples
