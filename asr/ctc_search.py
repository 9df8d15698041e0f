"""CTC decoding: the best path, and prefix beam search (Graves 2012, Hannun et al. 2014), batched over utterances.

Both are functions of log-probabilities alone and run where these are.
"""

from dataclasses import dataclass

import torch

from voxtok.asr.hypothesis import NEVER, NOTHING, Hypothesis, Traceback, pick
from voxtok.asr.ngram import ALONE, Fusion
from voxtok.asr.padded import Padded
from voxtok.asr.text import BLANK

HASH = 6364136223846793005
"""Knuth's multiplier: prefixes are told apart by 64-bit polynomials of their numbers."""


def ctc_greedy(log_probs: Padded) -> list[Hypothesis]:
    """The most likely label of each frame, repeats merged and blanks left out; the score is that of this path.

    Worked: labels 0 3 3 0 3 5 5 are the numbers 3 3 5.

    Args:
        log_probs: (B, T, V) with blank 0.
    """
    scores, labels = log_probs.values.max(dim=2)  # (B, T)
    inside = log_probs.inside
    before = torch.nn.functional.pad(labels, (1, 0), value=BLANK)[:, :-1]
    kept = inside & (labels != BLANK) & (labels != before)
    totals = scores.masked_fill(~inside, 0.0).sum(dim=1).tolist()
    return [Hypothesis(tuple(row[keep].tolist()), total) for row, keep, total in zip(labels, kept, totals, strict=True)]


@dataclass
class _Beam:
    """K prefixes of each utterance, all (B, K)."""

    blank: torch.Tensor  # log-probability of the paths that end in blank
    label: torch.Tensor  # of those that end in the last number
    hashed: torch.Tensor  # identity of the prefix
    parent: torch.Tensor  # identity of the prefix without its last number
    last: torch.Tensor  # last number, BLANK where the prefix is empty
    extra: torch.Tensor  # weighted language model score and bonus
    state: torch.Tensor  # of the language model

    @property
    def total(self) -> torch.Tensor:
        """Log-probability of the prefix by CTC alone."""
        return torch.logaddexp(self.blank, self.label)

    def kept(self, other: "_Beam", active: torch.Tensor) -> "_Beam":
        """`other` where an utterance (B,) is active, else this."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Beam(*(torch.where(active[:, None], new, old) for old, new in pairs))


def ctc_prefix_beam(
    log_probs: Padded,
    *,
    beam: int,
    candidates: int,
    fusion: Fusion = ALONE,
    nbest: int = 1,
) -> list[list[Hypothesis]]:
    """The best prefixes by the sum over all their paths; with a beam that holds every prefix it is exact.

    Args:
        log_probs: (B, T, V) with blank 0.
        beam: prefixes kept after each frame.
        candidates: numbers that may follow a prefix, the frame's most likely ones.
        fusion: a language model's share in the score, and a bonus.
        nbest: hypotheses returned of each utterance, at most.

    Returns:
        For each utterance, hypotheses from the best down.
    """
    values, lengths = log_probs.values.float(), log_probs.lengths
    candidates = min(candidates, values.shape[2] - 1)
    likely, numbers = values[:, :, BLANK + 1 :].topk(candidates, dim=2)  # (B, T, C)
    numbers = numbers + BLANK + 1
    prefixes = _start(len(values), beam, values.device, fusion)
    trace = Traceback()
    for frame in range(int(lengths.max()) if len(lengths) else 0):
        active = frame < lengths
        grown, parents, written = _step(prefixes, values[:, frame], likely[:, frame], numbers[:, frame], fusion)
        prefixes = prefixes.kept(grown, active)
        own = torch.arange(beam, device=parents.device).expand_as(parents)
        trace.add(torch.where(active[:, None], parents, own), written.masked_fill(~active[:, None], NOTHING))
    return trace.hypotheses(prefixes.total + prefixes.extra + fusion.final(prefixes.state), nbest)


def _start(batch: int, beam: int, device: torch.device, fusion: Fusion) -> _Beam:
    """The empty prefix, and nothing else."""
    never = torch.full((batch, beam), NEVER, device=device)
    blank = never.clone()
    blank[:, 0] = 0.0
    zeros = torch.zeros(batch, beam, dtype=torch.int64, device=device)
    return _Beam(blank, never, zeros, zeros - 1, zeros, torch.zeros_like(never), zeros + fusion.start)


def _step(
    old: _Beam, frame: torch.Tensor, likely: torch.Tensor, numbers: torch.Tensor, fusion: Fusion
) -> tuple[_Beam, torch.Tensor, torch.Tensor]:
    """One frame (B, V), whose best numbers (B, C) have the log-probabilities `likely`.

    Returns:
        The new beam, each entry's place in the old one, and the number it appended or NOTHING.
    """
    total, own = old.total, frame.gather(1, old.last)  # own: log-probability of the last number again, (B, K)
    # A prefix stays: a blank, or its last number held.
    blank = total + frame[:, BLANK, None]
    label = old.label + own
    # A prefix grows by a number; after itself, a number needs a blank between.
    after_blank = numbers[:, None] == old.last[:, :, None]  # (B, K, C)
    grown = torch.where(after_blank, old.blank[:, :, None], total[:, :, None]) + likely[:, None]
    # Where what it grows to is in the beam already, the paths are added up there.
    alive = total > NEVER
    makes = (old.hashed[:, :, None] == old.parent[:, None]) & alive[:, :, None] & alive[:, None]  # (B, K, K)
    repeats = old.last[:, :, None] == old.last[:, None]
    joined = torch.where(repeats, old.blank[:, :, None], total[:, :, None]) + own[:, None]
    label = torch.logaddexp(label, joined.masked_fill(~makes, NEVER).amax(dim=1))
    twice = (makes.float() @ (old.last[:, :, None] == numbers[:, None]).float()) > 0
    grown = grown.masked_fill(twice, NEVER)

    gained, state = fusion.score(old.state[:, :, None].expand_as(grown), numbers[:, None].expand_as(grown))
    extra = old.extra[:, :, None] + gained
    beam, width = grown.shape[1:]
    scores = torch.cat([torch.logaddexp(blank, label) + old.extra, (grown + extra).flatten(1)], dim=1)
    _, places = scores.topk(beam, dim=1)
    stays = places < beam
    cell = (places - beam).clamp(min=0)  # of grown, flattened
    parents = torch.where(stays, places, cell // width)
    appended = pick(numbers, cell % width)
    inherited = pick(old.hashed, parents)

    def either(stayed: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
        return torch.where(stays, pick(stayed, parents), changed)

    new = _Beam(
        blank=either(blank, torch.full_like(blank, NEVER)),
        label=either(label, pick(grown.flatten(1), cell)),
        hashed=torch.where(stays, inherited, inherited * HASH + appended),
        parent=either(old.parent, inherited),
        last=either(old.last, appended),
        extra=either(old.extra, pick(extra.flatten(1), cell)),
        state=either(old.state, pick(state.flatten(1), cell)),
    )
    return new, parents, torch.where(stays, NOTHING, appended)
