"""Patterns: several streams of tokens as the sequence that a language model reads, and exactly back.

For two frames of two streams, a0 b0 and a1 b1, with `.` for padding:

    parallel     a0 a1        all streams of a frame in one step
                 b0 b1
    flattened    a0 B0 a1 B1  one token a step; streams take turns, each with numbers of its own
    delayed      a0 a1 .      stream s comes s steps late, so that it is predicted from the streams before it
                 .  b0 b1

As named and compared by Copet et al. 2023 (MusicGen). Padding is one number above a stream's vocabulary.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from voxtok.runtime.errors import ConfigError

PatternName = Literal["parallel", "flattened", "delayed"]
Steps = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """How the tokens of several streams are laid out in steps.

    Worked, vocabularies of 10 and 4, frames (7, 1) (8, 3) (9, 0):
        parallel   (7, 1) (8, 3) (9, 0)
        flattened  7 11 8 13 9 10
        delayed    (7, 4) (8, 1) (9, 3) (10, 0), where 4 and 10 are padding

    Raises:
        ConfigError: no streams, or a vocabulary without tokens.
    """

    name: PatternName
    """parallel, flattened or delayed."""
    vocab_sizes: tuple[int, ...]
    """Number of different tokens of each stream."""

    def __post_init__(self) -> None:
        if self.name not in ("parallel", "flattened", "delayed"):
            raise ConfigError(f"no pattern is called {self.name!r}: there are parallel, flattened and delayed")
        if not self.vocab_sizes or min(self.vocab_sizes) < 1:
            raise ConfigError(f"vocab_sizes has one number of tokens for each stream, not {self.vocab_sizes}")

    @property
    def streams(self) -> int:
        """Number of streams of the tokens."""
        return len(self.vocab_sizes)

    @property
    def step_vocab_sizes(self) -> tuple[int, ...]:
        """Number of different values in each column of the steps, padding included where there is any."""
        match self.name:
            case "parallel":
                return self.vocab_sizes
            case "flattened":
                return (sum(self.vocab_sizes),)
            case "delayed":
                return tuple(size + 1 for size in self.vocab_sizes) if self.streams > 1 else self.vocab_sizes

    def num_steps(self, num_frames: int) -> int:
        """Steps of so many frames; none for none."""
        match self.name:
            case "parallel":
                return num_frames
            case "flattened":
                return num_frames * self.streams
            case "delayed":
                return num_frames + self.streams - 1 if num_frames else 0

    def arrange(self, codes: npt.NDArray[np.integer]) -> Steps:
        """(frames, streams) tokens to (steps, columns): one column where flattened, else one a stream.

        Raises:
            ConfigError: another number of streams, or a token out of range.
        """
        frames = _checked(codes, self.vocab_sizes, "token")
        match self.name:
            case "parallel":
                return frames
            case "flattened":
                return (frames + self._offsets).reshape(-1, 1)
            case "delayed":
                steps = np.tile(np.array(self.vocab_sizes, dtype=np.int64), (self.num_steps(len(frames)), 1))
                for stream in range(self.streams if len(frames) else 0):
                    steps[stream : stream + len(frames), stream] = frames[:, stream]
                return steps

    def restore(self, steps: npt.NDArray[np.integer]) -> Steps:
        """(steps, columns) back to (frames, streams): the exact inverse of `arrange`.

        Raises:
            ConfigError: steps that `arrange` cannot have made; the message says where.
        """
        checked = _checked(steps, self.step_vocab_sizes, "value")
        match self.name:
            case "parallel":
                return checked
            case "flattened":
                return self._unflattened(checked[:, 0])
            case "delayed":
                return self._undelayed(checked)

    @property
    def _offsets(self) -> Steps:
        """(streams,) first number of each stream in the joint vocabulary."""
        return np.cumsum([0, *self.vocab_sizes[:-1]], dtype=np.int64)

    def _unflattened(self, values: Steps) -> Steps:
        if len(values) % self.streams:
            raise ConfigError(f"{len(values)} flattened tokens are not whole frames of {self.streams} streams")
        frames = values.reshape(-1, self.streams) - self._offsets
        wrong = np.argwhere((frames < 0) | (frames >= np.array(self.vocab_sizes)))
        if len(wrong):
            frame, stream = wrong[0].tolist()
            step = frame * self.streams + stream
            raise ConfigError(f"step {step} should be of stream {stream}, and {values[step]} is not")
        return frames

    def _undelayed(self, steps: Steps) -> Steps:
        if 0 < len(steps) < self.streams:
            raise ConfigError(f"{len(steps)} steps are no whole frame: {self.streams} delayed streams take as many")
        num_frames = max(len(steps) - self.streams + 1, 0)
        columns = [steps[stream : stream + num_frames, stream] for stream in range(self.streams)]
        frames = np.stack(columns, axis=1)  # (frames, streams)
        padding = np.array(self.vocab_sizes)
        wrong = np.argwhere(self._delayed_padding(num_frames) != (steps == padding))
        if len(wrong):
            step, stream = wrong[0].tolist()
            found = "padding where a token" if steps[step, stream] == padding[stream] else "a token where padding"
            raise ConfigError(f"step {step} of stream {stream} has {found} belongs")
        return frames

    def _delayed_padding(self, num_frames: int) -> npt.NDArray[np.bool_]:
        """(steps, streams), true where a delayed stream has not begun or has ended."""
        place = np.arange(self.num_steps(num_frames))[:, None] - np.arange(self.streams)[None]
        return (place < 0) | (place >= num_frames)


def _checked(values: npt.NDArray[np.integer], sizes: tuple[int, ...], what: str) -> Steps:
    if values.ndim != 2 or values.shape[1] != len(sizes) or values.dtype.kind not in "iu":
        raise ConfigError(f"{what}s are (N, {len(sizes)}) integers for this pattern, not {values.dtype}{values.shape}")
    wide = values.astype(np.int64)
    wrong = np.argwhere((wide < 0) | (wide >= np.array(sizes)))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ConfigError(f"{what} {wide[row, column]} in row {row}, column {column} is not below {sizes[column]}")
    return wide
