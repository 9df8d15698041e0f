"""Tokens of audio that comes in chunks: those of the whole recording, whatever the chunks (see frame_stream)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from voxtok.manifests.samples import mono
from voxtok.manifests.tokens import TokenSequence, compact
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.frame_stream import FrameStream
from voxtok.tokenize.tokenizer import Tokenizer


class TokenStream:
    """Tokens of one recording as it comes; `Tokenizer.stream` makes one.

    Example:
        stream = tokenizer.stream(sampling_rate=16000)
        for chunk in microphone:
            send(stream.push(chunk))
        send(stream.finish())

    Attributes:
        latency_s: a frame's token is returned at the latest by the push that reaches this far beyond the frame's own
            samples. It is one window, which the first frames wait for; later ones wait half an overlap less. With
            dedup, a token also waits for the end of its run.

    Raises:
        ConfigError: the tokenizer has no windows, or has subwords, or its upstream normalises over a whole recording.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        config, upstream = tokenizer.config, tokenizer.upstream
        if config.windows is None:
            raise ConfigError("a stream is computed in windows, and this tokenizer has none: fit one with window_s")
        if tokenizer.subwords is not None:
            raise ConfigError("subwords depend on all tokens of an utterance: stream with_bpe(None), then encode those")
        self._frames = FrameStream(upstream, config.layers, tokenizer.quantize, config.windows, config.upstream)
        self.latency_s = self._frames.latency_s
        self._tokenizer = tokenizer
        self._run = OpenRun() if config.dedup else None

    def push(self, samples: npt.ArrayLike) -> TokenSequence:
        """Take the next samples and return the tokens that are ready, perhaps none.

        Args:
            samples: (num_samples,) or (channels, num_samples) at the upstream's rate, of any length; channels are
                averaged.

        Raises:
            ConfigError: samples of another shape or not finite, or the stream was finished.
        """
        return self._tokens(self._frames.push(mono(samples)), end=False)

    def finish(self) -> TokenSequence:
        """End the recording and return the tokens that are left.

        Raises:
            ConfigError: too short for one frame, or the stream was finished before.
        """
        return self._tokens(self._frames.finish(), end=True)

    def _tokens(self, codes: Sequence[torch.Tensor], end: bool) -> TokenSequence:
        none = torch.zeros(0, len(self._tokenizer.vocab_sizes), dtype=torch.int64)
        frames = self._tokenizer.frames(torch.cat([none, *codes]).numpy())
        return frames if self._run is None else self._run.push(frames, end)


class OpenRun:
    """Dedup of tokens that come in parts: the last run is held back, since the next part may go on with it."""

    def __init__(self) -> None:
        self._held: TokenSequence | None = None

    def push(self, frames: TokenSequence, end: bool) -> TokenSequence:
        """The runs that have ended; at the end, all of them.

        Worked: 5 5 and then 5 2 give nothing and then 5 with duration 3; the end gives 2 with duration 1.
        """
        merged = frames.dedup()
        assert merged.durations is not None
        codes, durations = merged.codes, merged.durations.astype(np.int64)
        if self._held is not None and self._held.durations is not None:
            codes = np.concatenate([self._held.codes, codes])
            durations = np.concatenate([self._held.durations.astype(np.int64), durations])
            if len(codes) > 1 and np.array_equal(codes[0], codes[1]):
                durations[1] += durations[0]
                codes, durations = codes[1:], durations[1:]
        ended = len(codes) if end else max(len(codes) - 1, 0)
        rows = [
            TokenSequence(codes[part], frames.frame_rate_hz, frames.fingerprint, compact(durations[part]))
            for part in (slice(ended), slice(ended, None))
        ]
        self._held = rows[1]
        return rows[0]
