"""Hypotheses: what a search returns, and the traceback that all searches over frames share."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

NEVER = float("-inf")
"""Log-probability of what cannot be."""
NOTHING = -1
"""Stands for a number where a step wrote none."""


@dataclass(frozen=True)
class Hypothesis:
    """One decoded utterance.

    Attributes:
        numbers: of the text model, without blanks and sos/eos.
        score: log-probability, with the weighted scores of a language model and bonuses where there are any.
    """

    numbers: tuple[int, ...]
    score: float


class Traceback:
    """Which beam entry each entry came from, and what it wrote, step by step: texts are put together at the end."""

    def __init__(self) -> None:
        self._steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, parents: torch.Tensor, written: torch.Tensor) -> None:
        """One step: (B, K) places in the beam before, and (B, K) numbers or NOTHING."""
        self._steps.append((parents, written))

    def read(self, utterance: int, place: int) -> tuple[int, ...]:
        """The numbers behind one entry of the last beam."""
        numbers: list[int] = []
        for parents, written in reversed(self._rows(utterance)):
            if written[place] != NOTHING:
                numbers.append(written[place])
            place = parents[place]
        return tuple(reversed(numbers))

    def _rows(self, utterance: int) -> list[tuple[list[int], list[int]]]:
        if not self._steps:
            return []
        parents = torch.stack([parents[utterance] for parents, _ in self._steps]).tolist()
        written = torch.stack([written[utterance] for _, written in self._steps]).tolist()
        return list(zip(parents, written, strict=True))

    def hypotheses(self, scores: torch.Tensor, nbest: int) -> list[list[Hypothesis]]:
        """The best `nbest` of each utterance, best first; (B, K) scores, entries that cannot be are left out."""
        found: list[list[Hypothesis]] = []
        for utterance, row in enumerate(scores.tolist()):
            places = sorted((place for place in range(len(row)) if row[place] > NEVER), key=lambda place: -row[place])
            found.append([Hypothesis(self.read(utterance, place), row[place]) for place in places[:nbest]])
        return found


def pick(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, N) values at (B, K) places."""
    return values.gather(1, places)


def texts(found: Sequence[Sequence[Hypothesis]]) -> list[tuple[int, ...]]:
    """The best numbers of each utterance; empty where nothing was found."""
    return [row[0].numbers if row else () for row in found]
