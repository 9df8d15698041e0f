"""`voxtok tts-quality`: how good the speech of `voxtok say` is: against recordings, against voices, and what failed.

Cepstra and pitch are compared along the cheapest path of dynamic time warping, since speech made from text has its own
times. Word and character errors come from a recognizer: `voxtok transcribe` and `voxtok score`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lhotse.cut import Cut

from voxtok.manifests.audio import Samples, read_audio
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.config import parse
from voxtok.runtime.errors import BadAudio, ConfigError, ManifestError
from voxtok.runtime.files import read_json, write_json
from voxtok.runtime.progress import Progress, log
from voxtok.tts.sentences import count_failures
from voxtok.tts.warping import warped_pitch_errors
from voxtok.vocoder.reference import reference_cuts, speech_span_s
from voxtok.vocoder.speaker import Embedding, SpeakerModel, load_speaker_model, mean_embedding, similarity
from voxtok.vocoder.spectral import mel_cepstral_distortion

RATE = 16000
VOICE_RECORDINGS = 50
"""Recordings of a voice that are measured, at the most."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TtsQualityConfig:
    """Measure a folder that `voxtok say` wrote."""

    said: str
    """The folder."""
    out: str
    """JSON file to write."""
    reference: str | None = None
    """Recordings of the same sentences, with the same ids: Lhotse cuts, recordings or Shar folder."""
    voices: tuple[str, ...] = ()
    """Recordings of voices to compare with, each an audio file, a folder of them, or Lhotse cuts."""
    speaker_model: str = "mini"
    """What measures voices: mini, or a folder with an ECAPA-TDNN."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..., of the speaker model."""


def tts_quality(config: TtsQualityConfig) -> dict[str, Any]:
    """Measure every sentence; writes the JSON and returns it.

    Raises:
        ManifestError: not a folder of said sentences.
        ConfigError: no sentence has the id of a reference, or a voice has no recording that can be measured.
    """
    said = Path(config.said)
    if not (said / "summary.json").exists():
        raise ManifestError(f"{said}: not a finished folder of `voxtok say` (no summary.json)")
    cuts = list(load_cuts(said / "cuts.jsonl.gz"))
    references = {cut.id: cut for cut in load_cuts(config.reference)} if config.reference else {}
    if config.reference and not any(cut.id in references for cut in cuts):
        raise ConfigError(f"no sentence of {said} has the id of a recording of {config.reference}")
    measure = load_speaker_model(config.speaker_model, device=config.device)
    voices = {name: mean_embedding(measure, reference_cuts(name), VOICE_RECORDINGS) for name in config.voices}
    rows = []
    with Progress("tts-quality", sum(cut.duration for cut in cuts)) as progress:
        for cut in cuts:
            rows.append({"id": cut.id, **row_of(cut, references.get(cut.id), measure, voices)})
            progress.add(cut.duration)
    summary = read_json(said / "summary.json")
    report = {
        "config": asdict(config),
        "sentences": len(cuts),
        "rejected": summary["rejected"],
        "compared": sum("mcd_db" in row for row in rows),
        "failures": count_failures(said),
        "real_time_factor": summary["real_time_factor"],
        "scores": means(rows),
        "rows": rows,
    }
    write_json(config.out, report)
    return report


def row_of(cut: Cut, reference: Cut | None, measure: SpeakerModel, voices: dict[str, Embedding]) -> Row:
    """Scores of one sentence; without those that cannot be measured."""
    made = read_audio(cut, RATE)
    row: Row = {"failure": (cut.supervisions[0].custom or {}).get("failure")}
    own = _embedding(measure, cut)
    if own is not None:
        row |= {f"similarity {name}": similarity(own, voice) for name, voice in voices.items()}
    if reference is None:
        return row
    try:
        real = read_audio(reference, RATE)
    except BadAudio as error:
        log.warning("left out: %s", error)
        return row
    real, made = spoken_part(real), spoken_part(made)
    row |= asdict(warped_pitch_errors(real, made, RATE))
    row["mcd_db"] = mel_cepstral_distortion(real, made, RATE, aligned=False)
    row["duration_error"] = abs(len(made) - len(real)) / len(real)
    row["duration_ratio"] = len(made) / len(real)
    theirs = _embedding(measure, reference)
    if own is not None and theirs is not None:
        row["speaker_similarity"] = similarity(own, theirs)
    return row


def spoken_part(samples: Samples) -> Samples:
    """Without silence before and after the speech."""
    start_s, stop_s = speech_span_s(samples, RATE)
    return samples[round(start_s * RATE) : max(round(stop_s * RATE), round(start_s * RATE) + 1)]


def means(rows: Sequence[Row]) -> dict[str, float]:
    """Mean of every score over the sentences that have it."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, float))
    return {name: float(np.mean([row[name] for row in rows if row.get(name) is not None])) for name in names}


def _embedding(measure: SpeakerModel, cut: Cut) -> Embedding | None:
    try:
        return measure.embed(read_audio(cut, measure.sampling_rate))
    except (BadAudio, ConfigError):  # unreadable, silent or too short to measure a speaker on
        return None


def main(argv: Sequence[str]) -> int:
    """`voxtok tts-quality --said FOLDER --reference CUTS --out FILE`."""
    config = parse(TtsQualityConfig, argv, "voxtok tts-quality")
    report = tts_quality(config)
    for name, value in report["scores"].items():
        print(f"{name:24} {value:.4f}")
    failed = ", ".join(f"{count} {name}" for name, count in report["failures"].items())
    print(f"{report['sentences']} sentences, {report['rejected']} rejected; {failed} -> {config.out}")
    return 0
