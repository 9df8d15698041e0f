"""`voxtok vocoder-quality`: recordings and what was made in their place -> how near it is, as JSON and a page."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lhotse.cut import Cut

from voxtok.manifests.audio import Samples, read_audio
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.files import write_bytes, write_json
from voxtok.runtime.progress import Progress, log
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.unit_edit import edits
from voxtok.tokenize.usage import dedup
from voxtok.vocoder.intelligibility import load_utmos, load_whisper, pesq, stoi, word_errors
from voxtok.vocoder.speaker import SpeakerModel, load_speaker_model, similarity
from voxtok.vocoder.spectral import mel_cepstral_distortion, mel_difference, pitch_errors
from voxtok.vocoder.speech_page import Example, example_of, speech_page

RATE = 16000
Row = dict[str, Any]
"""Scores of one utterance by name; None where one could not be measured."""

RATES = {
    "unit_error_rate": ("unit_edits", "units"),
    "wer": ("word_edits", "words"),
    "wer_original": ("word_edits_original", "words"),
}
"""Error rates over all utterances together: edits and what they are counted against."""
MEANS = (
    "mel_distance", "mcd_db", "log_f0_rmse", "voicing_error", "stoi", "pesq", "speaker_similarity", "utmos",
    "utmos_original",
)  # fmt: skip
"""Scores whose mean over utterances is reported."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Compare synthetic speech with the recordings of the same ids."""

    reference: str
    """Recordings: Lhotse cuts, recordings or Shar folder."""
    synthetic: str
    """What was made in their place, such as the folder of `voxtok synthesize`."""
    out: str
    """Folder to write: vocoder_quality.json and vocoder_quality.html."""
    shown: tuple[str, ...] = ()
    """Further speech for the page, not scored: what has the id of a recording stands beside it, as conversions do;
    other ids stand alone, such as sentences of `voxtok say`."""
    aligned: bool
    """Whether frames lie at the same times, as after resynthesis. If not, cepstra are compared along a warped path, and
    spectra, pitch, STOI and PESQ are left out."""
    tokenizer: str | None = None
    """Tokenizer folder, for the unit error rate of the speech made against the recording."""
    speaker_model: str = "mini"
    """What measures how alike the speakers are: mini, or a folder with an ECAPA-TDNN."""
    utmos: str | None = None
    """A predictor of opinion scores as TorchScript."""
    whisper: str | None = None
    """A Whisper folder, for the word error rate against the texts of --reference."""
    examples: int = 8
    """Utterances on the page to listen to, and as many without a recording."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if self.examples < 0:
            raise ConfigError("--examples must not be negative")
        if len(self.columns) < 2 + len(self.shown):
            raise ConfigError(f"columns are named after folders, whose names must differ: {', '.join(self.columns)}")

    @property
    def columns(self) -> dict[str, str]:
        """Names of the page's columns and what they show."""
        made = {Path(path).resolve().name: path for path in (self.synthetic, *self.shown)}
        return {"recording": self.reference, **made}


@dataclass(frozen=True, eq=False)
class Judges:
    """What is needed beside the two recordings."""

    aligned: bool
    speaker_model: SpeakerModel
    tokenizer: Tokenizer | None
    utmos: Callable[[Samples, int], float] | None
    whisper: Callable[[Samples, int], str] | None

    @classmethod
    def open(cls, config: QualityConfig) -> "Judges":
        """Load the models that the configuration names."""
        device = pick_device(config.device)
        return cls(
            config.aligned,
            load_speaker_model(config.speaker_model, device=config.device),
            Tokenizer.load(config.tokenizer, device=config.device) if config.tokenizer else None,
            load_utmos(config.utmos, device) if config.utmos else None,
            load_whisper(config.whisper, device) if config.whisper else None,
        )

    def row(self, real: Samples, made: Samples, text: str | None) -> Row:
        """Scores of one utterance.

        Args:
            real, made: (T,) float32 at 16 kHz; of lengths that may differ.
            text: what is said, where that is known.
        """
        row: Row = {"mcd_db": mel_cepstral_distortion(real, made, RATE, aligned=self.aligned)}
        if self.aligned:
            pitch = pitch_errors(real, made, RATE)
            row |= {"mel_distance": mel_difference(real, made, RATE), **asdict(pitch)}
            row |= {"stoi": stoi(real, made, RATE), "pesq": pesq(real, made, RATE)}
        row["speaker_similarity"] = self._similarity(real, made)
        if self.tokenizer is not None:
            row |= self._units(self.tokenizer, real, made)
        if self.utmos is not None:
            row |= {"utmos": self.utmos(made, RATE), "utmos_original": self.utmos(real, RATE)}
        if self.whisper is not None and text:
            errors, words = word_errors(text, self.whisper(made, RATE))
            original, _ = word_errors(text, self.whisper(real, RATE))
            row |= {"word_edits": errors, "word_edits_original": original, "words": words}
        return row

    def _similarity(self, real: Samples, made: Samples) -> float | None:
        try:
            return similarity(self.speaker_model.embed(real), self.speaker_model.embed(made))
        except ConfigError:  # too short to measure a speaker on
            return None

    def _units(self, tokenizer: Tokenizer, real: Samples, made: Samples) -> Row:
        """Edits of the first stream's tokens after dedup, and how many tokens the recording has."""
        if min(len(real), len(made)) < tokenizer.upstream.min_samples:
            return {}
        codes = [tokenizer.encode(samples, RATE).expand().codes[:, 0] for samples in (real, made)]
        return {"unit_edits": edits(codes[0], codes[1]), "units": len(dedup(codes[0]))}


