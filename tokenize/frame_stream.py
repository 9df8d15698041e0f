"""Audio that comes in chunks: frames as soon as their window is full, the same as those of the whole recording.

A stream computes the windows that the whole recording would be cut into (tokenize/windows.py), each once a frame beyond
it is there; what is left at the end is the recording's last window, or all of it where it never outgrew one. So the
result does not depend on the chunks. What normalises over a whole recording cannot do so in a stream, since its first
frame depends on its last sample: such upstreams need what was measured on another recording, else they are refused, not
normalised by other means that would give other frames.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.extract import ExtractConfig, Reduce, extract_arrays
from voxtok.tokenize.upstream import Upstream
from voxtok.tokenize.windows import Window, WindowConfig, extract_one, extract_window, next_window, window_sizes

Samples = npt.NDArray[np.float32]


class FrameStream:
    """What `reduce` keeps of the features of one recording, as it comes.

    Args:
        upstream: what computes features.
        layers: layer numbers.
        reduce: what is kept of them, one row a frame.
        windows: the recording's windows.
        name: of the upstream, for errors.
        statistics: `upstream.statistics` of another recording, to normalise with in place of the stream's own.

    Attributes:
        latency_s: a frame is returned at the latest by the push that reaches this far beyond the frame's own samples.
            It is one window, which the first frames wait for; later ones wait half an overlap less.

    Raises:
        ConfigError: the upstream normalises over a whole recording, and there are no statistics.
    """

    def __init__(
        self,
        upstream: Upstream,
        layers: Sequence[int],
        reduce: Reduce,
        windows: WindowConfig,
        name: str,
        statistics: torch.Tensor | None = None,
    ) -> None:
        self._statistics = upstream.statistics(()) if statistics is None else statistics
        if statistics is None and len(self._statistics):
            raise ConfigError(
                f"{name} normalises over the whole recording, so its first frame depends on the last sample: "
                "stream mfcc, logmel, or a model with a layer-norm front end and normalization none; "
                "a voice conversion takes an enrolment instead"
            )
        self._window_frames, self._context_frames = window_sizes(upstream, windows)
        self.latency_s = self._window_frames * upstream.hop_samples / upstream.sampling_rate
        self._upstream, self._layers, self._reduce, self._windows = upstream, layers, reduce, windows
        self._buffer = Buffer()
        self._computed = 0  # windows
        self._kept = 0  # frames
        self._finished = False

    def push(self, samples: Samples) -> list[torch.Tensor]:
        """Take the next (num_samples,) at the upstream's rate; the frames that are ready, in parts, perhaps none.

        Raises:
            ConfigError: the stream was finished.
        """
        if self._finished:
            raise ConfigError("this stream is finished: open another for the next recording")
        self._buffer.add(samples)
        parts: list[torch.Tensor] = []
        computed: Window | None = None
        while (window := self._next_window()).last < self._upstream.num_frames(self._buffer.end):
            parts.append(self._compute(window))
            computed = window
        if computed is not None:  # the recording's last window may start just behind it
            self._buffer.forget(computed.first * self._upstream.hop_samples)
        return parts

    def finish(self) -> list[torch.Tensor]:
        """End the recording and return the frames that are left.

        Raises:
            ConfigError: too short for one frame, or the stream was finished before.
        """
        if self._finished:
            raise ConfigError("this stream is finished already")
        self._finished = True
        if self._computed:
            return [self._compute(self._next_window())]
        samples = self._buffer.read(0, self._buffer.end)
        if len(samples) < self._upstream.min_samples:
            raise ConfigError(f"{len(samples)} samples are too short: one frame needs {self._upstream.min_samples}")
        if len(self._statistics):
            return [self._whole(samples)]
        return extract_arrays(
            [samples], self._upstream, self._layers, self._reduce, ExtractConfig(windows=self._windows)
        )

    def _next_window(self) -> Window:
        """The next window of a recording that ends here; it is the same in a longer one if frames follow it."""
        num_frames = self._upstream.num_frames(self._buffer.end)
        return next_window(self._computed, self._kept, num_frames, self._window_frames, self._context_frames)

    @torch.inference_mode()
    def _whole(self, samples: Samples) -> torch.Tensor:
        features = extract_one(self._upstream, torch.tensor(samples), self._layers, self._statistics)
        return self._reduce(features).cpu()

    @torch.inference_mode()
    def _compute(self, window: Window) -> torch.Tensor:
        features = extract_window(self._upstream, self._buffer.read, window, self._layers, self._statistics)
        self._computed += 1
        self._kept = window.keep_to
        return self._reduce(features).cpu()


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
