"""What a text-to-token model is trained on: a store's utterances with the rows of every symbol, and who speaks.

out/durations.jsonl    one line an utterance: its symbols, and the frames of each; read again by a run that goes on
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from voxtok.manifests.audio import read_audio
from voxtok.manifests.store import TokenStore
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.files import read_jsonl, sha256, write_jsonl
from voxtok.runtime.progress import log
from voxtok.tokenize.tokenizer_folder import require_same
from voxtok.tts.aligner import AlignerConfig, Spoken, align
from voxtok.tts.network import TtsShape
from voxtok.tts.synthesizer import Speakers
from voxtok.tts.text import TextConfig, TextFrontEnd
from voxtok.tts.utterances import (
    Ints,
    Rejected,
    Source,
    Transcribed,
    Utterance,
    aligned_durations,
    phones_of,
    rowed,
    source_of,
    text_of,
    tokens_hash,
    transcribed,
)
from voxtok.vocoder.speaker import load_speaker_model

DurationSource = Literal["ctc", "alignment"]


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Which utterances, and how their texts, durations and speakers are found."""

    store: str
    """Token store whose cuts have texts."""
    valid: str | None = None
    """Token store of the same tokenizer, of speech to measure the losses on at every checkpoint."""
    text: TextConfig
    """How sentences become symbols."""
    text_field: str = "text"
    """text, or the custom field of the supervisions that has the text as it is written, such as raw_text."""
    durations: DurationSource
    """ctc: from an aligner that is trained on these utterances. alignment: from their phone alignments."""
    aligner: AlignerConfig = field(default_factory=AlignerConfig)
    """How the aligner is trained, for durations ctc."""
    speaker_model: str = "mini"
    """What measures speaker embeddings, for model.speaker embedding and for vocoders: mini or a folder."""

    def __post_init__(self) -> None:
        if self.durations == "alignment" and self.text.kind == "characters":
            raise ConfigError("data.durations alignment needs phones: set data.text.kind to phones or lexicon")


@dataclass(frozen=True, eq=False)
class Corpus:
    """Training utterances, and what they have in common.

    Attributes:
        utterances: to train on.
        valid: to measure on.
        front: the text front end, with the symbols of the training texts.
        source: what made the tokens.
        speakers: who speaks.
        rejected: what is not used, with reasons.
    """

    utterances: list[Utterance]
    valid: list[Utterance]
    front: TextFrontEnd
    source: Source
    speakers: Speakers
    rejected: list[dict[str, str]]


def read_corpus(config: CorpusConfig, shape: TtsShape, out: Path, seed: int, ranks: Ranks) -> Corpus:
    """Read, align and lay out the utterances; the first rank aligns, and the others read what it wrote.

    Raises:
        ConfigError: no text that can be said, or no utterance with durations.
        TokenizerMismatch: `valid` has tokens of another tokenizer.
    """
    stores = [TokenStore.open(folder) for folder in (config.store, config.valid) if folder is not None]
    source = source_of(stores[0])
    require_same(source.fingerprint, stores[-1].fingerprint, str(stores[-1].folder))
    front = TextFrontEnd.build([text_of(cut, config.text_field) for cut, _ in stores[0]], config.text)
    rejected = Rejected()
    parts = [transcribed(store, front, config.text_field, rejected) for store in stores]
    every = [one for part in parts for one in part]
    durations = _durations(every, config, front, source, out, seed, ranks, rejected)
    speakers = _speakers(parts[0], shape, config.speaker_model)
    voices = _voices(every, shape, config.speaker_model, speakers, rejected)
    laid_out = [
        None if length is None or isinstance(voice, str) else rowed(one, length, source, shape.rows, voice)
        for one, length, voice in zip(every, durations, voices, strict=True)
    ]
    count = len(parts[0])
    utterances = [one for one in laid_out[:count] if one is not None]
    if not utterances:
        raise ConfigError(f"no utterance of {config.store} can be used: {rejected.rows[0]['detail']}")
    if rejected.rows:
        log.warning("%d utterances are not used; the first: %s", len(rejected.rows), rejected.rows[0])
    valid = [one for one in laid_out[count:] if one is not None]
    return Corpus(utterances, valid, front, source, speakers, rejected.rows)


def _durations(
    every: Sequence[Transcribed], config: CorpusConfig, front: TextFrontEnd, source: Source, out: Path, seed: int,
    ranks: Ranks, rejected: Rejected,
) -> list[Ints | None]:  # fmt: skip
    """Frames of the symbols of each utterance, or None where there are none, which is noted."""
    path = out / "durations.jsonl"
    aligned = config.durations == "alignment"
    content = [
        [one.cut.id, one.ids.tolist(), tokens_hash(one.tokens), phones_of(one.cut) if aligned else None]
        for one in every
    ]  # fmt: skip
    aligner = [config.durations, str(config.aligner), seed]
    key = sha256([source.described(), front.sha256, aligner, content])
    if ranks.is_first and not (path.exists() and next(read_jsonl(path), None) == {"key": key}):
        found = _align(every, config, front, source, seed)
        rows = [
            {"id": one.cut.id, "symbols": front.written(one.ids.tolist())}
            | ({"why": frames} if isinstance(frames, str) else {"frames": frames.tolist()})
            for one, frames in zip(every, found, strict=True)
        ]
        write_jsonl(path, [{"key": key}, *rows])
    ranks.barrier()
    read = list(read_jsonl(path))[1:]
    for one, row in zip(every, read, strict=True):
        if "why" in row:
            rejected.add(one.cut, "alignment", row["why"])
    return [np.array(row["frames"], dtype=np.int64) if "frames" in row else None for row in read]


def _align(
    every: Sequence[Transcribed], config: CorpusConfig, front: TextFrontEnd, source: Source, seed: int
) -> list[Ints | str]:
    if config.durations == "alignment":
        return [aligned_durations(one, front) for one in every]
    spoken = [Spoken(one.ids, one.tokens.expand().codes.astype(np.int64)) for one in every]
    found = align(spoken, front.boundaries, source.vocab_sizes, front.vocab_size, config.aligner, seed)
    return [
        f"{len(one.codes)} frames are too few for its {len(one.ids)} symbols" if frames is None else frames
        for one, frames in zip(spoken, found, strict=True)
    ]


def _speakers(training: Sequence[Transcribed], shape: TtsShape, speaker_model: str) -> Speakers:
    if shape.speaker == "table":
        return Speakers(names=tuple(sorted({one.speaker for one in training} - {""})))
    if shape.speaker == "embedding":
        model = load_speaker_model(speaker_model)
        return Speakers(width=model.width, model=model.fingerprint)
    return Speakers()


def _voices(
    every: Sequence[Transcribed], shape: TtsShape, speaker_model: str, speakers: Speakers, rejected: Rejected
) -> list[int | npt.NDArray[np.float32] | str | None]:
    """Who speaks each utterance as the network takes it; text says why that is not known, which is noted."""
    if shape.speaker == "none":
        return [None] * len(every)
    found: list[int | npt.NDArray[np.float32] | str | None] = []
    if shape.speaker == "table":
        rows = {name: row for row, name in enumerate(speakers.names)}
        found += [rows.get(one.speaker, f"speaker {one.speaker!r} is none of the training speakers") for one in every]
    else:
        model = load_speaker_model(speaker_model)
        for one in every:
            try:
                found.append(model.embed(read_audio(one.cut, model.sampling_rate)))
            except (BadAudio, ConfigError) as error:
                found.append(str(error))
    for one, voice in zip(every, found, strict=True):
        if isinstance(voice, str):
            rejected.add(one.cut, "speaker", voice)
    return found
