"""Beam search with the attention decoder, alone or joined by CTC's prefix scores (Watanabe et al. 2017), batched.

Hypotheses grow by one number at a time. An utterance is done when no hypothesis that still grows can overtake those
that have ended.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch

from voxtok.asr.ctc_prefix import CtcPrefixes, start_prefixes
from voxtok.asr.hypothesis import NEVER, Hypothesis, Traceback, numbers_of, pick
from voxtok.asr.ngram import ALONE, Fusion
from voxtok.asr.padded import Padded
from voxtok.asr.text import BLANK


class Selectable(Protocol):
    """What a decoder keeps of N hypotheses, as many of each utterance, in the order of utterances."""

    def repeat(self, count: int) -> Self:
        """Each hypothesis `count` times."""

    def select(self, rows: torch.Tensor) -> Self:
        """The hypotheses `rows` (N,), as many of each utterance and in their order."""


S = TypeVar("S", bound=Selectable)
Step = Callable[[torch.Tensor, S], tuple[torch.Tensor, S]]
"""Numbers (N,) and a state -> log-probabilities (N, V) of what follows, and the state after."""


@dataclass
class _Beam:
    """K growing hypotheses of each utterance: (B, K), or flat (B K,) in what the decoder and CTC keep."""

    attention: torch.Tensor
    extra: torch.Tensor
    score: torch.Tensor
    state: torch.Tensor  # of the language model
    prefixes: CtcPrefixes | None


def attention_beam(
    step: Step[S],
    start: S,
    ctc: Padded,
    *,
    ctc_weight: float,
    sos_eos: int,
    beam: int,
    candidates: int,
    fusion: Fusion = ALONE,
    nbest: int = 1,
) -> list[list[Hypothesis]]:
    """The best texts by the weighted sum of attention, CTC and fusion; with a beam of everything it is exact.

    Args:
        step: the decoder.
        start: its state before sos, one row for each utterance.
        ctc: (B, T, V) CTC log-probabilities; a text has at most T numbers. With weight 0 only the lengths are read.
        ctc_weight: CTC's share in the score; the decoder has the rest.
        sos_eos: the number that begins and ends a text.
        beam: hypotheses that grow at a time.
        candidates: numbers that may follow one, the decoder's most likely; CTC then scores these.
        fusion: a language model's share in the score, and a bonus.
        nbest: hypotheses returned of each utterance, at most.

    Returns:
        For each utterance, hypotheses from the best down.
    """
    batch, device = len(ctc.lengths), ctc.lengths.device
    decoder = start.repeat(beam)
    now = _first(ctc, ctc_weight, fusion, beam)
    numbers = torch.full((batch * beam,), sos_eos, device=device)
    never_written = torch.tensor([BLANK, sos_eos], device=device)
    trace, ended = Traceback(), _Ended(batch, nbest)
    for length in range(int(ctc.lengths.max()) + 1 if batch else 0):
        log_probs, decoder = step(numbers, decoder)
        log_probs = log_probs.double().unflatten(0, (batch, beam))  # (B, K, V)
        now.score = now.score.masked_fill((ctc.lengths < length)[:, None], NEVER)
        ended.add(_finished(now, log_probs[..., sos_eos], ctc_weight, fusion), length)
        could_gain = (ctc.lengths - length)[:, None] * max(0.0, fusion.bonus)
        now.score = now.score.masked_fill(now.score + could_gain <= ended.worst().to(device)[:, None], NEVER)
        if not bool((now.score > NEVER).any()):
            break
        log_probs = log_probs.index_fill(2, never_written, NEVER)
        now, parents, written = _grown(now, log_probs, ctc_weight, fusion, min(candidates, log_probs.shape[2] - 2))
        trace.add(parents, written)
        numbers = written.flatten()
        decoder = decoder.select(_flat(parents))
    return ended.hypotheses(trace)


def _first(ctc: Padded, ctc_weight: float, fusion: Fusion, beam: int) -> _Beam:
    """The empty text, and nothing else."""
    batch, device = len(ctc.lengths), ctc.lengths.device
    zeros = torch.zeros(batch, beam, dtype=torch.float64, device=device)
    score = torch.full_like(zeros, NEVER)
    score[:, 0] = 0.0
    prefixes = start_prefixes(ctc, beam) if ctc_weight else None
    return _Beam(zeros, zeros, score, torch.full_like(zeros, fusion.start, dtype=torch.int64), prefixes)


def _finished(now: _Beam, ending: torch.Tensor, ctc_weight: float, fusion: Fusion) -> torch.Tensor:
    """(B, K) scores of the hypotheses if they end here, `ending` being the decoder's log-probability of that."""
    score = (1 - ctc_weight) * (now.attention + ending) + now.extra + fusion.final(now.state)
    if now.prefixes is not None:
        score = score + ctc_weight * now.prefixes.whole().view_as(score)
    return score.masked_fill(now.score == NEVER, NEVER)


