"""Waveforms as tokens or features come: each chunk is computed with the frames around it that its samples depend on.

So the chunks together are the waveform of the whole recording, whatever their sizes: the network's reach is finite, and
the pulses of its source continue at the phase where the chunk before left them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import ConfigError
from voxtok.vocoder.istft import IstftGenerator, followed
from voxtok.vocoder.source import Place

if TYPE_CHECKING:
    from voxtok.vocoder.conditions import Speaker
    from voxtok.vocoder.vocoder import Samples, Vocoder


class VocoderStream:
    """The waveform of one recording as it comes; `Vocoder.stream` makes one.

    Example:
        stream = vocoder.stream(speaker=None)
        for tokens in arriving:
            play(stream.push(tokens))
        play(stream.finish())

    Attributes:
        latency_s: a frame is heard at the latest once frames have come that reach this far beyond it.
    """

    def __init__(
        self, vocoder: "Vocoder", speaker: "Speaker | None", streams: Sequence[int] | None, chunk_frames: int
    ) -> None:
        if chunk_frames < 1:
            raise ConfigError("chunk_frames must be positive")
        if vocoder.model.config.f0_bins:
            raise ConfigError("this vocoder takes the pitch of the whole utterance as an input: it cannot stream")
        self._vocoder, self._speaker, self._streams = vocoder, speaker, streams
        self._chunk_frames = chunk_frames
        self._context = vocoder.model.context_frames
        self.latency_s = (chunk_frames + self._context) * vocoder.hop_samples / vocoder.sampling_rate
        self._content: torch.Tensor | None = None  # from frame self._start on
        self._start = 0
        self._done = 0  # frames whose samples were returned
        self._phase = 0.0  # of the source at the beginning of that frame
        self._finished = False

    def push(self, frames: TokenSequence | torch.Tensor) -> "Samples":
        """Take the next tokens or (N, D) features, and return the samples that are ready, perhaps none.

        Raises:
            TokenizerMismatch: tokens of another tokenizer.
            ConfigError: the stream was finished, or frames of another kind or width.
        """
        if isinstance(frames, TokenSequence):
            return self.push_content(self._vocoder.contents(frames, self._streams))
        return self.push_content(self._vocoder.checked_features(frames))

    def push_content(self, content: torch.Tensor) -> "Samples":
        """As `push`, of what the network takes: (N, S) int64 codes or (N, D) features, as of `Vocoder.contents`.

        Raises:
            ConfigError: the stream was finished.
        """
        if self._finished:
            raise ConfigError("this stream is finished: open another for the next recording")
        self._content = content if self._content is None else torch.cat([self._content, content])
        parts = []
        while self._end() - self._done >= self._chunk_frames + self._context:
            parts.append(self._compute(self._done + self._chunk_frames))
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    def finish(self) -> "Samples":
        """End the recording and return the samples that are left.

        Raises:
            ConfigError: the stream was finished before.
        """
        if self._finished:
            raise ConfigError("this stream is finished already")
        self._finished = True
        return self._compute(self._end()) if self._end() > self._done else np.zeros(0, dtype=np.float32)

    def _end(self) -> int:
        return self._start + (0 if self._content is None else len(self._content))

    @torch.inference_mode()
    def _compute(self, stop: int) -> "Samples":
        """Samples of the frames self._done .. stop, and what the next chunk needs."""
        assert self._content is not None
        last = min(stop + self._context, self._end())
        batch = self._vocoder.batch([self._content[: last - self._start]], [self._speaker], [None], self._streams)
        place = Place(self._start, self._done - self._start, self._phase)
        made = self._vocoder.model(batch, place)
        generator = self._vocoder.model.generator
        if isinstance(generator, IstftGenerator) and generator.source is not None and stop < last:
            f0_hz, _ = followed(made.pitch, None)
            self._phase = generator.source.phase_at(f0_hz, place, stop - self._start)
        hop = self._vocoder.hop_samples
        begin, end = (self._done - self._start) * hop, (stop - self._start) * hop
        samples: Samples = made.waveforms[0, begin:end].cpu().numpy()
        self._done = stop
        kept = max(stop - self._context, self._start)
        self._content, self._start = self._content[kept - self._start :], kept
        return samples
