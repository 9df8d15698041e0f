"""Frames for k-means: re-iterable streams of (n, D) chunks in bounded memory, each frame with a random key.

A frame's key is a hash of (seed, index of its utterance in the whole corpus, index of the frame in it). So "the n
frames with the smallest keys" is a random sample that does not depend on ranks, chunks or order, and smaller samples
are nested in larger ones.
"""

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import torch as safetensors

from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import read_json, write_bytes, write_json

log = logging.getLogger("voxtok")

CHUNK_FRAMES = 16384
EVERY_KEY = 2**63 - 1
"""No key is larger."""


@dataclass(frozen=True)
class Chunk:
    """Some frames and their keys."""

    frames: torch.Tensor  # (n, D), any float type
    keys: torch.Tensor  # (n,) int64, 0 .. 2^63 - 1

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.keys)

    def below(self, key: int) -> "Chunk":
        """The frames whose keys are at most `key`."""
        if key == EVERY_KEY:
            return self
        chosen = self.keys <= key
        return Chunk(self.frames[chosen], self.keys[chosen])


class FrameSource(Protocol):
    """This rank's frames: `chunks` gives the same chunks in the same order every time.

    Attributes:
        width: D, dimensions of a frame.
        largest_key: frames with larger keys were left out, to keep a bound.
    """

    width: int
    largest_key: int

    def chunks(self) -> Iterator[Chunk]:
        """One pass over all frames."""
        ...


def frame_keys(seed: int, utterance: int, start: int, stop: int) -> torch.Tensor:
    """Keys of the frames start .. stop - 1 of one utterance: (stop - start,) int64, uniform over 0 .. 2^63 - 1.

    SplitMix64 (Steele, Lea, Flood 2014) used as a counter-based hash, twice: seed and utterance, then frame.
    """
    stream = _splitmix(_splitmix(np.array([seed % 2**64], np.uint64)) ^ np.array([utterance], np.uint64))
    counters: npt.NDArray[np.uint64] = np.arange(start, stop, dtype=np.uint64)
    keys = _splitmix(stream + counters) >> np.uint64(1)
    return torch.from_numpy(keys.astype(np.int64))


def _splitmix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    mixed = state + np.uint64(0x9E3779B97F4A7C15)  # arithmetic of uint64 arrays wraps around, as it should here
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class UtteranceFrames:
    """Frames that a callable computes utterance by utterance, anew in every pass.

    Args:
        width: D.
        utterances: returns an iterator over (index in the whole corpus, (n, D) frames); always the same ones.
        seed: of the keys.
    """

    largest_key = EVERY_KEY

    def __init__(self, width: int, utterances: Callable[[], Iterator[tuple[int, torch.Tensor]]], seed: int) -> None:
        self.width = width
        self._utterances = utterances
        self._seed = seed

    def chunks(self) -> Iterator[Chunk]:
        """One pass; short utterances are joined, long ones cut.

        Raises:
            ConfigError: frames of another width, or NaN or infinite ones; names the utterance.
        """
        return _joined(self._parts())

    def _parts(self) -> Iterator[Chunk]:
        for index, frames in self._utterances():
            if frames.ndim != 2 or frames.shape[1] != self.width:
                raise ConfigError(f"utterance {index}: frames are (n, {self.width}), not {tuple(frames.shape)}")
            finite = torch.isfinite(frames).all(dim=1)
            if not finite.all():
                raise ConfigError(f"utterance {index}: frame {int((~finite).nonzero()[0])} is not finite")
            for start in range(0, len(frames), CHUNK_FRAMES):
                part = frames[start : start + CHUNK_FRAMES]
                yield Chunk(part, frame_keys(self._seed, index, start, start + len(part)))


def _joined(parts: Iterable[Chunk]) -> Iterator[Chunk]:
    """Join small parts into chunks of at least CHUNK_FRAMES, but for the last."""
    waiting: list[Chunk] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= CHUNK_FRAMES:
            yield _concatenated(waiting)
            waiting = []
    if sum(map(len, waiting)):
        yield _concatenated(waiting)


def _concatenated(parts: list[Chunk]) -> Chunk:
    return Chunk(torch.cat([part.frames for part in parts]), torch.cat([part.keys for part in parts]))


class ArrayFrames:
    """Frames of one array: rows start, start + 1, ... of the whole data.

    Args:
        array: (n, D) floats; a memory map is read without copying where it was opened with mode "c".
        seed: of the keys.
        start: index of the first row in the whole data, where this is one rank's share of it.
    """

    largest_key = EVERY_KEY

    def __init__(self, array: npt.NDArray[np.floating] | torch.Tensor, seed: int, start: int = 0) -> None:
        if array.ndim != 2:
            raise ConfigError(f"frames are (n, D), not {tuple(array.shape)}")
        self.width = int(array.shape[1])
        self._array = array
        self._seed = seed
        self._start = start

    def chunks(self) -> Iterator[Chunk]:
        """One pass."""
        for begin in range(0, len(self._array), CHUNK_FRAMES):
            part = self._array[begin : begin + CHUNK_FRAMES]
            if not isinstance(part, torch.Tensor):
                part = torch.from_numpy(part if part.flags.writeable else part.copy())
            first = self._start + begin
            yield Chunk(part, frame_keys(self._seed, 0, first, first + len(part)))


