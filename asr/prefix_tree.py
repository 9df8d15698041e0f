"""CTC prefix beam search of one utterance as a tree of prefixes, in plain Python: on a CPU quicker than tensors.

A frame is mostly blank, and then no longer prefix is likely enough for the beam. Prefixes and numbers are gone through
from the most likely down, up to the first that cannot enter it, so such a frame costs no more than the prefixes it has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from voxtok.asr.hypothesis import NEVER, NOTHING, Hypothesis
from voxtok.asr.text import BLANK


class _Entry(NamedTuple):
    """A prefix that may be in the beam, with the log-probabilities of its paths."""

    total: float
    after_blank: float  # of the paths that end in blank
    after_label: float  # of those that end in the last number
    prefix: "_Prefix"
    appended: int = NOTHING  # to `prefix`


@dataclass(eq=False, slots=True)
class _Prefix:
    """A node of the tree: a number after its parent's; `entry` where it is in the beam."""

    parent: "_Prefix | None"
    number: int
    longer: "dict[int, _Prefix]" = field(default_factory=dict)
    entry: _Entry | None = None


def prefix_tree_search(
    log_probs: npt.NDArray[np.float32],
    likely: Sequence[Sequence[float]],
    numbers: Sequence[Sequence[int]],
    *,
    beam: int,
    nbest: int,
) -> list[Hypothesis]:
    """The best prefixes of one utterance by the sum over all their paths, from the best down.

    Args:
        log_probs: (T, V) with blank 0.
        likely: T times the log-probabilities of the most likely numbers, from the best down.
        numbers: T times these numbers.
        beam: prefixes kept after each frame.
        nbest: hypotheses returned, at most.
    """
    best = [_Entry(0.0, 0.0, NEVER, _Prefix(None, BLANK))]
    for frame, chances, followers in zip(log_probs, likely, numbers, strict=True):
        for entry in best:
            entry.prefix.entry = entry
        stays = _stays(best, frame)
        lowest = min(stays, key=itemgetter(0)).total if len(stays) >= beam else NEVER
        longer = _longer(best, chances, followers, lowest, beam)
        found = sorted([*stays, *longer], key=itemgetter(0), reverse=True)
        for entry in best:
            entry.prefix.entry = None
        best = [entry if entry.appended == NOTHING else _grown(entry) for entry in found[:beam]]
    return [Hypothesis(_numbers(entry.prefix), entry.total) for entry in best[:nbest] if entry.total > NEVER]


def _stays(best: Sequence[_Entry], frame: npt.NDArray[np.float32]) -> list[_Entry]:
    """Each prefix after another frame: a blank, its last number held, or its parent grown to it."""
    blank = float(frame[BLANK])
    own = frame[[entry.prefix.number for entry in best]].tolist()
    found = []
    for (total, _, after_label, prefix, _), again in zip(best, own, strict=True):
        label = after_label + again
        parent = prefix.parent
        if parent is not None and parent.entry is not None:
            before = parent.entry.after_blank if parent.number == prefix.number else parent.entry.total
            label = _log_sum(label, before + again)
        held = total + blank
        found.append(_Entry(_log_sum(held, label), held, label, prefix))
    return found


def _longer(
    best: Sequence[_Entry], chances: Sequence[float], followers: Sequence[int], lowest: float, beam: int
) -> list[_Entry]:
    """Prefixes with another number that may be among the `beam` likeliest; not those that are in the beam.

    The r-th prefix with the n-th number is no likelier than any of the first r with any of the first n - 1 numbers, but
    for one a prefix that repeats its last: so only n up to beam / r + 1 have to be looked at.
    """
    found = []
    for rank, (total, after_blank, _, prefix, _) in enumerate(best, start=1):  # from the best down, as are the chances
        for number, chance in zip(followers[: beam // rank + 1], chances, strict=False):
            if total + chance <= lowest:
                break
            # After itself, a number needs a blank between.
            score = (after_blank if number == prefix.number else total) + chance
            known = prefix.longer.get(number)
            if score > lowest and (known is None or known.entry is None):
                found.append(_Entry(score, NEVER, score, prefix, number))
    return found


def _grown(entry: _Entry) -> _Entry:
    """The entry of the prefix with its appended number, which becomes a node of the tree."""
    prefix = entry.prefix.longer.get(entry.appended)
    if prefix is None:
        prefix = entry.prefix.longer[entry.appended] = _Prefix(entry.prefix, entry.appended)
    return _Entry(entry.total, entry.after_blank, entry.after_label, prefix)


def _numbers(prefix: _Prefix) -> tuple[int, ...]:
    found = []
    while prefix.parent is not None:
        found.append(prefix.number)
        prefix = prefix.parent
    return tuple(found[::-1])


def _log_sum(left: float, right: float) -> float:
    """log of the sum of exp."""
    if left < right:
        left, right = right, left
    return left if right == NEVER else left + math.log1p(math.exp(right - left))
