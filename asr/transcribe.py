"""`voxtok transcribe`: audio files -> text in one call, a line of JSON a file, with times and confidences of words.

Files longer than a window are read, encoded and decoded window by window, so that memory does not grow with them; of
two windows that overlap, each gives the words of its side of the longest pause between.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from voxtok.asr.alignment import Word, align, confidence_of, frame_edges_s, words_of
from voxtok.asr.decode_asr import model_folder
from voxtok.asr.examples import Example, collate, example_of, require_source, side_by_side
from voxtok.asr.features import FeatureExtractor, open_extractor
from voxtok.asr.recognizer import Recognizer
from voxtok.asr.search import SearchConfig, Searcher, default_search
from voxtok.asr.tokenizers import open_tokenizers
from voxtok.manifests.audio import describe, num_samples, read_span
from voxtok.manifests.samples import mono, resample
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.files import atomic
from voxtok.tokenize.tokenizer import Tokenizer

Samples = npt.NDArray[np.float32]
Read = Callable[[int, int], Samples]
"""Samples start .. stop of a recording."""

LEAST_OVERLAP_S = 1.0
"""A word should fit into it."""


@dataclass(frozen=True, kw_only=True)
class LongAudio:
    """How recordings longer than a window are cut."""

    window_s: float = 30.0
    """Length of a window; shorter recordings are decoded whole."""
    overlap_s: float = 6.0
    """What neighbouring windows share; the pause that divides them is looked for here."""
    batch: int = 8
    """Windows decoded at a time; memory grows with it."""

    def __post_init__(self) -> None:
        if not LEAST_OVERLAP_S <= self.overlap_s <= self.window_s / 2 or self.batch < 1:
            raise ConfigError(
                f"long.overlap-s is between {LEAST_OVERLAP_S} and half of long.window-s, long.batch at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class TranscribeConfig:
    """Transcribe audio files: `voxtok transcribe MODEL FILE ...`."""

    paths: tuple[str, ...]
    """The recognizer's folder, then audio files."""
    search: SearchConfig | None = None
    """How frames become text; null is a beam search with the recognizer's own heads."""
    long: LongAudio = field(default_factory=LongAudio)
    """Windows of long files."""
    tokenizers: tuple[str, ...] = ()
    """Tokenizer folders to take in place of the copies in the recognizer's folder."""
    upstream: str | None = None
    """Another place of the tokenizer's SSL model, if it moved."""
    out: str | None = None
    """File for the lines of JSON; null prints them."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if len(self.paths) < 2:
            raise ConfigError("give the recognizer's folder and at least one audio file")


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    Attributes:
        text: all of it.
        duration_s: of the audio.
        confidence: geometric mean of the words'; None without words, or without an alignment.
        words: with their times.
    """

    text: str
    duration_s: float
    confidence: float | None
    words: tuple[Word, ...]


