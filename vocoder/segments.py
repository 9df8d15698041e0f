"""Training batches: segments of utterances with the samples under their frames.

Which segments a batch holds follows from the seed and the batch's number alone, not from ranks, workers or restarts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.quantizer import Quantizer
from voxtok.vocoder.inputs import Frames
from voxtok.vocoder.source import Place
from voxtok.vocoder.speech import Speech, Utterance

FAR_FRAMES = 10_000


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """How batches are drawn."""

    batch_size: int = 16
    """Segments in a batch, over all ranks."""
    segment_frames: int = 32
    """Frames of a segment; shorter utterances are padded."""
    stream_dropout: float = 0.0
    """Probability that a segment shows the network only some of its token streams, so that any subset will do."""
    quantized_share: float = 0.5
    """Share of segments whose features are those that their tokens stand for, where there is a tokenizer."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.segment_frames < 1:
            raise ConfigError("segments.batch-size and segments.segment-frames must be positive")
        if not (0 <= self.stream_dropout <= 1 and 0 <= self.quantized_share <= 1):
            raise ConfigError("segments.stream-dropout and segments.quantized-share are between 0 and 1")


@dataclass(frozen=True, eq=False)
class Batch:
    """This rank's part of a batch.

    Attributes:
        frames: inputs of the network.
        place: of the segments in an imagined recording: the source's noise changes from batch to batch.
        waveforms: (B, frames * hop_samples) float32, zero where the utterance has ended.
        runs: one row for each run of equal tokens, for the duration predictor; None where there are no tokens.
        durations: (B, runs) int64 frames of each, 0 on padding and for runs that the segment's ends cut.
        share: of the whole batch.
    """

    frames: Frames
    place: Place
    waveforms: torch.Tensor
    runs: Frames | None
    durations: torch.Tensor | None
    share: float

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return Batch(
            self.frames.to(device),
            self.place,
            self.waveforms.to(device),
            None if self.runs is None else self.runs.to(device),
            None if self.durations is None else self.durations.to(device),
            self.share,
        )


def batches(
    speech: Speech,
    config: SegmentConfig,
    hop_samples: int,
    quantizer: Quantizer | None,
    seed: int,
    ranks: Ranks,
    begin: int,
) -> Iterator[Callable[[], Batch]]:
    """Recipes of batches without end, from batch `begin` on; each makes this rank's part of one.

    Args:
        speech: what to draw from; longer utterances are drawn more often.
        config: how.
        hop_samples: of a frame.
        quantizer: looks up features of codes, where utterances have both.
        seed: of everything drawn.
        ranks: every world_size-th segment of a batch is this rank's.
        begin: batches done before.
    """
    ends = np.cumsum([len(utterance.content) for utterance in speech.utterances])
    for number in count(begin):
        yield _Recipe(speech, config, hop_samples, quantizer, seed, ranks, number, ends)


