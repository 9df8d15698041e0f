"""Conversion of audio that comes in chunks: the whole recording's, whatever the chunks.

Features come window by window as the whole recording would be cut, every frame is matched by itself, and the vocoder
computes each chunk with the frames that its samples depend on. So the chunks together are the conversion of the whole.
An SSL model that normalises over a whole recording takes the measures of an enrolment instead: earlier speech of the
same speaker over the same microphone.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from voxtok.manifests.samples import mono
from voxtok.tokenize.frame_stream import FrameStream
from voxtok.tokenize.windows import WindowConfig
from voxtok.vocoder.conversion import Converter, Samples
from voxtok.vocoder.features import Features, require_same_features


class ConversionStream:
    """The conversion of one recording as it comes; `Converter.stream` makes one.

    Example:
        stream = converter.stream(features, windows=WindowConfig(window_s=1.0, overlap_s=0.5), chunk_frames=10)
        for chunk in microphone:
            play(stream.push(chunk))
        play(stream.finish())

    Args:
        converter: to whose voice.
        features: the SSL model and layer of the pool.
        windows: in which features are computed.
        chunk_frames: that the vocoder computes at once.
        enrolment: (num_samples,) or (channels, num_samples) at the SSL model's rate, by whose loudness and spectrum a
            model that normalises over the recording does so here; the longer, the closer to the whole recording's.

    Attributes:
        latency_s: a sample is heard at the latest once audio has come that reaches this far beyond it: a window of the
            SSL model, and the vocoder's chunk and context.

    Raises:
        TokenizerMismatch: features of another model or layer than the pool's.
        ConfigError: the SSL model normalises over the whole recording and there is no enrolment, or the vocoder takes
            the pitch of the whole.
    """

    def __init__(
        self,
        converter: Converter,
        features: Features,
        windows: WindowConfig,
        chunk_frames: int,
        enrolment: npt.ArrayLike | None = None,
    ) -> None:
        require_same_features(converter.features, features.description, "the source")
        config, upstream = features.config, features.upstream
        known = None if enrolment is None else upstream.statistics([torch.from_numpy(mono(enrolment))])
        self._frames = FrameStream(upstream, [config.layer], features.of_layer, windows, config.upstream, known)
        self._vocoder = converter.vocoder.stream(speaker=converter.speaker, chunk_frames=chunk_frames)
        self._converter = converter
        self.latency_s = self._frames.latency_s + self._vocoder.latency_s

    def push(self, samples: npt.ArrayLike) -> Samples:
        """Take the next samples, and return those of the conversion that are ready, perhaps none.

        Args:
            samples: (num_samples,) or (channels, num_samples) at the SSL model's rate, of any length.

        Raises:
            ConfigError: samples of another shape or not finite, or the stream was finished.
        """
        return self._synthesized(self._frames.push(mono(samples)))

    def finish(self) -> Samples:
        """End the recording and return the samples that are left.

        Raises:
            ConfigError: too short for one frame, or the stream was finished before.
        """
        last = self._synthesized(self._frames.finish())
        return np.concatenate([last, self._vocoder.finish()])

    def _synthesized(self, parts: Sequence[torch.Tensor]) -> Samples:
        ready = [self._vocoder.push(self._converter.match(frames)) for frames in parts]
        return np.concatenate(ready) if ready else np.zeros(0, dtype=np.float32)
