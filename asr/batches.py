"""Training batches: utterances of about equal length, in an order that follows from the seed and the epoch alone.

A resumed run, or one on more ranks, sees the same utterances in the same batches, changed in the same way.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise

import numpy as np
import torch

from voxtok.asr.augment import AugmentConfig, change_tokens
from voxtok.asr.examples import Example, Examples, collate
from voxtok.asr.inputs import Inputs
from voxtok.asr.padded import Padded, pad
from voxtok.asr.text import TextModel
from voxtok.runtime.distributed import Ranks

JITTER = 0.1
"""Lengths are stretched by up to this share before they are sorted, so that batches differ from epoch to epoch."""


@dataclass(frozen=True, eq=False)
class Batch:
    """This rank's part of a batch.

    Attributes:
        ids: of its utterances.
        inputs: of the front.
        texts: (B, S) int64 numbers of the text model, without sos/eos.
        seeds: of each utterance, for what is drawn on the device.
        duration_s: of its audio.
    """

    ids: tuple[str, ...]
    inputs: Inputs
    texts: Padded
    seeds: tuple[tuple[int, ...], ...]
    duration_s: float

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return replace(self, inputs=self.inputs.to(device), texts=self.texts.to(device))


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Examples with their texts as numbers.

    Attributes:
        examples: those that can be trained on.
        texts: numbers of each.
        augment: how they are changed; None leaves them.
    """

    examples: Examples
    texts: list[torch.Tensor]
    augment: AugmentConfig | None

    @property
    def lengths(self) -> list[int]:
        """Input frames of each."""
        return [item.num_frames for item in self.examples.items]

    def batch(self, items: Sequence[int], seed: int, epoch: int) -> Batch:
        """The batch of these items in an epoch."""
        seeds = tuple((seed, epoch, item) for item in items)
        chosen = [self._changed(item, drawn) for item, drawn in zip(items, seeds, strict=True)]
        return Batch(
            ids=tuple(example.id for example in chosen),
            inputs=collate(chosen),
            texts=pad([self.texts[item] for item in items]),
            seeds=seeds,
            duration_s=sum(example.duration_s for example in chosen),
        )

    def _changed(self, item: int, seed: tuple[int, ...]) -> Example:
        example = self.examples.items[item]
        if self.augment is None or example.tokens is None:
            return example
        sizes = self.examples.source.vocab_sizes
        return replace(example, tokens=change_tokens(example.tokens, sizes, self.examples.subwords, self.augment, seed))


def training_set(
    examples: Examples,
    text: TextModel,
    frames_needed: Callable[[Sequence[int]], int],
    num_frames: Callable[[int], int],
    augment: AugmentConfig | None,
) -> tuple[TrainingSet, list[dict[str, str]]]:
    """What can be trained on, and the rows of what cannot: no text, or fewer encoder frames than its text needs.

    Args:
        examples: all.
        text: the text model.
        frames_needed: encoder frames without which a text has no path; `ctc_frames`, `len` or `one_frame`.
        num_frames: encoder frames for input frames.
        augment: as in TrainingSet.
    """
    kept: list[Example] = []
    texts: list[torch.Tensor] = []
    rejected: list[dict[str, str]] = []
    for item in examples.items:
        numbers = text.encode(item.text)
        frames, needed = num_frames(item.num_frames), frames_needed(numbers)
        if not numbers:
            rejected.append({"id": item.id, "reason": "no text", "detail": "its cut has no transcript"})
        elif item.num_frames == 0 or frames < needed:
            detail = f"{frames} encoder frames, its text needs {needed}: subsample less, or take longer text units"
            rejected.append({"id": item.id, "reason": "too short for its text", "detail": detail})
        else:
            kept.append(item)
            texts.append(torch.tensor(numbers))
    return TrainingSet(replace(examples, items=kept), texts, augment), rejected


def ctc_frames(numbers: Sequence[int]) -> int:
    """Frames that CTC needs for a text: one a number, and a blank between equal ones.

    Worked: 5 5 7 needs 4 frames: 5 blank 5 7.
    """
    return len(numbers) + sum(a == b for a, b in pairwise(numbers))


def one_frame(numbers: Sequence[int]) -> int:
    """Frames that an attention decoder and a transducer need for a text, however long."""
    return 1


def plan_epoch(lengths: Sequence[int], batch_frames: int, seed: int, epoch: int) -> list[list[int]]:
    """Every utterance once, in batches of at most `batch_frames` with their padding, in random order.

    An utterance longer than that has a batch of its own. Worked: lengths 3 4 9 with 10 give [3 4] and [9].
    """
    rng = np.random.default_rng([seed, epoch])
    planned: list[list[int]] = []
    longest = 0
    for item in np.argsort(lengths * rng.uniform(1, 1 + JITTER, len(lengths)), kind="stable").tolist():
        longest = max(longest, lengths[item])
        if not planned or (len(planned[-1]) + 1) * longest > batch_frames:
            planned.append([])
            longest = lengths[item]
        planned[-1].append(item)
    return [planned[place] for place in rng.permutation(len(planned))]


def batches(
    data: TrainingSet, batch_frames: int, seed: int, ranks: Ranks, begin: int
) -> Iterator[Callable[[], Batch | None]]:
    """Recipes of batches without end, from batch `begin` on; each makes this rank's part, None where it has none."""
    done = 0
    for epoch in count():
        plan = plan_epoch(data.lengths, batch_frames, seed, epoch)
        for place in range(max(0, begin - done), len(plan)):
            yield Recipe(data, tuple(plan[place][ranks.rank :: ranks.world_size]), seed, epoch)
        done += len(plan)


@dataclass(frozen=True, eq=False)
class Recipe:
    """A batch to be made."""

    data: TrainingSet
    items: tuple[int, ...]
    seed: int
    epoch: int

    def __call__(self) -> Batch | None:
        """Make it."""
        return self.data.batch(self.items, self.seed, self.epoch) if self.items else None
