"""Errors of hypotheses: insertions, deletions and substitutions of words or characters, and how sure their rate is."""

from collections.abc import Sequence
from dataclasses import dataclass

import kaldialign
import numpy as np
import numpy.typing as npt

Pair = tuple[str, str]
"""(reference, hypothesis); one is empty where there is nothing on its side."""

CONFIDENCE = 0.95
"""Of the bootstrap interval."""


@dataclass(frozen=True)
class Errors:
    """Counts of an alignment; they add up over utterances."""

    length: int = 0
    """Words or characters of the reference."""
    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0

    @property
    def total(self) -> int:
        """All errors."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def rate(self) -> float | None:
        """Errors over the length of the reference, above 1 where much is inserted; None without a reference."""
        return self.total / self.length if self.length else None

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(
            self.length + other.length,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.substitutions + other.substitutions,
        )


def align(ref: Sequence[str], hyp: Sequence[str]) -> list[Pair]:
    """An alignment with the fewest errors (Levenshtein), by kaldialign.

    Worked: `a b c` and `a c d` give (a, a) (b, ) (c, c) ( , d): one deletion and one insertion.
    """
    pairs: list[Pair] = kaldialign.align(list(ref), list(hyp), "")
    return pairs


def count(pairs: Sequence[Pair]) -> Errors:
    """The errors of an alignment."""
    return Errors(
        length=sum(ref != "" for ref, _ in pairs),
        insertions=sum(ref == "" for ref, _ in pairs),
        deletions=sum(hyp == "" for _, hyp in pairs),
        substitutions=sum("" != ref != hyp != "" for ref, hyp in pairs),
    )


def word_errors(ref: str, hyp: str) -> Errors:
    """Of texts whose words are separated by spaces."""
    return count(align(ref.split(), hyp.split()))


def character_errors(ref: str, hyp: str) -> Errors:
    """Of the texts' characters, single spaces between words among them (as ESPnet counts)."""
    return count(align(list(" ".join(ref.split())), list(" ".join(hyp.split()))))


def bootstrap_interval(
    errors: Sequence[Errors], groups: Sequence[str], *, replications: int, seed: int
) -> tuple[float, float] | None:
    """The interval that holds the rate with probability 0.95, by drawing groups anew (Bisani & Ney 2004).

    Args:
        errors: of each utterance.
        groups: what is drawn as a whole: each utterance's own id, or its speaker, whose errors are alike.
        replications: how often.
        seed: of the draws.

    Returns:
        The 2.5 and 97.5 percentiles; None without a reference, or with fewer than two groups to draw from.
    """
    if len(set(groups)) < 2:
        return None
    drawn = _draws([[one.total, one.length] for one in errors], groups, replications, seed)
    return _interval(drawn[:, 0], drawn[:, 1])


@dataclass(frozen=True)
class Difference:
    """How the rate of one system differs from another's on the same utterances."""

    rate: float | None
    """Rate of the one minus that of the other; below 0 where the one is better."""
    interval: tuple[float, float] | None
    """That holds the difference with probability 0.95; None with fewer than two groups, as is `better`."""
    better: float | None
    """Share of the draws in which the one has fewer errors: its probability of improvement."""


def bootstrap_difference(
    errors: Sequence[Errors], other: Sequence[Errors], groups: Sequence[str], *, replications: int, seed: int
) -> Difference:
    """Two systems compared on the same draws (Bisani & Ney 2004); arguments as in `bootstrap_interval`."""
    pairs = zip(errors, other, strict=True)
    rows = [[one.total - another.total, one.length] for one, another in pairs]
    edits, length = (sum(column) for column in zip(*rows, strict=True))
    if not length:
        return Difference(None, None, None)
    if len(set(groups)) < 2:
        return Difference(edits / length, None, None)
    drawn = _draws(rows, groups, replications, seed)
    better = float((drawn[:, 0] < 0).mean() + (drawn[:, 0] == 0).mean() / 2)
    return Difference(edits / length, _interval(drawn[:, 0], drawn[:, 1]), better)


def _draws(
    rows: Sequence[Sequence[int]], groups: Sequence[str], replications: int, seed: int
) -> npt.NDArray[np.float64]:
    """(replications, columns) sums of rows over groups that are drawn with replacement."""
    names = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(names), 2))
    np.add.at(sums, [names[group] for group in groups], np.asarray(rows))
    rng = np.random.default_rng(seed)
    return np.stack([sums[rng.integers(len(sums), size=len(sums))].sum(axis=0) for _ in range(replications)])


def _interval(edits: npt.NDArray[np.float64], lengths: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    there = lengths > 0
    if not there.any():
        return None
    low, high = np.quantile(edits[there] / lengths[there], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
