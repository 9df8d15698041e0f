"""A bounded cache of frames, in memory or on disk, so that passes over them need not compute them anew."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from safetensors import torch as safetensors

from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import read_json, write_bytes, write_json
from voxtok.tokenize.frames import Chunk, FrameSource, joined

log = logging.getLogger("voxtok")


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
        return CachedFrames(source.width, memory, *_fill(memory, source, dtype, max_frames))
    settings = {"version": 2, "width": source.width, "dtype": str(dtype), "max_frames": max_frames}
    mark = where / "complete.json"
    if mark.exists() and read_json(mark)["settings"] == settings:
        found = read_json(mark)
        return CachedFrames(source.width, _DiskStore(where, found["files"]), found["largest_key"], found["num_frames"])
    shutil.rmtree(where, ignore_errors=True)
    disk = _DiskStore(where, [])
    largest_key, num_frames = _fill(disk, source, dtype, max_frames)
    found = {"settings": settings, "largest_key": largest_key, "num_frames": num_frames, "files": disk.files}
    write_json(mark, found)
    return CachedFrames(source.width, disk, largest_key, num_frames)


class CachedFrames:
    """The frames that `cached` keeps."""

    def __init__(self, width: int, store: "_MemoryStore | _DiskStore", largest_key: int, num_frames: int) -> None:
        self.width = width
        self.largest_key = largest_key
        self.num_frames: int | None = num_frames
        self._store = store

    def chunks(self) -> Iterator[Chunk]:
        """One pass."""
        return self._store.chunks()


def _fill(
    store: "_MemoryStore | _DiskStore", source: FrameSource, dtype: torch.dtype, max_frames: int
) -> tuple[int, int]:
    """Fill an empty store; returns the largest key that was kept, and the number of frames."""
    largest_key = source.largest_key
    num_frames = kept = 0
    for chunk in source.chunks():
        num_frames += len(chunk)
        part = _rounded(chunk.below(largest_key), dtype)
        while kept + len(part) > max_frames:
            largest_key //= 2
            part = part.below(largest_key)
            store.replace(joined(old.below(largest_key) for old in store.chunks()))
            kept = sum(map(len, store.chunks()))
        store.append(part)
        kept += len(part)
    if kept < num_frames:
        log.warning("the cache's bound leaves %d of %d frames, at random", kept, num_frames)
    return largest_key, kept


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
