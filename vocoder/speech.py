"""Speech to train a vocoder on: utterances in memory, with what the vocoder is told of them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from lhotse.cut import Cut
from safetensors import safe_open
from safetensors.numpy import save

from voxtok.manifests.audio import num_samples, read_audio, read_span
from voxtok.manifests.codebook import Codebook
from voxtok.manifests.identity import inputs_of
from voxtok.manifests.store import TokenStore
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.files import sha256, write_bytes
from voxtok.runtime.progress import Progress, log
from voxtok.tokenize.quantizer import open_quantizer
from voxtok.vocoder.f0 import pitch
from voxtok.vocoder.frame_store import FrameStore
from voxtok.vocoder.speaker import SpeakerModel

Content = npt.NDArray[np.generic]
"""(N, streams) codes or (N, D) float16 features."""
MEASURED_AT_ONCE = 1000
"""Utterances after which measured pitch and speakers are written, so that a killed run does not measure them again."""
NO_NORM = (5.0, 0.3)
"""Mean and deviation of log F0 (about 150 Hz) of a speaker without a voiced frame."""


@dataclass(frozen=True, eq=False)
class Utterance:
    """One training utterance of N frames.

    Attributes:
        cut: where its audio is.
        sampling_rate: of its samples here.
        samples: (T,) int16 kept in memory, or None to read each segment from the file.
        content: (N, ...) codes or features.
        codes: (N, streams) codes beside features, for a vocoder that takes both; else None.
        f0_hz: (N,) pitch, 0 where unvoiced.
        speaker: who speaks, "" where the cut does not say.
        embedding: (E,) of the speaker, measured on this utterance; None where it is no input.
        f0_norm: mean and deviation of the speaker's log F0.
    """

    cut: Cut
    sampling_rate: int
    samples: npt.NDArray[np.int16] | None
    content: Content
    codes: Content | None
    f0_hz: npt.NDArray[np.float32]
    speaker: str
    embedding: npt.NDArray[np.float32] | None
    f0_norm: tuple[float, float] = NO_NORM

    def span(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Samples start .. stop; zeros beyond the end."""
        if self.samples is None:
            found = read_span(self.cut, self.sampling_rate, start, stop)
        else:
            found = self.samples[start:stop].astype(np.float32) / np.float32(32768)
        return np.pad(found, (0, stop - start - len(found)))


