"""`voxtok transcribe`: audio files -> text in one call, a line of JSON a file, with times and confidences of words.

Files longer than a window are read, encoded and decoded window by window, so that memory does not grow with them.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from voxtok.asr.alignment import Word, align, confidence_of, frame_edges_s, words_of
from voxtok.asr.decode_asr import model_folder
from voxtok.asr.examples import Example, collate, example_of, require_source, side_by_side
from voxtok.asr.features import FeatureExtractor, open_extractor
from voxtok.asr.long_audio import LongAudio, Window, joined, plan
from voxtok.asr.recognizer import Recognizer
from voxtok.asr.search import SearchConfig, Searcher, default_search
from voxtok.asr.tokenizers import open_tokenizers
from voxtok.manifests.audio import describe, num_samples, read_span
from voxtok.manifests.samples import mono, resample
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import BadAudio, ConfigError, VoxtokError
from voxtok.runtime.files import atomic
from voxtok.tokenize.batches import halve_on_oom
from voxtok.tokenize.tokenizer import Tokenizer

Samples = npt.NDArray[np.float32]
Read = Callable[[int, int], Samples]
"""Samples start .. stop of a recording."""


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
        no_path: begin and end in seconds of windows in which the search, with a graph, found no path.
    """

    text: str
    duration_s: float
    confidence: float | None
    words: tuple[Word, ...]
    no_path: tuple[tuple[float, float], ...]


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
        waiting = iter(spans)
        windows: list[Window] = []
        while chosen := list(islice(waiting, self.long.batch)):
            windows += halve_on_oom(chosen, lambda spans: self._windows(read, spans))
        words = joined(windows)
        text = " ".join(word.text for word in words)
        no_path = tuple((window.start_s, window.stop_s) for window in windows if window.words is None)
        return Transcript(text, length / rate, confidence_of(words), tuple(words), no_path)

    @torch.inference_mode()
    def _windows(self, read: Read, spans: Sequence[tuple[int, int]]) -> list[Window]:
        """What is heard in each span."""
        items = [self._example(read(start, stop)) for start, stop in spans]
        recognizer = self.searcher.recognizer
        encoded = recognizer.encode(collate(items).to(recognizer.device))
        found = []
        rows = zip(spans, items, self.searcher.search(encoded), strict=True)
        for place, ((start, stop), item, nbest) in enumerate(rows):
            start_s, words = start / self.sampling_rate, None
            if nbest:
                frames = encoded.values[place, : int(encoded.lengths[place])]
                edges_s = frame_edges_s(item, recognizer.source, recognizer.config.encoder.subsampling, len(frames))
                edges_s = [start_s + edge_s for edge_s in edges_s]
                pieces = align(recognizer, frames, nbest[0])
                words = tuple(words_of(recognizer.text, nbest[0].numbers, pieces, edges_s))
            found.append(Window(start_s, stop / self.sampling_rate, words))
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


def transcribe_files(transcriber: Transcriber, files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each file: text, duration_s, confidence and words, or the reason why there is none."""
    for file in files:
        try:
            yield {"file": file, **asdict(transcriber.file(file))}
        except BadAudio as error:
            yield {"file": file, "reason": error.reason, "detail": error.detail}
        except VoxtokError as error:
            yield {"file": file, "reason": "not transcribed", "detail": str(error)}


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