@dataclass(frozen=True, eq=False)
class Transcriber:
    """Audio to text.

    Example:
        transcriber = Transcriber.load("exp/asr", device="auto")
        print(transcriber(samples, sampling_rate=16000).text)

    Attributes:
        searcher: the recognizer and its search.
        tokenizers: of its tokens, side by side; empty where it reads features alone.
        extractor: of its features, or None.
        long: how long recordings are cut.
    """

    searcher: Searcher
    tokenizers: list[Tokenizer]
    extractor: FeatureExtractor | None
    long: LongAudio

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: str,
        search: SearchConfig | None = None,
        long: LongAudio | None = None,
        tokenizers: Sequence[str] = (),
        upstream: str | None = None,
    ) -> "Transcriber":
        """Open what `voxtok train-asr` wrote; the arguments are those of TranscribeConfig.

        Raises:
            CorruptFile: not a recognizer's folder.
            TokenizerMismatch: a tokenizer or SSL model is not the one that the recognizer was trained with.
        """
        model = model_folder(folder)
        recognizer = Recognizer.load(model, device=pick_device(device))
        extractor = open_extractor(recognizer.config.inputs, recognizer.device)
        opened = open_tokenizers(model, recognizer.source, device=device, tokenizers=tokenizers, upstream=upstream)
        if extractor is not None:
            found = replace(recognizer.source, features=extractor.identity)
            require_source(recognizer.source, found, str(recognizer.config.inputs.features))
        searcher = Searcher.open(recognizer, search or default_search(recognizer))
        return cls(searcher, opened, extractor, long or LongAudio())

    def __call__(self, samples: npt.ArrayLike, sampling_rate: int) -> Transcript:
        """The transcript of a recording in memory.

        Args:
            samples: (num_samples,) or (channels, num_samples); channels are averaged.
            sampling_rate: Hz.

        Raises:
            ConfigError: too short for one frame, not finite, or of another shape.
        """
        whole = resample(mono(samples), sampling_rate, self.sampling_rate)
        return self.transcribe(lambda start, stop: whole[start:stop], len(whole))

    def file(self, path: Path | str) -> Transcript:
        """The transcript of an audio file, of which no more than some windows is in memory.

        Raises:
            BadAudio: the file is missing, unreadable, empty, too short or has samples that are not finite.
        """
        cut = describe(Path(path), str(path)).to_cut()
        rate = self.sampling_rate
        length = num_samples(cut, rate)
        if length < self.min_samples:
            raise BadAudio(str(path), "too short", f"{length} samples at {rate} Hz; one frame needs {self.min_samples}")
        return self.transcribe(lambda start, stop: read_span(cut, rate, start, stop), length)

    @property
    def sampling_rate(self) -> int:
        """Hz of what `transcribe` reads."""
        upstream = self.tokenizers[0].upstream if self.extractor is None else self.extractor.upstream
        return upstream.sampling_rate

    @property
    def min_samples(self) -> int:
        """Fewer give no frame."""
        upstreams = [tokenizer.upstream for tokenizer in self.tokenizers]
        upstreams += [self.extractor.upstream] if self.extractor is not None else []
        return max(-(-upstream.min_samples * self.sampling_rate // upstream.sampling_rate) for upstream in upstreams)

    def transcribe(self, read: Read, length: int) -> Transcript:
        """The transcript of `length` samples that `read` gives, at this transcriber's rate."""
        rate = self.sampling_rate
        spans = plan(length, round(self.long.window_s * rate), round(self.long.overlap_s * rate))
        if len(spans) > 1 and not self._aligns:
            raise ConfigError("long recordings are joined by times of words: train with CTC or a transducer")
        words: list[Word] = []
        waiting = iter(spans)
        found: list[tuple[int, int, list[Word]]] = []
        while chosen := list(islice(waiting, self.long.batch)):
            found = found[-1:] + self._windows(read, chosen)
            for (_, stop, before), (start, _, after) in pairwise(found):
                cut_s = pause(before, start / rate, stop / rate)
                words += [word for word in before if middle(word) < cut_s]
                after[:] = [word for word in after if middle(word) >= cut_s]
        words += found[-1][2]
        text = " ".join(word.text for word in words)
        return Transcript(text, length / rate, confidence_of(words), tuple(words))

    @torch.inference_mode()
    def _windows(self, read: Read, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int, list[Word]]]:
        """Each span with its words, in seconds of the recording."""
        items = [self._example(read(start, stop)) for start, stop in spans]
        recognizer = self.searcher.recognizer
        encoded = recognizer.encode(collate(items).to(recognizer.device))
        found = []
        rows = zip(spans, items, self.searcher.search(encoded), strict=True)
        for place, ((start, stop), item, nbest) in enumerate(rows):
            words: list[Word] = []
            if nbest:
                frames = encoded.values[place, : int(encoded.lengths[place])]
                edges_s = frame_edges_s(item, recognizer.source, recognizer.config.encoder.subsampling, len(frames))
                edges_s = [start / self.sampling_rate + edge_s for edge_s in edges_s]
                words = words_of(recognizer.text, nbest[0].numbers, align(recognizer, frames, nbest[0]), edges_s)
            found.append((start, stop, words))
        return found

    def _example(self, samples: Samples) -> Example:
        """The inputs of one window."""
        rate = self.sampling_rate
        rows = [tokenizer.encode(samples, rate) for tokenizer in self.tokenizers]
        tokens = side_by_side(rows) if rows else None
        features = None
        if self.extractor is not None:
            features = self.extractor.of_samples(samples).numpy()
        found = example_of("", tokens, features, len(samples) / rate)
        if self.searcher.recognizer.config.inputs.context and found.tokens is not None:
            return replace(found, context=found.tokens[:0])  # nothing was said before
        return found

    @property
    def _aligns(self) -> bool:
        return self.searcher.recognizer.ctc is not None or self.searcher.config.method.startswith("transducer")


def plan(length: int, window: int, overlap: int) -> list[tuple[int, int]]:
    """Spans of `length` samples: windows that overlap, the last one as long as what is left.

    Worked: 25 in windows of 10 that overlap by 2 are 0-10, 8-18, 16-25.
    """
    if length <= window:
        return [(0, length)]
    return [(start, min(start + window, length)) for start in range(0, length - overlap, window - overlap)]


def pause(words: Sequence[Word], begin_s: float, end_s: float) -> float:
    """The middle of the longest time between the middles of words, within begin_s .. end_s."""
    inside = [middle(word) for word in words if begin_s < middle(word) < end_s]
    points = [begin_s, *inside, end_s]
    before, after = max(pairwise(points), key=lambda pair: pair[1] - pair[0])
    return (before + after) / 2


def middle(word: Word) -> float:
    """The time in the middle of a word that has times."""
    assert word.start_s is not None and word.end_s is not None
    return (word.start_s + word.end_s) / 2


def transcribe_files(transcriber: Transcriber, files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each file: text, duration_s, confidence and words, or the reason why there is none."""
    for file in files:
        try:
            yield {"file": file, **asdict(transcriber.file(file))}
        except BadAudio as error:
            yield {"file": file, "reason": error.reason, "detail": error.detail}


def main(argv: Sequence[str]) -> int:
    """The command `voxtok transcribe`; 1 where a file could not be transcribed."""
    config = parse(TranscribeConfig, argv, "voxtok transcribe", positional="paths")
    transcriber = Transcriber.load(
        config.paths[0],
        device=config.device,
        search=config.search,
        long=config.long,
        tokenizers=config.tokenizers,
        upstream=config.upstream,
    )
    failed = 0
    rows = transcribe_files(transcriber, config.paths[1:])
    if config.out is None:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False), flush=True)
            failed += "reason" in row
        return int(failed > 0)
    with atomic(config.out) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            failed += "reason" in row
            if "reason" in row:
                print(f"{row['file']}: {row['reason']}: {row['detail']}", file=sys.stderr)
    return int(failed > 0)