@dataclass(frozen=True, eq=False)
class Speech:
    """What a vocoder is trained on.

    Attributes:
        utterances: in the order of the corpus.
        identity: hash of the inputs and of what was measured on them.
        speakers: names, sorted.
    """

    utterances: list[Utterance]
    identity: str
    speakers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is measured on the audio beside the frames."""

    sampling_rate: int
    hop_samples: int
    memory_gb: float
    speaker_model: SpeakerModel | None


def read_tokens(store: TokenStore) -> Iterator[tuple[Cut, Content, Content | None]]:
    """Every cut of a token store with its codes, one row a frame.

    Raises:
        ConfigError: merged tokens of subwords, which do not stand for frames.
    """
    if store.info.bpe is not None:
        raise ConfigError(f"{store.folder} holds subwords: encode with --bpe false to train a vocoder")
    for cut, tokens in store:
        yield cut, tokens.expand().codes, None


def read_frames(store: FrameStore, codebook: Codebook | None) -> Iterator[tuple[Cut, Content, Content | None]]:
    """Every cut of a store of frames, with the codes of its frames where there is a codebook."""
    quantizer = None if codebook is None else open_quantizer(codebook, torch.device("cpu"))
    for cut, frames in store:
        codes = None
        if quantizer is not None:
            codes = quantizer.encode(torch.from_numpy(frames.astype(np.float32))).numpy()
        yield cut, frames, codes


def read_speech(frames: Iterable[tuple[Cut, Content, Content | None]], measures: Measures, measured: Path) -> Speech:
    """Read audio into memory and measure pitch and speaker, once: `measured` keeps the numbers for the next time.

    Raises:
        ConfigError: no utterance can be read.
    """
    rows = list(frames)
    model = measures.speaker_model
    key = sha256(
        [
            [[inputs_of(cut), len(content)] for cut, content, _ in rows],
            [measures.sampling_rate, measures.hop_samples, model and model.fingerprint],
        ]
    )
    kept = _Measured.read(measured, key)
    found: list[Utterance] = []
    left = measures.memory_gb * 2**30
    with Progress("read", sum(cut.duration for cut, _, _ in rows)) as progress:
        for index, (cut, content, codes) in enumerate(rows):
            progress.add(cut.duration)
            try:
                utterance = _read(cut, content, codes, measures, kept.row(index), keep=left > 0)
            except (BadAudio, ConfigError) as error:
                log.warning("left out: %s", error if isinstance(error, BadAudio) else f"{cut.id}: {error}")
                continue
            kept.add(index, utterance)
            left -= 0 if utterance.samples is None else utterance.samples.nbytes
            found.append(utterance)
    if not found:
        raise ConfigError("there is no utterance to train on")
    kept.write()
    speakers = tuple(sorted({utterance.speaker for utterance in found}))
    return Speech(_with_norms(found), key, speakers)


def _read(
    cut: Cut,
    content: Content,
    codes: Content | None,
    measures: Measures,
    known: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None] | None,
    *,
    keep: bool,
) -> Utterance:
    if num_samples(cut, measures.sampling_rate) < measures.hop_samples or not len(content):
        raise BadAudio(cut.id, "too short", "no whole frame")
    samples = read_audio(cut, measures.sampling_rate) if keep or known is None else None
    if known is None:
        assert samples is not None
        embedding = None if measures.speaker_model is None else measures.speaker_model.embed(samples)
        known = pitch(samples, measures.sampling_rate, measures.hop_samples, len(content)), embedding
    integers = None
    if keep and samples is not None:
        integers = np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
    speaker = (cut.supervisions[0].speaker if cut.supervisions else None) or ""
    return Utterance(cut, measures.sampling_rate, integers, content, codes, known[0], speaker, known[1])


def _with_norms(utterances: Sequence[Utterance]) -> list[Utterance]:
    """The utterances with their speakers' mean and deviation of log F0."""
    logs: dict[str, list[npt.NDArray[np.float32]]] = {}
    for utterance in utterances:
        voiced = utterance.f0_hz[utterance.f0_hz > 0]
        if len(voiced):
            logs.setdefault(utterance.speaker, []).append(np.log(voiced))
    norms = {}
    for speaker, parts in logs.items():
        values = np.concatenate(parts)
        norms[speaker] = (float(values.mean()), float(values.std()))
    return [replace(utterance, f0_norm=norms.get(utterance.speaker, NO_NORM)) for utterance in utterances]


class _Measured:
    """Pitch and embeddings on disk, by the place of an utterance in the corpus."""

    def __init__(self, path: Path, key: str, arrays: dict[str, npt.NDArray[np.float32]]) -> None:
        self._path, self._key, self._arrays = path, key, arrays
        self._unwritten = 0

    @classmethod
    def read(cls, path: Path, key: str) -> "_Measured":
        """What is on disk for this key; nothing where there is none."""
        if path.exists():
            with safe_open(path, framework="numpy") as file:
                if json.loads((file.metadata() or {}).get("measured", '""')) == key:
                    return cls(path, key, {name: file.get_tensor(name) for name in file.keys()})
        return cls(path, key, {})

    def row(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None] | None:
        """Pitch and embedding of an utterance, or None."""
        f0_hz = self._arrays.get(f"f0.{index}")
        return None if f0_hz is None else (f0_hz, self._arrays.get(f"speaker.{index}"))

    def add(self, index: int, utterance: Utterance) -> None:
        """Note what was measured."""
        if f"f0.{index}" in self._arrays:
            return
        self._arrays[f"f0.{index}"] = utterance.f0_hz
        if utterance.embedding is not None:
            self._arrays[f"speaker.{index}"] = utterance.embedding
        self._unwritten += 1
        if self._unwritten >= MEASURED_AT_ONCE:
            self.write()

    def write(self) -> None:
        """Write the file, where anything is new."""
        if self._unwritten:
            write_bytes(self._path, save(self._arrays, metadata={"measured": json.dumps(self._key)}))
            self._unwritten = 0
