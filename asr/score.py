"""`voxtok score`: hypotheses against references -> WER and CER with intervals, a table of speakers, and alignments.

score.json        everything in numbers, with the text normalisation
score.txt         the same as tables
alignments.txt    every utterance, word under word, the worst first
versus.json       the difference to another system's hypotheses, where they are given
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from voxtok.asr.normalization import Case, Punctuation, TextNormalization
from voxtok.asr.references import Reference, read_hypotheses, read_references
from voxtok.asr.wer import (
    CONFIDENCE,
    Errors,
    Pair,
    align,
    bootstrap_difference,
    bootstrap_interval,
    character_errors,
    count,
)
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError, ManifestError
from voxtok.runtime.files import write_bytes, write_json

NOTHING_SAID = "*"
"""Stands in alignments where one side has no word."""
MARKS = "IDS"


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """How rates and their intervals are made."""

    resample: Literal["utterance", "speaker"] = "utterance"
    """What the bootstrap draws: utterances, or whole speakers, which gives wider and more honest intervals. Of one
    alone, such as where no speaker is known, there is no interval."""
    replications: int = 1000
    """Draws of the bootstrap."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if self.replications < 1 or self.seed < 0:
            raise ConfigError("replications must be at least 1 and seed at least 0")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score hypotheses, of this toolkit or another."""

    ref: str
    """References: Lhotse cuts with texts, or lines `id text` (Kaldi, or with a tab)."""
    hyp: str
    """Hypotheses: hypotheses.jsonl of `voxtok decode-asr`, or lines `id text`."""
    out: str
    """Folder for score.json, score.txt and alignments.txt."""
    case: Case
    """Case of both sides before they are compared: lower, upper or keep."""
    punctuation: Punctuation
    """Punctuation of both sides before they are compared: remove or keep."""
    versus: str | None = None
    """Hypotheses of another system for the same references: are those of `hyp` better, and how surely."""
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    """Bootstrap."""


@dataclass(frozen=True)
class Scored:
    """One utterance.

    Attributes:
        cut_id: its id.
        speaker: who says it, "?" where nobody knows.
        pairs: words of the reference and of the hypothesis.
        characters: errors in characters.
    """

    cut_id: str
    speaker: str
    pairs: tuple[Pair, ...]
    characters: Errors

    @property
    def words(self) -> Errors:
        """Errors in words."""
        return count(self.pairs)


def score(
    references: Mapping[str, Reference], hypotheses: Mapping[str, str], normalization: TextNormalization
) -> list[Scored]:
    """Align every reference with its hypothesis; one that is missing counts as empty.

    Raises:
        ManifestError: a hypothesis without a reference, or no references.
    """
    stray = next((cut_id for cut_id in hypotheses if cut_id not in references), None)
    if stray is not None or not references:
        raise ManifestError(f"hypothesis {stray!r} has no reference" if references else "there are no references")
    scored = []
    for cut_id, reference in references.items():
        said, found = normalization.apply(reference.text), normalization.apply(hypotheses.get(cut_id, ""))
        pairs = tuple(align(said.split(), found.split()))
        scored.append(Scored(cut_id, reference.speaker, pairs, character_errors(said, found)))
    return scored


def summary(scored: Sequence[Scored], config: ScoringConfig) -> dict[str, Any]:
    """WER and CER of all utterances and of each speaker; rates are null without a reference."""
    groups = _groups(scored, config)
    found: dict[str, Any] = {"utterances": len(scored)}
    for name, errors in (("wer", [one.words for one in scored]), ("cer", [one.characters for one in scored])):
        interval = bootstrap_interval(errors, groups, replications=config.replications, seed=config.seed)
        found[name] = _counts(errors) | {"interval": interval}
    wrong = sum(one.words.total > 0 for one in scored)
    found["sentence_error_rate"] = wrong / len(scored) if scored else None
    found["bootstrap"] = {"confidence": CONFIDENCE, **asdict(config)}
    found["speakers"] = [
        {
            "speaker": speaker,
            "utterances": len(own),
            "wer": _counts([one.words for one in own]),
            "cer": _counts([one.characters for one in own]),
        }
        for speaker, own in _by_speaker(scored).items()
    ]
    return found


def compare(scored: Sequence[Scored], other: Sequence[Scored], config: ScoringConfig) -> dict[str, Any]:
    """How WER and CER differ from those of another system on the same references, both drawn alike."""
    groups = _groups(scored, config)
    rows = {
        "wer": ([one.words for one in scored], [one.words for one in other]),
        "cer": ([one.characters for one in scored], [one.characters for one in other]),
    }
    return {
        name: asdict(bootstrap_difference(ours, theirs, groups, replications=config.replications, seed=config.seed))
        for name, (ours, theirs) in rows.items()
    }


def write_score(
    folder: Path | str, scored: Sequence[Scored], normalization: TextNormalization, config: ScoringConfig, missing: int
) -> dict[str, Any]:
    """Write score.json, score.txt and alignments.txt; `missing` utterances had no hypothesis.

    Returns:
        What score.json holds.
    """
    folder = Path(folder)
    found = {"normalization": asdict(normalization), "missing": missing} | summary(scored, config)
    worst_first = sorted(scored, key=lambda one: -one.words.total)
    write_bytes(folder / "alignments.txt", "\n".join(map(alignment, worst_first)).encode())
    write_bytes(folder / "score.txt", table(found).encode())
    write_json(folder / "score.json", found)
    return found


def table(found: Mapping[str, Any]) -> str:
    """A summary as text."""
    normalization = TextNormalization(**found["normalization"])
    bootstrap = found["bootstrap"]
    lines = [
        f"{found['utterances']} utterances, {found['missing']} without a hypothesis; text: {normalization}",
        f"intervals: {bootstrap['confidence']:.0%}, {bootstrap['replications']} draws of the {bootstrap['resample']}s",
        "",
        f"{'':4} {'rate %':>7} {'interval %':>15} {'ref':>8} {'ins':>6} {'del':>6} {'sub':>6}",
    ]
    for name in ("wer", "cer"):
        row = found[name]
        low_high = "-" if row["interval"] is None else "{:.2f} .. {:.2f}".format(*(100 * x for x in row["interval"]))
        counts = f"{row['length']:8} {row['insertions']:6} {row['deletions']:6} {row['substitutions']:6}"
        lines.append(f"{name.upper():4} {percent(row['rate']):>7} {low_high:>15} {counts}")
    lines += ["", f"{'speaker':20} {'utterances':>10} {'words':>8} {'WER %':>7} {'CER %':>7}"]
    for row in found["speakers"]:
        rates = f"{percent(row['wer']['rate']):>7} {percent(row['cer']['rate']):>7}"
        lines.append(f"{row['speaker']:20} {row['utterances']:10} {row['wer']['length']:8} {rates}")
    return "\n".join(lines) + "\n"


def versus_line(name: str, row: Mapping[str, Any]) -> str:
    """A difference as text."""
    if row["rate"] is None:
        return f"{name.upper()}: nothing to compare"
    difference = f"{name.upper()}: {100 * row['rate']:+.2f} points"
    if row["interval"] is None:
        return f"{difference} against the other; no interval from one group"
    low, high = (100 * bound for bound in row["interval"])
    return f"{difference} ({low:+.2f} .. {high:+.2f}) against the other; better with probability {row['better']:.3f}"


def alignment(one: Scored) -> str:
    """One utterance, word under word, errors marked I, D or S.

    Worked: `the cat sat` heard as `the bat sat down` is

        u1 (s1): 2 errors in 3 words
        ref: the cat sat *
        hyp: the bat sat down
                 S       I
    """
    errors = one.words
    columns = [(ref or NOTHING_SAID, hyp or NOTHING_SAID, _mark(ref, hyp)) for ref, hyp in one.pairs]
    widths = [max(map(len, column)) for column in columns]
    rows = [
        " ".join(column[row].ljust(width) for column, width in zip(columns, widths, strict=True)).rstrip()
        for row in range(3)
    ]
    head = f"{one.cut_id} ({one.speaker}): {errors.total} errors in {errors.length} words"
    return f"{head}\nref: {rows[0]}\nhyp: {rows[1]}\n     {rows[2]}".rstrip() + "\n"


def percent(rate: float | None) -> str:
    """A rate with two digits, or a dash."""
    return "-" if rate is None else f"{100 * rate:.2f}"


def _groups(scored: Sequence[Scored], config: ScoringConfig) -> list[str]:
    return [one.speaker if config.resample == "speaker" else one.cut_id for one in scored]


def _mark(ref: str, hyp: str) -> str:
    if ref == hyp:
        return ""
    return MARKS[0] if not ref else MARKS[1] if not hyp else MARKS[2]


def _counts(errors: Sequence[Errors]) -> dict[str, Any]:
    total = sum(errors, Errors())
    return {"rate": total.rate, **asdict(total)}


def _by_speaker(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    speakers: dict[str, list[Scored]] = {}
    for one in sorted(scored, key=lambda one: one.speaker):
        speakers.setdefault(one.speaker, []).append(one)
    return speakers


def main(argv: Sequence[str]) -> int:
    """The command `voxtok score`."""
    config = parse(ScoreConfig, argv, "voxtok score")
    normalization = TextNormalization(case=config.case, punctuation=config.punctuation)
    references, hypotheses = read_references(config.ref), read_hypotheses(config.hyp)
    scored = score(references, hypotheses, normalization)
    missing = len(references) - len(hypotheses)
    print(table(write_score(config.out, scored, normalization, config.scoring, missing)), end="")
    if config.versus is not None:
        other = score(references, read_hypotheses(config.versus), normalization)
        found = compare(scored, other, config.scoring)
        write_json(Path(config.out) / "versus.json", {"versus": config.versus} | found)
        print("\n".join(["", *(versus_line(name, row) for name, row in found.items())]))
    return 0
