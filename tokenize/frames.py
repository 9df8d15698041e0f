"""Frames for k-means: re-iterable streams of (n, D) chunks in bounded memory, each frame with a random key.

A frame's key is a hash of (seed, index of its utterance in the whole corpus, index of the frame in it). So "the n
frames with the smallest keys" is a random sample that does not depend on ranks, chunks or order, and smaller samples
are nested in larger ones.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from voxtok.runtime.errors import ConfigError

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
        num_frames: how many there are, or None where only a pass would tell.
    """

    width: int
    largest_key: int
    num_frames: int | None

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
    num_frames: int | None = None

    def __init__(self, width: int, utterances: Callable[[], Iterator[tuple[int, torch.Tensor]]], seed: int) -> None:
        self.width = width
        self._utterances = utterances
        self._seed = seed

    def chunks(self) -> Iterator[Chunk]:
        """One pass; short utterances are joined, long ones cut.

        Raises:
            ConfigError: frames of another width, or NaN or infinite ones; names the utterance.
        """
        return joined(self._parts())

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


def joined(parts: Iterable[Chunk]) -> Iterator[Chunk]:
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
        self.num_frames: int | None = len(array)
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
        self.num_frames = source.num_frames
        self._source = source
        self._function = function

    def chunks(self) -> Iterator[Chunk]:
        """One pass."""
        for chunk in self._source.chunks():
            yield Chunk(self._function(chunk.frames).cpu(), chunk.keys)


def columns(source: FrameSource, first: int, width: int) -> MappedFrames:
    """The dimensions first .. first + width - 1 of every frame, such as one of several layers side by side."""
    return MappedFrames(source, width, lambda frames: frames[:, first : first + width].contiguous())


class FramesBelow:
    """Another stream's frames whose keys are at most `largest_key`.

    Args:
        source: the frames.
        largest_key: no larger than the source's own.
    """

    def __init__(self, source: FrameSource, largest_key: int) -> None:
        self.width = source.width
        self.largest_key = largest_key
        self._source = source
        self.num_frames: int | None = source.num_frames if largest_key == source.largest_key else None

    def chunks(self) -> Iterator[Chunk]:
        """One pass."""
        if self.largest_key == self._source.largest_key:
            return self._source.chunks()
        return (chunk.below(self.largest_key) for chunk in self._source.chunks())
