"""Hypotheses: what a search returns, and the traceback that all searches over frames share."""

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
        frames: encoder frame that wrote each number; None where the search does not go by frames.
    """

    numbers: tuple[int, ...]
    score: float
    frames: tuple[int, ...] | None = None


class Traceback:
    """Which beam entry each entry came from, and what it wrote, step by step: texts are put together at the end."""

    def __init__(self) -> None:
        self._steps: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._utterance = -1
        self._read: list[tuple[list[int], list[int]]] = []

    def add(self, parents: torch.Tensor, written: torch.Tensor) -> None:
        """One step: (B, K) places in the beam before, and (B, K) numbers or NOTHING."""
        self._steps.append((parents, written))

    def read(self, utterance: int, place: int, steps: int | None = None) -> list[tuple[int, int]]:
        """The (number, step) pairs behind one entry of the beam after so many steps, all by default."""
        found: list[tuple[int, int]] = []
        rows = self._rows(utterance)[:steps]
        for step in reversed(range(len(rows))):
            parents, written = rows[step]
            if written[place] != NOTHING:
                found.append((written[place], step))
            place = parents[place]
        return found[::-1]

    def _rows(self, utterance: int) -> list[tuple[list[int], list[int]]]:
        if self._utterance != utterance or len(self._read) != len(self._steps):
            self._utterance = utterance
            pairs = [torch.stack([parents[utterance], written[utterance]]) for parents, written in self._steps]
            self._read = torch.stack(pairs).tolist() if pairs else []
        return self._read

    def hypotheses(self, scores: torch.Tensor, nbest: int, *, frames: bool = False) -> list[list[Hypothesis]]:
        """The best `nbest` of each utterance, best first; (B, K) scores, entries that cannot be are left out.

        With `frames`, a step is a frame of the encoder.
        """
        found: list[list[Hypothesis]] = []
        for utterance, row in enumerate(scores.tolist()):
            places = sorted((place for place in range(len(row)) if row[place] > NEVER), key=lambda place: -row[place])
            found.append([self._hypothesis(utterance, place, row[place], frames) for place in places[:nbest]])
        return found

    def _hypothesis(self, utterance: int, place: int, score: float, frames: bool) -> Hypothesis:
        pairs = self.read(utterance, place)
        return Hypothesis(numbers_of(pairs), score, tuple(step for _, step in pairs) if frames else None)


def pick(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, N) values at (B, K) places."""
    return values.gather(1, places)


def numbers_of(pairs: list[tuple[int, int]]) -> tuple[int, ...]:
    """The numbers of (number, step) pairs."""
    return tuple(number for number, _ in pairs)
