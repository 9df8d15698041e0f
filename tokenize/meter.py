"""Token quality of a stream of utterances, in bounded memory.

What can be counted is counted as they pass; a seeded subset is kept for ABX and speaker leakage.
"""

import hashlib
import heapq
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from lhotse.cut import Cut

from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.tokenize.abx import AbxScore, Distance, Items, Speakers, abx
from voxtok.tokenize.leakage import Leakage, speaker_leakage
from voxtok.tokenize.phones import SILENCES, Speech, Unit, phone_frames, read_phones, segments
from voxtok.tokenize.purity import JointCounts, Purity, purity, without
from voxtok.tokenize.usage import CodeCounts, Usage, usage

Codes = npt.NDArray[np.integer]
Silence = Literal["count", "skip"]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How token quality is measured; every field changes numbers, and all of them are in the report."""

    silence: Silence
    """Whether frames of silence count in purity and PNMI (Hsu et al. 2021 count them)."""
    silences: tuple[str, ...] = SILENCES
    """Phone labels that stand for silence or noise."""
    abx_unit: Unit = "triphone"
    """What ABX compares: whole triphones that differ in the middle phone, or the middle phones alone."""
    abx_max_items: int | None = 10
    """Most items of one phone, context and speaker in ABX (10 in ZeroSpeech 2021); null takes all."""
    abx_max_x_speakers: int | None = 5
    """Most speakers of X for each A and B in ABX across speakers (5 in ZeroSpeech 2021); null takes all."""
    probe_utterances: int | None = 1000
    """Utterances drawn for ABX and speaker leakage; null takes all."""
    leakage_folds: int = 5
    """Folds of the speaker probe's cross-validation."""
    seed: int = 0
    """Seed of every draw."""

    def __post_init__(self) -> None:
        for name in ("abx_max_items", "abx_max_x_speakers", "probe_utterances"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name.replace('_', '-')} must be at least 1, or null for all")
        if self.leakage_folds < 2:
            raise ConfigError("leakage-folds must be at least 2")


@dataclass(frozen=True, eq=False)
class Utterance:
    """One utterance of the subset.

    Attributes:
        cut: with its audio, for what needs it.
        codes: (frames,) tokens.
        speech: its aligned phones.
    """

    cut: Cut
    codes: Codes
    speech: list[Speech]

    @property
    def speaker(self) -> str | None:
        """Who speaks; None where it is not said, or several do."""
        speakers = {supervision.speaker for supervision in self.cut.supervisions}
        return next(iter(speakers)) if len(speakers) == 1 else None


@dataclass(frozen=True)
class AbxResult:
    """One ABX score and what it was computed on."""

    frames: Literal["tokens", "centroids", "features"]
    distance: Distance
    speakers: Speakers
    score: AbxScore


