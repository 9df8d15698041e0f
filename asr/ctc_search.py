"""CTC decoding: the best path, and prefix beam search (Graves 2012, Hannun et al. 2014), batched over utterances.

Both are functions of log-probabilities alone and run where these are.
"""

from dataclasses import dataclass

import torch

from voxtok.asr.hypothesis import NEVER, NOTHING, Hypothesis, Traceback, pick
from voxtok.asr.ngram import ALONE, Fusion
from voxtok.asr.padded import Padded
from voxtok.asr.prefix_tree import prefix_tree_search
from voxtok.asr.text import BLANK

HASH = 6364136223846793005
"""Knuth's multiplier: prefixes are told apart by 64-bit polynomials of their numbers."""
FEW = 6
"""Utterances up to which a CPU is quicker one by one."""


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


@dataclass(frozen=True)
class _Beam:
    """K prefixes of each utterance."""

    scores: torch.Tensor  # (B, K, 3) of the paths that end in blank, of those that end in the last number, and fusion's
    keys: torch.Tensor  # (B, K, 4) identity, that of the parent, last number (BLANK where empty), fusion's state

    @property
    def total(self) -> torch.Tensor:
        """(B, K) log-probability of the prefix by CTC alone."""
        return torch.logaddexp(self.scores[..., 0], self.scores[..., 1])

    def kept(self, other: "_Beam", active: torch.Tensor) -> "_Beam":
        """`other` where an utterance (B, 1, 1) is active, else this."""
        return _Beam(torch.where(active, other.scores, self.scores), torch.where(active, other.keys, self.keys))


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
    if len(values) <= FEW and values.device.type == "cpu" and not fusion.adds:
        every = zip(values.numpy(), likely, numbers, lengths.tolist(), strict=True)
        return [
            prefix_tree_search(frames[:end], chances[:end].tolist(), followers[:end].tolist(), beam=beam, nbest=nbest)
            for frames, chances, followers, end in every
        ]
    prefixes = _start(len(values), beam, values.device, fusion)
    own = torch.arange(beam, device=values.device).expand(len(values), beam)
    trace = Traceback()
    ends = lengths.tolist()
    for frame in range(max(ends, default=0)):
        grown, parents, written = _step(prefixes, values[:, frame], likely[:, frame], numbers[:, frame], fusion)
        if frame >= min(ends):  # some have ended
            active = (frame < lengths)[:, None]
            grown = prefixes.kept(grown, active[..., None])
            parents, written = torch.where(active, parents, own), written.masked_fill(~active, NOTHING)
        prefixes = grown
        trace.add(parents, written)
    return trace.hypotheses(prefixes.total + prefixes.scores[..., 2] + fusion.final(prefixes.keys[..., 3]), nbest)


def _start(batch: int, beam: int, device: torch.device, fusion: Fusion) -> _Beam:
    """The empty prefix, and nothing else."""
    scores = torch.full((batch, beam, 3), NEVER, device=device)
    scores[:, 0, 0] = scores[..., 2] = 0.0
    keys = torch.tensor([0, -1, BLANK, fusion.start], device=device).expand(batch, beam, 4)
    return _Beam(scores, keys)


def _step(
    old: _Beam, frame: torch.Tensor, likely: torch.Tensor, numbers: torch.Tensor, fusion: Fusion
) -> tuple[_Beam, torch.Tensor, torch.Tensor]:
    """One frame (B, V), whose best numbers (B, C) have the log-probabilities `likely`.

    Returns:
        The new beam, each entry's place in the old one, and the number it appended or NOTHING.
    """
    after_blank, after_label, extra = old.scores.unbind(2)  # each (B, K)
    hashed, parent, last, state = old.keys.unbind(2)
    total, own = old.total, frame.gather(1, last)  # own: log-probability of the last number again
    # A prefix grows by a number; after itself, a number needs a blank between.
    repeats = numbers[:, None] == last[..., None]  # (B, K, C)
    grown = torch.where(repeats, after_blank[..., None], total[..., None]) + likely[:, None]
    # Where what it grows to is in the beam already, the paths are added up there.
    makes = (hashed[..., None] == parent[:, None]) & (total > NEVER)[:, None]  # (B, K, K)
    again = last[..., None] == last[:, None]
    joined = torch.where(again, after_blank[..., None], total[..., None]).masked_fill(~makes, NEVER).amax(dim=1) + own
    grown = grown.masked_fill((makes.float() @ repeats.float()) > 0, NEVER)
    # A prefix stays: a blank, or its last number held.
    blank = total + frame[:, BLANK, None]
    label = torch.logaddexp(after_label + own, joined)

    gained, states = fusion.score(state[..., None].expand_as(grown), numbers[:, None].expand_as(grown))
    extras = extra[..., None] + gained
    beam, width = grown.shape[1:]
    ranking = torch.cat([torch.logaddexp(blank, label) + extra, (grown + extras).flatten(1)], dim=1)
    places = ranking.topk(beam, dim=1).indices
    stays = places < beam
    cell = (places - beam).clamp(min=0)  # of grown, flattened
    parents = torch.where(stays, places, cell // width)
    appended = pick(numbers, cell % width)

    stayed = torch.stack([blank, label, extra], dim=2)
    scores = stayed.gather(1, parents[..., None].expand_as(stayed))
    keys = old.keys.gather(1, parents[..., None].expand_as(old.keys))
    longer_scores = [torch.full_like(extra, NEVER), pick(grown.flatten(1), cell), pick(extras.flatten(1), cell)]
    longer_keys = [keys[..., 0] * HASH + appended, keys[..., 0], appended, pick(states.flatten(1), cell)]
    new = _Beam(
        torch.where(stays[..., None], scores, torch.stack(longer_scores, dim=2)),
        torch.where(stays[..., None], keys, torch.stack(longer_keys, dim=2)),
    )
    return new, parents, torch.where(stays, NOTHING, appended)
