"""The token sequence that every stage reads and writes."""

from dataclasses import dataclass

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
        durations = np.diff(starts, append=len(self.codes))
        longest = int(durations.max(initial=0))
        return TokenSequence(
            self.codes[starts], self.frame_rate_hz, self.fingerprint, durations.astype(smallest_dtype(longest + 1))
        )

    def expand(self) -> "TokenSequence":
        """The exact inverse of `dedup`: one row a frame."""
        if self.durations is None:
            return self
        return TokenSequence(np.repeat(self.codes, self.durations, axis=0), self.frame_rate_hz, self.fingerprint)


def words(tokens: TokenSequence) -> str:
    """Tokens as text: `7 7 12`; the streams of a frame are joined by commas: `7,3 7,3 12,0`."""
    return " ".join(",".join(map(str, row)) for row in tokens.codes.tolist())
