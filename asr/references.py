"""References and hypotheses: what was said, by whom, and what was heard, from cuts, JSON lines or lines `id text`."""

import json
from dataclasses import dataclass
from pathlib import Path

from lhotse.cut import Cut

from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.transcripts import read_transcripts
from voxtok.runtime.errors import ManifestError
from voxtok.runtime.files import read_jsonl

UNKNOWN_SPEAKER = "?"


@dataclass(frozen=True)
class Reference:
    """What was said, and by whom."""

    text: str
    speaker: str = UNKNOWN_SPEAKER


def reference_of(cut: Cut) -> Reference:
    """The text and the speaker of a cut; several supervisions are one text."""
    text = " ".join(supervision.text for supervision in cut.supervisions if supervision.text)
    speakers = [supervision.speaker for supervision in cut.supervisions if supervision.speaker]
    return Reference(text, str(speakers[0]) if speakers else UNKNOWN_SPEAKER)


def read_references(path: Path | str) -> dict[str, Reference]:
    """References of cuts, or of lines `id text`.

    Raises:
        ManifestError: a cut has no text.
    """
    path = Path(path)
    if path.is_dir() or path.name.endswith((".jsonl", ".jsonl.gz")):
        found = {cut.id: reference_of(cut) for cut in load_cuts(path)}
        silent = next((cut_id for cut_id, reference in found.items() if not reference.text), None)
        if silent is not None:
            raise ManifestError(f"{path}: {silent} has no text")
        return found
    return {cut_id: Reference(text) for cut_id, text in read_transcripts(path).items()}


def read_hypotheses(path: Path | str) -> dict[str, str]:
    """Hypotheses of `voxtok decode-asr`, or of lines `id text`.

    Raises:
        ManifestError: a line of JSON is no hypothesis.
    """
    path = Path(path)
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        return read_transcripts(path)
    try:
        return {row["id"]: row["text"] for row in read_jsonl(path)}
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ManifestError(f"{path}: not hypotheses with id and text ({error})") from error
