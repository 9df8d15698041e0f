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
        frames: encoder frame that wrote each number; None where the search does not go by frames.
    """

    numbers: tuple[int, ...]
    score: float
    frames: tuple[int, ...] | None = None


class Traceback:
    """Which beam entry each entry came from, and what it wrote, step by step: texts are put together at the end."""

    def __init__(self) -> None:
        self._parents: list[torch.Tensor] = []
        self._written: list[torch.Tensor] = []

    def add(self, parents: torch.Tensor, written: torch.Tensor) -> None:
        """One step: (B, K) places in the beam before, and (B, K) numbers or NOTHING."""
        self._parents.append(parents)
        self._written.append(written)

    def read(self, ends: Sequence[tuple[int, int, int]]) -> list[list[tuple[int, int]]]:
        """The (number, step) pairs behind each of `ends`: (utterance, place in the beam, steps done by then)."""
        if not self._parents:
            return [[] for _ in ends]
        tables = torch.stack([torch.stack(self._parents), torch.stack(self._written)]).cpu()  # (2, steps, B, K)
        found: list[list[tuple[int, int]]] = []
        for utterance, place, steps in ends:
            parents, written = tables[:, :, utterance].numpy()
            pairs: list[tuple[int, int]] = []
            for step in range(steps - 1, -1, -1):
                if written[step, place] != NOTHING:
                    pairs.append((int(written[step, place]), step))
                place = int(parents[step, place])
            found.append(pairs[::-1])
        return found

    def hypotheses(self, scores: torch.Tensor, nbest: int, *, frames: bool = False) -> list[list[Hypothesis]]:
        """The best `nbest` of each utterance, best first; (B, K) scores, entries that cannot be are left out.

        With `frames`, a step is a frame of the encoder.
        """
        steps, rows = len(self._parents), scores.tolist()
        best = [
            sorted((place for place, score in enumerate(row) if score > NEVER), key=row.__getitem__, reverse=True)[
                :nbest
            ]
            for row in rows
        ]
        ends = [(utterance, place, steps) for utterance, places in enumerate(best) for place in places]
        found: list[list[Hypothesis]] = [[] for _ in rows]
        for (utterance, place, _), pairs in zip(ends, self.read(ends), strict=True):
            when = tuple(step for _, step in pairs) if frames else None
            found[utterance].append(Hypothesis(numbers_of(pairs), rows[utterance][place], when))
        return found


def pick(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, N) values at (B, K) places."""
    return values.gather(1, places)


def numbers_of(pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The numbers of (number, step) pairs."""
    return tuple(number for number, _ in pairs)
