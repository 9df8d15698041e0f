"""Cuts to features: audio is read ahead by threads, batched by duration, and one pass gives every asked layer.

On a CPU each utterance is computed alone, so its features are bitwise independent of its neighbours; elsewhere
utterances are batched within one call's cuts, so that a shard's content alone decides its batches.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from lhotse.cut import Cut

from voxtok.manifests.audio import Samples, num_samples, read_audio, read_span
from voxtok.runtime.errors import BadAudio, ConfigError, OutOfMemory
from voxtok.tokenize.batches import halve_on_oom, plan_batches
from voxtok.tokenize.codec import NO_WINDOWS, Codec
from voxtok.tokenize.upstream import Upstream
from voxtok.tokenize.windows import Read, WindowConfig, extract_long

Reduce = Callable[[dict[int, torch.Tensor]], torch.Tensor]
"""What is kept of the features: {layer: (N, D)} on the device -> (N, ...), one row a frame."""


def side_by_side(layers: Sequence[int]) -> Reduce:
    """Keeps the layers of a recording as one (N, layers * D) array."""
    return lambda features: torch.cat([features[layer] for layer in layers], dim=1)


LARGEST_NORM = 1e15
"""Of a frame of features; beyond, distances between frames are no longer float32 numbers."""

NON_FINITE = "the model's features are NaN, infinite or above 1e15"
"""Why an utterance of finite samples may have no tokens; its batch-mates have theirs."""


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """How features are computed; only `windows` changes them."""

    windows: WindowConfig | None
    """Recordings longer than a window are computed in overlapping windows; None computes every file whole."""
    max_batch_s: float = 240.0
    """Padded seconds of audio in a batch, on a GPU."""
    buffer_s: float = 14400.0
    """Seconds of audio held in memory to plan batches from, on a GPU (230 MB an hour at 16 kHz)."""
    readers: int = 2
    """Threads that read and resample audio."""
    batched: bool | None = None
    """Whether utterances are batched; null: on anything but a CPU, which is no faster for it."""

    def __post_init__(self) -> None:
        if self.max_batch_s <= 0 or self.buffer_s < self.max_batch_s:
            raise ConfigError("buffer_s must be at least max_batch_s, and both positive")
        if self.readers < 1:
            raise ConfigError("readers must be at least 1")


def extract(
    cuts: Iterable[Cut], upstream: Upstream, layers: Sequence[int], reduce: Reduce, config: ExtractConfig
) -> Iterator[tuple[Cut, torch.Tensor | BadAudio]]:
    """Compute what `reduce` keeps of every cut's features, in the order of the cuts.

    Yields:
        The cut and its (frames, ...) tensor on the CPU, or the BadAudio that says why it has none.

    Raises:
        ConfigError: a layer that the upstream does not have, or windows for a codec.
    """
    for layer in layers:
        if not 0 <= layer <= upstream.num_layers:
            raise ConfigError(f"layer {layer} is not one of this upstream's 0 .. {upstream.num_layers}")
    if config.windows is not None and isinstance(upstream, Codec):
        raise ConfigError(NO_WINDOWS)
    pending: list[tuple[Cut, Samples | BadAudio | None]] = []
    held_s = 0.0
    for cut, samples in read_ahead(cuts, upstream, config):
        pending.append((cut, samples))
        held_s += cut.duration
        if not _batched(upstream, config) or held_s >= config.buffer_s:
            yield from _compute(pending, upstream, layers, reduce, config)
            pending, held_s = [], 0.0
    yield from _compute(pending, upstream, layers, reduce, config)


def read_ahead(
    cuts: Iterable[Cut], upstream: Upstream, config: ExtractConfig
) -> Iterator[tuple[Cut, Samples | BadAudio | None]]:
    """Read audio in threads, a bounded number of seconds ahead; None stands for a cut to be read in windows."""
    waiting: deque[tuple[Cut, Future[Samples | BadAudio | None]]] = deque()
    ahead_s = 0.0
    with ThreadPoolExecutor(config.readers) as pool:
        for cut in cuts:
            waiting.append((cut, pool.submit(_read, cut, upstream, config.windows)))
            ahead_s += cut.duration
            while waiting and (ahead_s > config.max_batch_s or len(waiting) > 64 * config.readers):
                first, future = waiting.popleft()
                ahead_s -= first.duration
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _read(cut: Cut, upstream: Upstream, windows: WindowConfig | None) -> Samples | BadAudio | None:
    if windows is not None and cut.duration > windows.window_s:
        return None
    try:
        samples = read_audio(cut, upstream.sampling_rate)
    except BadAudio as error:
        return error
    if len(samples) < upstream.min_samples:
        needed = f"{len(samples)} samples at {upstream.sampling_rate} Hz, one frame needs {upstream.min_samples}"
        return BadAudio(cut.id, "too short", needed)
    return samples


def _compute(
    pending: Sequence[tuple[Cut, Samples | BadAudio | None]],
    upstream: Upstream,
    layers: Sequence[int],
    reduce: Reduce,
    config: ExtractConfig,
) -> Iterator[tuple[Cut, torch.Tensor | BadAudio]]:
    """Batch the readable utterances among `pending`, and yield all of them in order."""
    readable = [i for i, (_, samples) in enumerate(pending) if isinstance(samples, np.ndarray)]
    utterances = [samples for _, samples in pending if isinstance(samples, np.ndarray)]
    results = dict(zip(readable, _whole(utterances, upstream, layers, reduce, config), strict=True))
    for i, (cut, samples) in enumerate(pending):
        if isinstance(samples, BadAudio):
            yield cut, samples
        elif samples is None:
            read = partial(read_span, cut, upstream.sampling_rate)
            try:
                length = num_samples(cut, upstream.sampling_rate)
                yield cut, _named(cut, _windowed(read, length, upstream, layers, reduce, config))
            except BadAudio as error:
                yield cut, error
            except OutOfMemory as error:
                yield cut, _named(cut, error)
        else:
            yield cut, _named(cut, results.pop(i))


def _named(cut: Cut, result: torch.Tensor | OutOfMemory | None) -> torch.Tensor | BadAudio:
    if isinstance(result, OutOfMemory):
        return BadAudio(cut.id, "too long", str(result))
    return BadAudio(cut.id, "non-finite", NON_FINITE) if result is None else result


def extract_arrays(
    utterances: Sequence[Samples], upstream: Upstream, layers: Sequence[int], reduce: Reduce, config: ExtractConfig
) -> list[torch.Tensor]:
    """What `reduce` keeps of utterances in memory, each (num_samples,) float32 at the upstream's rate, in order.

    Raises:
        ConfigError: an utterance has features that are not finite; names its index.
        OutOfMemory: an utterance, or a window, does not fit in the device's memory.
    """
    limit = float("inf") if config.windows is None else config.windows.window_s * upstream.sampling_rate
    short = [samples for samples in utterances if len(samples) <= limit]
    whole = iter(_whole(short, upstream, layers, reduce, config))
    results = []
    for index, samples in enumerate(utterances):
        result: torch.Tensor | OutOfMemory | None
        if len(samples) <= limit:
            result = next(whole)
        else:
            result = _windowed(partial(_span, samples), len(samples), upstream, layers, reduce, config)
        if isinstance(result, OutOfMemory):
            raise result
        if result is None:
            raise ConfigError(f"utterance {index}: {NON_FINITE}")
        results.append(result)
    return results


def _span(samples: Samples, start: int, stop: int) -> Samples:
    return samples[start:stop]


def _whole(
    utterances: Sequence[Samples], upstream: Upstream, layers: Sequence[int], reduce: Reduce, config: ExtractConfig
) -> list[torch.Tensor | OutOfMemory | None]:
    """Utterances that are not cut into windows, one at a time on a CPU, else in batches.

    None stands for one whose features are not finite, the error for one that memory does not hold.
    """
    if not _batched(upstream, config):
        batches = [[i] for i in range(len(utterances))]
    else:
        sizes = [(i, len(samples)) for i, samples in enumerate(utterances)]
        batches = plan_batches(sizes, int(config.max_batch_s * upstream.sampling_rate))
    run = partial(_run_batch, upstream=upstream, layers=layers, reduce=reduce)
    results: dict[int, torch.Tensor | OutOfMemory | None] = {}
    for batch in batches:
        results.update(zip(batch, _fitting([utterances[i] for i in batch], run), strict=True))
    return [results[i] for i in range(len(utterances))]


def _fitting(
    batch: Sequence[Samples], run: Callable[[Sequence[Samples]], list[torch.Tensor | None]]
) -> list[torch.Tensor | OutOfMemory | None]:
    """The results of a batch, with an error in the place of every utterance that memory does not even hold alone."""
    try:
        return [*halve_on_oom(batch, run)]
    except OutOfMemory as error:
        if len(batch) == 1:
            return [error]
    return [result for samples in batch for result in _fitting([samples], run)]


def _batched(upstream: Upstream, config: ExtractConfig) -> bool:
    return upstream.device.type != "cpu" if config.batched is None else config.batched


def _run_batch(
    batch: Sequence[Samples], *, upstream: Upstream, layers: Sequence[int], reduce: Reduce
) -> list[torch.Tensor | None]:
    lengths = torch.tensor([len(samples) for samples in batch])
    waveforms = torch.zeros(len(batch), int(lengths.max()))
    for row, samples in zip(waveforms, batch, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    with torch.inference_mode():
        features, frames = upstream.extract(waveforms.to(upstream.device), lengths.to(upstream.device), layers)
        counts = frames.tolist()
        packed = {
            layer: torch.cat([row[:count] for row, count in zip(padded, counts, strict=True)])
            for layer, padded in features.items()
        }
        usable = [bool(of_frames.all()) for of_frames in _finite(packed).cpu().split(counts)]
        if not all(usable):
            kept = torch.tensor(usable, device=upstream.device).repeat_interleave(frames.to(upstream.device))
            packed = {layer: part[kept] for layer, part in packed.items()}
        if not any(usable):
            return [None] * len(batch)
        reduced = iter(reduce(packed).cpu().split([count for count, use in zip(counts, usable, strict=True) if use]))
        return [next(reduced) if use else None for use in usable]


def _finite(features: dict[int, torch.Tensor]) -> torch.Tensor:
    """Whether each frame of {layer: (N, D)} can be quantized, in every layer: (N,)."""
    norms = torch.stack([torch.linalg.vector_norm(part.float(), dim=1) for part in features.values()])
    return (norms < LARGEST_NORM).all(dim=0)  # which NaN is not


def _windowed(
    read: Read, length: int, upstream: Upstream, layers: Sequence[int], reduce: Reduce, config: ExtractConfig
) -> torch.Tensor | None:
    """One long recording in overlapping windows; only what `reduce` keeps of each window stays in memory."""
    assert config.windows is not None
    parts = []
    with torch.inference_mode():
        for _, features in extract_long(upstream, read, length, layers, config.windows):
            if not _finite(features).all():
                return None
            parts.append(reduce(features).cpu())
    return torch.cat(parts)
