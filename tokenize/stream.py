"""Audio that comes in chunks: tokens as soon as their window is full, the same as those of the whole recording.

A stream computes the windows that the whole recording would be cut into (tokenize/windows.py), each once a frame beyond
it is there; what is left at the end is the recording's last window, or all of it where it never outgrew one. So the
result does not depend on the chunks. What normalises over a whole recording cannot be streamed, since its first token
depends on its last sample: such upstreams are refused, not normalised by other means that would give other tokens.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from voxtok.manifests.tokens import TokenSequence, compact
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.extract import ExtractConfig, extract_arrays
from voxtok.tokenize.tokenizer import Tokenizer, mono
from voxtok.tokenize.windows import Window, extract_window, next_window, window_sizes

Samples = npt.NDArray[np.float32]


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
        windows, upstream = tokenizer.config.windows, tokenizer.upstream
        if windows is None:
            raise ConfigError("a stream is computed in windows, and this tokenizer has none: fit one with window_s")
        if tokenizer.subwords is not None:
            raise ConfigError("subwords depend on all tokens of an utterance: stream with_bpe(None), then encode those")
        self._statistics = upstream.statistics(())
        if len(self._statistics):
            raise ConfigError(
                f"{tokenizer.config.upstream} normalises over the whole recording, so its first token depends on the "
                "last sample: stream mfcc, logmel, or a model with a layer-norm front end and normalization none"
            )
        self._window_frames, self._context_frames = window_sizes(upstream, windows)
        self.latency_s = self._window_frames * upstream.hop_samples / upstream.sampling_rate
        self._tokenizer, self._upstream = tokenizer, upstream
        self._run = OpenRun() if tokenizer.config.dedup else None
        self._buffer = Buffer()
        self._computed = 0  # windows
        self._kept = 0  # frames
        self._finished = False

    def push(self, samples: npt.ArrayLike) -> TokenSequence:
        """Take the next samples and return the tokens that are ready, perhaps none.

        Args:
            samples: (num_samples,) or (channels, num_samples) at the upstream's rate, of any length; channels are
                averaged.

        Raises:
            ConfigError: samples of another shape or not finite, or the stream was finished.
        """
        if self._finished:
            raise ConfigError("this stream is finished: open another for the next recording")
        self._buffer.add(mono(samples))
        codes: list[torch.Tensor] = []
        computed: Window | None = None
        while (window := self._next_window()).last < self._num_frames():
            codes.append(self._compute(window))
            computed = window
        if computed is not None:  # the recording's last window may start just behind it
            self._buffer.forget(computed.first * self._upstream.hop_samples)
        return self._tokens(codes, end=False)

    def finish(self) -> TokenSequence:
        """End the recording and return the tokens that are left.

        Raises:
            ConfigError: too short for one frame, or the stream was finished before.
        """
        if self._finished:
            raise ConfigError("this stream is finished already")
        self._finished = True
        if self._computed:
            return self._tokens([self._compute(self._next_window())], end=True)
        samples = self._buffer.read(0, self._buffer.end)
        if len(samples) < self._upstream.min_samples:
            raise ConfigError(f"{len(samples)} samples are too short: one frame needs {self._upstream.min_samples}")
        tokenizer, config = self._tokenizer, ExtractConfig(windows=self._tokenizer.config.windows)
        whole = extract_arrays([samples], self._upstream, tokenizer.config.layers, tokenizer.quantize, config)
        return self._tokens(whole, end=True)

    def _num_frames(self) -> int:
        return self._upstream.num_frames(self._buffer.end)

    def _next_window(self) -> Window:
        """The next window of a recording that ends here; it is the same in a longer one if frames follow it."""
        return next_window(self._computed, self._kept, self._num_frames(), self._window_frames, self._context_frames)

    @torch.inference_mode()
    def _compute(self, window: Window) -> torch.Tensor:
        layers = self._tokenizer.config.layers
        features = extract_window(self._upstream, self._buffer.read, window, layers, self._statistics)
        self._computed += 1
        self._kept = window.keep_to
        return self._tokenizer.quantize(features).cpu()

    def _tokens(self, codes: Sequence[torch.Tensor], end: bool) -> TokenSequence:
        none = torch.zeros(0, len(self._tokenizer.vocab_sizes), dtype=torch.int64)
        frames = self._tokenizer.frames(torch.cat([none, *codes]).numpy())
        return frames if self._run is None else self._run.push(frames, end)


class Buffer:
    """The latest samples of a recording, found by their place in it."""

    def __init__(self) -> None:
        self.end = 0
        self._start = 0
        self._parts: list[Samples] = []

    def add(self, samples: Samples) -> None:
        """Append samples."""
        self._parts.append(samples)
        self.end += len(samples)

    def read(self, start: int, stop: int) -> Samples:
        """Samples start .. stop of the recording, which must not be forgotten."""
        return self._joined()[start - self._start : stop - self._start]

    def forget(self, start: int) -> None:
        """Drop what lies before `start`."""
        self._parts = [self._joined()[start - self._start :].copy()]
        self._start = start

    def _joined(self) -> Samples:
        if len(self._parts) != 1:
            self._parts = [np.concatenate([np.zeros(0, dtype=np.float32), *self._parts])]
        return self._parts[0]


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