def pairs_of(reference: Iterable[Cut], synthetic: Iterable[Cut]) -> list[tuple[Cut, Cut]]:
    """Cuts of the same id, in the order of the reference.

    Raises:
        ConfigError: no id is in both.
    """
    made = {cut.id: cut for cut in synthetic}
    pairs = [(cut, made[cut.id]) for cut in reference if cut.id in made]
    if not pairs:
        raise ConfigError("no cut of --synthetic has the id of one of --reference")
    return pairs


def quality(config: QualityConfig) -> dict[str, Any]:
    """Measure every pair; write vocoder_quality.json and vocoder_quality.html; returns what the JSON holds."""
    judges = Judges.open(config)
    pairs = pairs_of(load_cuts(config.reference), load_cuts(config.synthetic))
    rows: list[Row] = []
    with Progress("vocoder-quality", sum(cut.duration for cut, _ in pairs)) as progress:
        for cut, other in pairs:
            progress.add(cut.duration)
            try:
                real, made = read_audio(cut, RATE), read_audio(other, RATE)
            except BadAudio as error:
                log.warning("left out: %s", error)
                continue
            text = cut.supervisions[0].text if cut.supervisions else None
            rows.append({"id": cut.id, **judges.row(real, made, text)})
    described = {**asdict(config), "shown": list(config.shown)}
    report = {"config": described, "utterances": len(rows), "scores": summary(rows), "rows": rows}
    write_json(Path(config.out) / "vocoder_quality.json", report)
    examples, alone = to_hear(config, [row["id"] for row in rows])
    write_bytes(Path(config.out) / "vocoder_quality.html", speech_page(report, examples, alone, RATE).encode())
    return report


def to_hear(config: QualityConfig, scored: Sequence[str]) -> tuple[list[Example], list[Example]]:
    """Utterances for the page, evenly spread: of the scored ones, and of further speech that was never recorded."""
    columns = {name: {cut.id: cut for cut in load_cuts(path)} for name, path in config.columns.items()}
    recorded, _, *shown = columns.values()
    alone = list(dict.fromkeys(name for cuts in shown for name in cuts if name not in recorded))

    def chosen(names: Sequence[str]) -> list[Example]:
        places = np.linspace(0, len(names) - 1, min(config.examples, len(names))).round().astype(int)
        kept = [names[place] for place in places]
        return [
            example_of(name, [(column, cuts[name]) for column, cuts in columns.items() if name in cuts], RATE)
            for name in kept
        ]

    return chosen(scored), chosen(alone)


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Means over the utterances that have a score, and error rates over all together.

    Worked: 1 edit in 4 units and 1 edit in 2 units are a unit error rate of 2 / 6.
    """
    found: dict[str, float] = {}
    for name in MEANS:
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            found[name] = float(np.mean(values))
    for name, (wrong, count) in RATES.items():
        counted = [row for row in rows if wrong in row]
        if counted:
            found[name] = sum(row[wrong] for row in counted) / max(sum(row[count] for row in counted), 1)
    return found


def main(argv: Sequence[str]) -> int:
    """`voxtok vocoder-quality --reference CUTS --synthetic CUTS --aligned true --out FOLDER`."""
    config = parse(QualityConfig, argv, "voxtok vocoder-quality")
    report = quality(config)
    for name, value in report["scores"].items():
        print(f"{name:20} {value:.4f}")
    print(f"{report['utterances']} utterances -> {config.out}/vocoder_quality.html")
    return 0