class MappedFrames:
    """Another stream's frames after a function of them, computed in every pass.

    Args:
        source: the frames.
        width: dimensions after the function.
        function: (n, D) frames to (n, width), row by row, on any device.
    """

    def __init__(self, source: FrameSource, width: int, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.width = width
        self.largest_key = source.largest_key
        self._source = source
        self._function = function

    def chunks(self) -> Iterator[Chunk]:
        """One pass."""
        for chunk in self._source.chunks():
            yield Chunk(self._function(chunk.frames).cpu(), chunk.keys)


def columns(source: FrameSource, first: int, width: int) -> MappedFrames:
    """The dimensions first .. first + width - 1 of every frame, such as one of several layers side by side."""
    return MappedFrames(source, width, lambda frames: frames[:, first : first + width].contiguous())


def cached(source: FrameSource, where: Path | Literal["memory"], dtype: torch.dtype, max_bytes: int) -> "CachedFrames":
    """Run through `source` once and keep its frames; a complete cache on disk is used as it is.

    Where the frames pass the bound, the half of them with the larger keys is left out, and again until they fit: what
    stays is a random subset, which the health report counts.

    Args:
        source: the frames.
        where: "memory", or this rank's own folder.
        dtype: number format of the cache: float16, bfloat16 or float32.
        max_bytes: bound of the cache.

    Raises:
        ConfigError: the bound does not hold one frame, or a value is too large for `dtype`.
    """
    max_frames = max_bytes // (source.width * dtype.itemsize + 8)
    if max_frames < 1:
        raise ConfigError(f"a cache of {max_bytes} bytes cannot hold one frame of {source.width} dimensions")
    if where == "memory":
        memory = _MemoryStore()
        return CachedFrames(source.width, memory, _fill(memory, source, dtype, max_frames))
    settings = {"version": 1, "width": source.width, "dtype": str(dtype), "max_frames": max_frames}
    mark = where / "complete.json"
    if mark.exists() and read_json(mark)["settings"] == settings:
        found = read_json(mark)
        return CachedFrames(source.width, _DiskStore(where, found["files"]), found["largest_key"])
    shutil.rmtree(where, ignore_errors=True)
    disk = _DiskStore(where, [])
    largest_key = _fill(disk, source, dtype, max_frames)
    write_json(mark, {"settings": settings, "largest_key": largest_key, "files": disk.files})
    return CachedFrames(source.width, disk, largest_key)


class CachedFrames:
    """The frames that `cached` keeps."""

    def __init__(self, width: int, store: "_MemoryStore | _DiskStore", largest_key: int) -> None:
        self.width = width
        self.largest_key = largest_key
        self._store = store

    def chunks(self) -> Iterator[Chunk]:
        """One pass."""
        return self._store.chunks()


def _fill(store: "_MemoryStore | _DiskStore", source: FrameSource, dtype: torch.dtype, max_frames: int) -> int:
    """Fill an empty store; returns the largest key that was kept."""
    largest_key = source.largest_key
    num_frames = kept = 0
    for chunk in source.chunks():
        num_frames += len(chunk)
        part = _rounded(chunk.below(largest_key), dtype)
        while kept + len(part) > max_frames:
            largest_key //= 2
            part = part.below(largest_key)
            store.replace(_joined(old.below(largest_key) for old in store.chunks()))
            kept = sum(map(len, store.chunks()))
        store.append(part)
        kept += len(part)
    if kept < num_frames:
        log.warning("the cache's bound leaves %d of %d frames, at random", kept, num_frames)
    return largest_key


def _rounded(chunk: Chunk, dtype: torch.dtype) -> Chunk:
    frames = chunk.frames.to(dtype)
    if not torch.isfinite(frames).all():
        largest = float(chunk.frames.abs().max())
        raise ConfigError(f"a value of {largest:g} does not fit a {dtype} cache: use bfloat16 or float32")
    return Chunk(frames.cpu(), chunk.keys)


class _MemoryStore:
    def __init__(self) -> None:
        self._chunks: list[Chunk] = []

    def append(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)

    def replace(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = list(chunks)

    def chunks(self) -> Iterator[Chunk]:
        return iter(self._chunks)


class _DiskStore:
    """One safetensors file a chunk."""

    def __init__(self, folder: Path, files: list[str]) -> None:
        self._folder = folder
        self._written = 0
        self.files = files

    def append(self, chunk: Chunk) -> None:
        name = f"{self._written:06d}.safetensors"
        write_bytes(self._folder / name, safetensors.save({"frames": chunk.frames, "keys": chunk.keys}))
        self._written += 1
        self.files.append(name)

    def replace(self, chunks: Iterator[Chunk]) -> None:
        old = len(self.files)
        for chunk in chunks:
            self.append(chunk)
        for name in self.files[:old]:
            (self._folder / name).unlink()
        del self.files[:old]

    def chunks(self) -> Iterator[Chunk]:
        for name in list(self.files):
            tensors = safetensors.load_file(self._folder / name)
            yield Chunk(tensors["frames"], tensors["keys"])