def _grown(
    old: _Beam, log_probs: torch.Tensor, ctc_weight: float, fusion: Fusion, candidates: int
) -> tuple[_Beam, torch.Tensor, torch.Tensor]:
    """One number more; the new beam, each entry's place in the old one (B, K), and its number (B, K)."""
    beam = old.score.shape[1]
    likely, numbers = log_probs.topk(candidates, dim=2)  # (B, K, C)
    attention = old.attention[..., None] + likely
    gained, state = fusion.score(old.state[..., None].expand_as(numbers), numbers)
    extra = old.extra[..., None] + gained
    score = (1 - ctc_weight) * attention + extra
    if old.prefixes is not None:
        score = score + ctc_weight * old.prefixes.scores(numbers.flatten(0, 1)).view_as(score)
    score = score.masked_fill((old.score == NEVER)[..., None], NEVER)
    best, cells = score.flatten(1).topk(beam, dim=1)
    parents, written = cells // candidates, pick(numbers.flatten(1), cells)
    prefixes = None if old.prefixes is None else old.prefixes.select(_flat(parents)).grown(written.flatten())
    attention, extra, state = (pick(values.flatten(1), cells) for values in (attention, extra, state))
    return _Beam(attention, extra, best, state, prefixes), parents, written


def _flat(parents: torch.Tensor) -> torch.Tensor:
    """Places (B, K) in each utterance's beam as rows of all beams, (B K,)."""
    offsets = torch.arange(len(parents), device=parents.device) * parents.shape[1]
    return (parents + offsets[:, None]).flatten()


class _Ended:
    """The best hypotheses that have ended, of each utterance: (score, length, place in the beam of that length)."""

    def __init__(self, batch: int, nbest: int) -> None:
        self._nbest = nbest
        self._found: list[list[tuple[float, int, int]]] = [[] for _ in range(batch)]

    def add(self, scores: torch.Tensor, length: int) -> None:
        """Those of (B, K) scores that are among the best now."""
        for found, row in zip(self._found, scores.tolist(), strict=True):
            found += [(score, length, place) for place, score in enumerate(row) if score > NEVER]
            found.sort(reverse=True)
            del found[self._nbest :]

    def worst(self) -> torch.Tensor:
        """(B,) the score that one more must exceed: -inf until there are as many as asked."""
        worst = [found[-1][0] if len(found) == self._nbest else NEVER for found in self._found]
        return torch.tensor(worst, dtype=torch.float64)

    def hypotheses(self, trace: Traceback) -> list[list[Hypothesis]]:
        """For each utterance, from the best down."""
        ends = [(utterance, place, length) for utterance, row in enumerate(self._found) for _, length, place in row]
        texts = iter(trace.read(ends))
        return [[Hypothesis(numbers_of(next(texts)), score) for score, _, _ in row] for row in self._found]
