"""The token sequence that every stage reads and writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxtok.runtime.errors import ConfigError

Codes = npt.NDArray[np.unsignedinteger]


def smallest_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned integer type that holds the tokens 0 .. vocab_size - 1."""
    return np.min_scalar_type(max(vocab_size - 1, 0))


@dataclass(frozen=True)
class TokenSequence:
    """Tokens of one utterance.

    Attributes:
        codes: (frames, streams) unsigned integers; time first, as Lhotse slices arrays. One row a token after dedup.
        frame_rate_hz: frames per second before dedup.
        fingerprint: identity of the tokenizer that made them.
        durations: (tokens,) frames each row stands for after dedup; None where each row is one frame.
    """

    codes: Codes
    frame_rate_hz: float
    fingerprint: str
    durations: npt.NDArray[np.unsignedinteger] | None = None

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.dtype.kind != "u":
            found = f"{self.codes.dtype}{self.codes.shape}"
            raise ConfigError(f"codes are (frames, streams) unsigned integers, not {found}")
        if self.durations is not None and self.durations.shape != self.codes.shape[:1]:
            raise ConfigError(f"{len(self.codes)} tokens cannot have durations of shape {self.durations.shape}")

    def __len__(self) -> int:
        """Number of rows: frames, or tokens after dedup."""
        return len(self.codes)

    @property
    def num_frames(self) -> int:
        """Frames before dedup."""
        return len(self.codes) if self.durations is None else int(self.durations.sum(dtype=np.int64))

    @property
    def duration_s(self) -> float:
        """Frames over the frame rate, in seconds."""
        return self.num_frames / self.frame_rate_hz

    def dedup(self) -> "TokenSequence":
        """Merge runs of equal rows into one row with its duration; already merged sequences stay as they are.

        Worked: codes 5 5 5 2 2 9 at 50 Hz become 5 2 9 with durations 3 2 1, still 0.12 s.
        """
        if self.durations is not None:
            return self
        changes = np.any(self.codes[1:] != self.codes[:-1], axis=1)
        starts = np.flatnonzero(np.concatenate([[len(self.codes) > 0], changes])[: len(self.codes)])
        durations = compact(np.diff(starts, append=len(self.codes)))
        return TokenSequence(self.codes[starts], self.frame_rate_hz, self.fingerprint, durations)

    def expand(self) -> "TokenSequence":
        """The exact inverse of `dedup`: one row a frame."""
        if self.durations is None:
            return self
        return TokenSequence(np.repeat(self.codes, self.durations, axis=0), self.frame_rate_hz, self.fingerprint)

    def spans(self) -> npt.NDArray[np.int64]:
        """(rows, 2) first frame of each row and the one after its last.

        Worked: 5 2 9 with durations 3 2 1 span 0-3, 3-5 and 5-6; over the frame rate, these are seconds.
        """
        durations = np.ones(len(self), dtype=np.int64) if self.durations is None else self.durations
        ends = np.cumsum(durations, dtype=np.int64)
        return np.stack([ends - durations, ends], axis=1)

    def streams(self) -> tuple["TokenSequence", ...]:
        """Each stream alone, one row a frame, so that each can be merged by itself; `stack_streams` is the inverse.

        Worked: rows (1, 4) (1, 5) (1, 5) give streams 1 1 1 and 4 5 5; merged, 1 with duration 3, and 4 5 with 1 2.
        """
        frames = self.expand()
        columns = np.split(frames.codes, self.codes.shape[1], axis=1)
        return tuple(TokenSequence(column, self.frame_rate_hz, self.fingerprint) for column in columns)


def stack_streams(streams: Sequence[TokenSequence]) -> TokenSequence:
    """Streams side by side, one row a frame, each merged or not: the inverse of `TokenSequence.streams`.

    Raises:
        ConfigError: no streams, or they differ in frames, frame rate or tokenizer.
    """
    if len({(stream.num_frames, stream.frame_rate_hz, stream.fingerprint) for stream in streams}) != 1:
        lengths = [stream.num_frames for stream in streams]
        raise ConfigError(
            f"streams of one utterance have equal frames, rate and tokenizer; these have {lengths} frames"
        )
    codes = np.concatenate([stream.expand().codes for stream in streams], axis=1)
    return TokenSequence(codes, streams[0].frame_rate_hz, streams[0].fingerprint)


def concatenate(parts: Sequence[TokenSequence]) -> TokenSequence:
    """Consecutive parts of one utterance as one; rows stay as they are.

    Raises:
        ConfigError: no parts, or they differ in frame rate or tokenizer, or only some have durations.
    """
    if len({(part.frame_rate_hz, part.fingerprint, part.durations is None) for part in parts}) != 1:
        raise ConfigError("parts of one utterance have one frame rate and tokenizer, and all or none are merged")
    codes = np.concatenate([part.codes for part in parts])
    durations = [part.durations for part in parts if part.durations is not None]
    joined = compact(np.concatenate(durations)) if durations else None
    return TokenSequence(codes, parts[0].frame_rate_hz, parts[0].fingerprint, joined)


def compact(durations: npt.NDArray[Any]) -> npt.NDArray[np.unsignedinteger]:
    """Durations in the smallest unsigned type that holds them."""
    return durations.astype(smallest_dtype(int(durations.max(initial=0)) + 1))


def words(tokens: TokenSequence) -> str:
    """Tokens as text: `7 7 12`; the streams of a frame are joined by commas: `7,3 7,3 12,0`."""
    return " ".join(",".join(map(str, row)) for row in tokens.codes.tolist())