@dataclass(frozen=True, eq=False)
class _Segment:
    content: npt.NDArray[np.generic]  # (N, streams) int64 or (N, D) float32
    codes: npt.NDArray[np.int64] | None  # (N, streams), for durations
    samples: npt.NDArray[np.float32]
    utterance: Utterance
    f0_hz: npt.NDArray[np.float32]
    streams: npt.NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class _Recipe:
    speech: Speech
    config: SegmentConfig
    hop_samples: int
    quantizer: Quantizer | None
    seed: int
    ranks: Ranks
    number: int
    ends: npt.NDArray[np.int64]

    def __call__(self) -> Batch:
        mine = range(self.ranks.rank, self.config.batch_size, self.ranks.world_size)
        if not mine:
            raise ConfigError(f"segments.batch-size {self.config.batch_size} leaves rank {self.ranks.rank} nothing")
        segments = [self._segment(np.random.default_rng([self.seed, self.number, index])) for index in mine]
        first = int(np.random.default_rng([self.seed, self.number]).integers(FAR_FRAMES))
        runs, durations = self._runs(segments)
        return Batch(
            self._frames(segments),
            Place(first_frame=first),
            _padded([segment.samples for segment in segments], self.config.segment_frames * self.hop_samples),
            runs,
            durations,
            len(segments) / self.config.batch_size,
        )

    def _segment(self, rng: np.random.Generator) -> _Segment:
        """One segment, anywhere in the corpus with equal probability."""
        utterance = self.speech.utterances[int(np.searchsorted(self.ends, rng.integers(self.ends[-1]), side="right"))]
        size = self.config.segment_frames
        start = int(rng.integers(max(1, len(utterance.content) - size + 1)))
        stop = min(start + size, len(utterance.content))
        content: npt.NDArray[np.generic] = utterance.content[start:stop]
        codes = None
        if content.dtype.kind != "f":
            content = codes = content.astype(np.int64)
        elif utterance.codes is not None and self.quantizer is not None:
            codes = utterance.codes[start:stop].astype(np.int64)
            if rng.random() < self.config.quantized_share:
                content = self.quantizer.decode(torch.from_numpy(codes)).numpy()
        streams = None
        if self.config.stream_dropout and codes is not None and content is codes:
            streams = _some_streams(rng, codes.shape[1], self.config.stream_dropout)
        samples = utterance.span(start * self.hop_samples, stop * self.hop_samples)
        return _Segment(content, codes, samples, utterance, utterance.f0_hz[start:stop], streams)

    def _frames(self, segments: list[_Segment]) -> Frames:
        size = self.config.segment_frames
        kind = torch.int64 if segments[0].content.dtype.kind != "f" else torch.float32
        streams = [segment.streams for segment in segments if segment.streams is not None]
        return Frames(
            content=_padded([segment.content for segment in segments], size).to(kind),
            lengths=torch.tensor([len(segment.content) for segment in segments]),
            speaker=self._speakers(segments),
            f0_hz=_padded([segment.f0_hz for segment in segments], size),
            f0_norm=torch.tensor([segment.utterance.f0_norm for segment in segments]),
            streams=torch.from_numpy(np.stack(streams)) if streams else None,
        )

    def _speakers(self, segments: list[_Segment]) -> torch.Tensor:
        """Embeddings where they were measured, else rows of the speaker table."""
        embeddings = [segment.utterance.embedding for segment in segments]
        known = [embedding for embedding in embeddings if embedding is not None]
        if known:
            return torch.from_numpy(np.stack(known))
        return torch.tensor([self.speech.speakers.index(segment.utterance.speaker) for segment in segments])

    def _runs(self, segments: list[_Segment]) -> tuple[Frames | None, torch.Tensor | None]:
        found = [_runs_of(segment.codes) for segment in segments if segment.codes is not None]
        if not found:
            return None, None
        contents: list[npt.NDArray[np.generic]] = [codes for codes, _ in found]
        if self.quantizer is not None:
            contents = [self.quantizer.decode(torch.from_numpy(codes)).numpy() for codes, _ in found]
        size = max(len(codes) for codes, _ in found)
        frames = Frames(_padded(contents, size), torch.tensor([len(codes) for codes, _ in found]))
        return frames, _padded([durations for _, durations in found], size)


def _runs_of(codes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Runs of equal rows and their lengths, 0 for the first and the last, whose ends are not seen.

    Worked: 5 5 2 2 2 9 gives 5 2 9 with lengths 0 3 0.
    """
    starts = np.flatnonzero(np.concatenate([[True], np.any(codes[1:] != codes[:-1], axis=1)]))
    durations = np.diff(starts, append=len(codes))
    durations[[0, -1]] = 0
    return codes[starts], durations


def _some_streams(rng: np.random.Generator, count: int, dropout: float) -> npt.NDArray[np.bool_]:
    """All streams, or with probability `dropout` a random subset that is not empty."""
    if rng.random() >= dropout:
        return np.ones(count, dtype=np.bool_)
    kept = rng.random(count) < 0.5
    kept[rng.integers(count)] = True
    return kept


def _padded(rows: Sequence[npt.NDArray[Any]], size: int) -> torch.Tensor:
    """Rows of (n, ...) with n <= size as (B, size, ...), zeros at the end."""
    out = np.zeros((len(rows), size, *rows[0].shape[1:]), dtype=rows[0].dtype)
    for place, row in zip(out, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(out)