class Meter:
    """The quality of one tokenizer's tokens, counted utterance by utterance."""

    def __init__(self, vocab_size: int, frame_rate_hz: float, scoring: Scoring) -> None:
        self.frame_rate_hz = frame_rate_hz
        self.scoring = scoring
        self.codes = CodeCounts(vocab_size)
        self.joint = JointCounts(vocab_size)
        self.utterances = 0
        self.unaligned = 0
        self._unusable: dict[str, BadAudio] = {}
        self._drawn: list[tuple[int, str, Utterance]] = []  # a heap, the first to be dropped on top

    def add(self, cut: Cut, codes: Codes) -> None:
        """Count one utterance's (frames,) tokens, before dedup; the cut has its phones and speaker."""
        self.utterances += 1
        self.codes.add(codes)
        speech = read_phones(cut, self.scoring.silences)
        self.unaligned += not speech
        for phone in (phone for tier in speech for phone in tier.phones):
            self.joint.add(phone.symbol, codes[phone_frames(phone, len(codes), self.frame_rate_hz)])
        self._draw(Utterance(cut, codes, speech))

    def reject(self, error: BadAudio) -> None:
        """Note an utterance whose audio was needed and could not be used."""
        self._unusable[error.cut_id] = error

    def _draw(self, utterance: Utterance) -> None:
        """Keep the utterances whose ids hash lowest: a random subset that does not depend on their order."""
        digest = hashlib.sha256(f"{self.scoring.seed}\n{utterance.cut.id}".encode()).digest()
        entry = (-int.from_bytes(digest[:8], "big"), utterance.cut.id, utterance)
        if self.scoring.probe_utterances is None or len(self._drawn) < self.scoring.probe_utterances:
            heapq.heappush(self._drawn, entry)
        else:
            heapq.heappushpop(self._drawn, entry)

    def drawn(self) -> list[Utterance]:
        """The subset, in a random order that the seed decides: its first n are a random draw too."""
        return [utterance for _, _, utterance in sorted(self._drawn, key=lambda entry: (-entry[0], entry[1]))]

    def usage(self) -> Usage | None:
        """How the vocabulary is used, over all frames."""
        return usage(self.codes, self.frame_rate_hz)

    def purity(self) -> Purity | None:
        """Purities and PNMI, over the frames of scored phones."""
        skipped = self.scoring.silences if self.scoring.silence == "skip" else ()
        return purity(without(self.joint.table, self.joint.phones, skipped), self.scoring.seed)

    def leakage(self) -> Leakage | None:
        """How well the speaker is told from an utterance's tokens, over the subset."""
        known = [(utterance, utterance.speaker) for utterance in self.drawn()]
        told = [(utterance.codes, speaker) for utterance, speaker in known if speaker is not None]
        vocab_size = len(self.codes.frames)
        histograms = [np.bincount(codes, minlength=vocab_size) for codes, _ in told]
        return speaker_leakage(
            np.array(histograms).reshape(-1, vocab_size),
            [speaker for _, speaker in told],
            folds=self.scoring.leakage_folds,
            seed=self.scoring.seed,
        )

    def report(self) -> dict[str, Any]:
        """All of this as JSON, with the counts that the page's plots are drawn from."""
        found = {"usage": self.usage(), "purity": self.purity(), "leakage": self.leakage()}
        return {
            "utterances": self.utterances,
            "unaligned": self.unaligned,
            "unusable": [self._unusable[cut_id].row() for cut_id in sorted(self._unusable)],
            "duration_s": int(self.codes.frames.sum()) / self.frame_rate_hz,
            **{name: part and asdict(part) for name, part in found.items()},
            "frames_by_code": self.codes.frames.tolist(),
            "tokens_by_code": self.codes.tokens.tolist(),
            "phones": self.joint.phones,
            "counts": self.joint.table.tolist(),
        }

    def abx(
        self,
        frames: Literal["tokens", "centroids", "features"],
        of: Callable[[Utterance], torch.Tensor],
        distances: Sequence[Distance],
        device: torch.device | str = "cpu",
    ) -> list[AbxResult]:
        """ABX within and across speakers over the subset; `of` gives an utterance's (frames[, D]) tokens or vectors."""
        items = abx_items(self.drawn(), of, self.frame_rate_hz, self.scoring)
        return [
            AbxResult(
                frames,
                distance,
                speakers,
                abx(
                    items,
                    distance=distance,
                    speakers=speakers,
                    max_items=self.scoring.abx_max_items,
                    max_x_speakers=self.scoring.abx_max_x_speakers,
                    seed=self.scoring.seed,
                    device=device,
                ),
            )
            for distance in distances
            for speakers in ("within", "across")
        ]


def abx_items(
    utterances: Sequence[Utterance], of: Callable[[Utterance], torch.Tensor], frame_rate_hz: float, scoring: Scoring
) -> Items:
    """Every triphone (or phone in its context) of the utterances, of speakers that are known."""
    frames: list[torch.Tensor] = []
    rows: list[tuple[int, int, str, str, str]] = []
    offset = 0
    for utterance in utterances:
        frames.append(of(utterance))
        for speech in utterance.speech:
            for segment in segments(speech.phones, scoring.abx_unit, scoring.silences) if speech.speaker else ():
                where = phone_frames(segment, len(frames[-1]), frame_rate_hz)
                if where.stop > where.start:
                    begin, length = offset + where.start, where.stop - where.start
                    rows.append((begin, length, segment.phone, segment.context, speech.speaker or ""))
        offset += len(frames[-1])
    start, length, phones, contexts, speakers = zip(*rows, strict=True) if rows else ((),) * 5
    return Items(
        torch.cat(frames) if frames else torch.zeros(0, dtype=torch.int64),
        np.array(start, dtype=np.int64),
        np.array(length, dtype=np.int64),
        phones,
        contexts,
        speakers,
    )
