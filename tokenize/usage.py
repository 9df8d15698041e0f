"""How the vocabulary is used, and what the tokens cost: usage, perplexity, bitrate, tokens per second."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.purity import Counts, entropy_bits


@dataclass(frozen=True)
class Usage:
    """Statistics of one stream of tokens; `_dedup` counts a run of equal tokens once.

    Bitrates follow Chang et al. 2024 (Interspeech discrete speech challenge): tokens per second times bits a token,
    log2 K as printed there, or the entropy of single tokens, what an ideal memoryless code would take. Those after
    dedup leave out the durations. Lower is better at equal quality.

    Attributes:
        vocab_size: K.
        used: tokens that occur at all; higher is better.
        usage: used / K, 0 to 1; higher is better.
        entropy_bits: of single frames' tokens; at most log2 K.
        perplexity: 2 ** entropy_bits, as if so many tokens were used equally often; higher is better, at most K.
        frame_rate_hz: tokens per second before dedup.
        bitrate_bps: frame_rate_hz * entropy_bits.
        bitrate_log2k_bps: frame_rate_hz * log2 K.
        tokens_per_s: after dedup; lower is better at equal quality.
        entropy_dedup_bits: of single tokens after dedup.
        bitrate_dedup_bps: tokens_per_s * entropy_dedup_bits.
        bitrate_dedup_log2k_bps: tokens_per_s * log2 K.
        segment_ms: mean duration of a run; phones are about 80 ms long.
        frames: before dedup.
        tokens: after dedup.
    """

    vocab_size: int
    used: int
    usage: float
    entropy_bits: float
    perplexity: float
    frame_rate_hz: float
    bitrate_bps: float
    bitrate_log2k_bps: float
    tokens_per_s: float
    entropy_dedup_bits: float
    bitrate_dedup_bps: float
    bitrate_dedup_log2k_bps: float
    segment_ms: float
    frames: int
    tokens: int


class CodeCounts:
    """How often each token occurs, before and after dedup, added up utterance by utterance."""

    def __init__(self, vocab_size: int) -> None:
        self.frames: Counts = np.zeros(vocab_size, dtype=np.int64)
        self.tokens: Counts = np.zeros(vocab_size, dtype=np.int64)

    def add(self, codes: npt.NDArray[np.integer]) -> None:
        """Count one utterance's (frames,) tokens; runs do not go on from one utterance to the next."""
        vocab_size = len(self.frames)
        if codes.size and int(codes.max()) >= vocab_size:
            raise ConfigError(f"token {int(codes.max())} is not in a vocabulary of {vocab_size}")
        self.frames += np.bincount(codes, minlength=vocab_size)
        self.tokens += np.bincount(dedup(codes), minlength=vocab_size)


def dedup(codes: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """One token for each run of equal (frames,) tokens."""
    return codes[np.flatnonzero(np.diff(codes.astype(np.int64), prepend=-1))]


def usage(counts: CodeCounts, frame_rate_hz: float) -> Usage | None:
    """Statistics of counted tokens; None where nothing was counted.

    Worked: K = 4, one utterance 0 0 0 1 at 50 Hz: entropy of (3/4, 1/4) = 0.811 bits, perplexity 1.755, 50 * 0.811 =
    40.6 bit/s against 50 * 2 = 100. Dedup leaves 0 1: 25 tokens/s of 1 bit, 25 bit/s, runs of 40 ms.
    """
    frames, tokens = int(counts.frames.sum()), int(counts.tokens.sum())
    if not frames:
        return None
    vocab_size, used = len(counts.frames), int(np.count_nonzero(counts.frames))
    before, after = entropy_bits(counts.frames), entropy_bits(counts.tokens)
    tokens_per_s = frame_rate_hz * tokens / frames
    return Usage(
        vocab_size=vocab_size,
        used=used,
        usage=used / vocab_size,
        entropy_bits=before,
        perplexity=2.0**before,
        frame_rate_hz=frame_rate_hz,
        bitrate_bps=frame_rate_hz * before,
        bitrate_log2k_bps=frame_rate_hz * float(np.log2(vocab_size)),
        tokens_per_s=tokens_per_s,
        entropy_dedup_bits=after,
        bitrate_dedup_bps=tokens_per_s * after,
        bitrate_dedup_log2k_bps=tokens_per_s * float(np.log2(vocab_size)),
        segment_ms=1000.0 / tokens_per_s,
        frames=frames,
        tokens=tokens,
    )
