"""`voxtok score-conversion`: conversions beside the speakers' own recordings -> whose voice they have, and how close.

A pair is one source utterance in one other speaker's voice. Its voice is the target's if its speaker embedding is more
similar to the target's recordings than to the source speaker's. Where the target reads the same sentence, the
mel-cepstral distortion to that reading, along the cheapest alignment, is compared with that of the unconverted source.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from lhotse.cut import Cut

from voxtok.manifests.audio import Samples, read_audio
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.config import parse
from voxtok.runtime.errors import BadAudio, ConfigError, ManifestError
from voxtok.runtime.files import write_json
from voxtok.vocoder.speaker import Embedding, SpeakerModel, load_speaker_model, mean_embedding, similarity
from voxtok.vocoder.spectral import mel_cepstral_distortion

log = logging.getLogger("voxtok")


@dataclass(frozen=True, kw_only=True)
class ScoreConversionConfig:
    """Score conversions against recordings of their sources and targets."""

    converted: tuple[str, ...]
    """Folders that `voxtok convert --name TARGET` wrote."""
    originals: str
    """Cuts of all speakers: the sources under their ids, and recordings of the targets; with speakers and texts."""
    speaker_model: str
    """What measures voices: mini, or a folder (see voxtok.vocoder.speaker)."""
    out: str
    """JSON file to write."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..., for the speaker model."""


@dataclass(frozen=True)
class Pair:
    """Scores of one conversion.

    Attributes:
        source: id of the utterance.
        speaker: who said it.
        target: whose voice it shall have.
        to_target: similarity to the target's recordings.
        to_source: similarity to the source speaker's recordings.
        mcd_db: mel-cepstral distortion to the target's own reading; None where there is none.
        mcd_unconverted_db: the same of the source as it was.
    """

    source: str
    speaker: str
    target: str
    to_target: float
    to_source: float
    mcd_db: float | None
    mcd_unconverted_db: float | None


class Originals:
    """Recordings of speakers, measured as they are asked for."""

    def __init__(self, cuts: Sequence[Cut], model: SpeakerModel) -> None:
        self.by_id = {cut.id: cut for cut in cuts}
        self._model = model
        self.embedding = cache(self._embedding)

    def _embedding(self, speaker: str, text: str) -> Embedding:
        """Of a speaker's recordings of other sentences, or of this one where there is no other."""
        own = [cut for cut in self.by_id.values() if speaker_of(cut) == speaker]
        if not own:
            raise ManifestError(f"the originals have no recording of {speaker}")
        others = [cut for cut in own if text_of(cut) != text] or own
        return mean_embedding(self._model, others)

    def reading(self, speaker: str, text: str) -> Cut | None:
        """The speaker's own reading of a sentence."""
        found = (cut for cut in self.by_id.values() if (speaker_of(cut), text_of(cut)) == (speaker, text))
        return next(found, None) if text else None


def score_conversion(config: ScoreConversionConfig) -> list[Pair]:
    """Write and return the scores of every pair of different speakers that can be measured.

    Raises:
        ConfigError: there is no such pair.
        ManifestError: a source is not among the originals, or a cut has no speaker.
    """
    model = load_speaker_model(config.speaker_model, device=config.device)
    originals = Originals(list(load_cuts(config.originals)), model)
    pairs: list[Pair] = []
    left_out: list[str] = []
    for cut in (cut for folder in config.converted for cut in load_cuts(folder)):
        if cut.id in originals.by_id and speaker_of(originals.by_id[cut.id]) == speaker_of(cut):
            continue
        try:
            pairs.append(scored(cut, originals, model))
        except (BadAudio, ConfigError) as error:  # unreadable, silent or too short to measure
            log.warning("left out: %s: %s", cut.id, error)
            left_out.append(cut.id)
    if not pairs:
        raise ConfigError("there are no conversions between different speakers to score")
    report = {"summary": summary(pairs), "pairs": [asdict(pair) for pair in pairs], "left_out": left_out}
    write_json(Path(config.out), report)
    return pairs


def scored(cut: Cut, originals: Originals, model: SpeakerModel) -> Pair:
    """The scores of one conversion.

    Raises:
        ManifestError: its source is not among the originals.
    """
    if cut.id not in originals.by_id:
        raise ManifestError(f"{cut.id}: the originals have no such recording")
    source = originals.by_id[cut.id]
    speaker, target, text = speaker_of(source), speaker_of(cut), text_of(source)
    voice = model.embed(read_audio(cut, model.sampling_rate))
    reading = originals.reading(target, text)
    distortions: list[float | None] = [None, None]
    if reading is not None:
        rate = int(cut.sampling_rate)
        distortions = [_distortion(reading, read_audio(one, rate), rate) for one in (cut, source)]
    return Pair(
        cut.id,
        speaker,
        target,
        similarity(voice, originals.embedding(target, text)),
        similarity(voice, originals.embedding(speaker, text)),
        *distortions,
    )


def _distortion(reading: Cut, made: Samples, sampling_rate: int) -> float:
    return mel_cepstral_distortion(read_audio(reading, sampling_rate), made, sampling_rate, aligned=False)


def speaker_of(cut: Cut) -> str:
    """Who speaks.

    Raises:
        ManifestError: the cut does not say.
    """
    name = cut.supervisions[0].speaker if cut.supervisions else None
    if not name:
        raise ManifestError(f"{cut.id} has no speaker: convert with --name TARGET, and give originals with speakers")
    return str(name)


def text_of(cut: Cut) -> str:
    """What is said, or "" where the cut does not say."""
    return (cut.supervisions[0].text or "") if cut.supervisions else ""


def summary(pairs: Sequence[Pair]) -> dict[str, float | int | None]:
    """Over all pairs: how many have the target's voice, mean similarities and distortions."""
    read = [pair for pair in pairs if pair.mcd_db is not None and pair.mcd_unconverted_db is not None]
    return {
        "pairs": len(pairs),
        "nearer_the_target": sum(pair.to_target > pair.to_source for pair in pairs) / len(pairs),
        "to_target": float(np.mean([pair.to_target for pair in pairs])),
        "to_source": float(np.mean([pair.to_source for pair in pairs])),
        "read_by_the_target": len(read),
        "mcd_db": float(np.mean([pair.mcd_db for pair in read])) if read else None,
        "mcd_unconverted_db": float(np.mean([pair.mcd_unconverted_db for pair in read])) if read else None,
    }


def table(pairs: Sequence[Pair]) -> str:
    """A row for each target and one for all, in Markdown."""
    lines = [
        "| target | pairs | nearer the target | similarity to target | to source | MCD, dB | unconverted |",
        "|---|---|---|---|---|---|---|",
    ]
    targets = sorted({pair.target for pair in pairs})
    for name in [*targets, "all"]:
        found = summary([pair for pair in pairs if name in (pair.target, "all")])
        share, distances = found["nearer_the_target"], [found["mcd_db"], found["mcd_unconverted_db"]]
        shown = " | ".join("" if one is None else f"{one:.2f}" for one in distances)
        voices = f"{found['to_target']:.2f} | {found['to_source']:.2f}"
        lines.append(f"| {name} | {found['pairs']} | {share:.0%} | {voices} | {shown} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """The command `voxtok score-conversion`."""
    config = parse(ScoreConversionConfig, argv, "voxtok score-conversion")
    print(table(score_conversion(config)))
    return 0
