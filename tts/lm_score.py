"""How well a language model predicts utterances: nats, perplexity per token, bits per second."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from voxtok.tts.layout import IGNORED, Steps
from voxtok.tts.lm import UnitLm
from voxtok.tts.lm_data import Documents, Ints

BATCH_STEPS = 8192
"""Padded steps that are computed at once."""


@dataclass(frozen=True)
class Score:
    """What some utterances cost.

    Attributes:
        nats: negative logarithm of their probability.
        decisions: tokens of all streams, and an end for each utterance.
        duration_s: of their audio.
    """

    nats: float
    decisions: int
    duration_s: float

    @property
    def perplexity(self) -> float:
        """Per token: between how many equally likely ones the model wavers."""
        return math.exp(min(self.nats / max(self.decisions, 1), 700.0))

    @property
    def bits_per_s(self) -> float:
        """Comparable between tokenizers and layouts, as perplexity is not."""
        return self.nats / math.log(2) / max(self.duration_s, 1e-9)


def prediction_terms(lm: UnitLm, inputs: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """(3,) float64: nats of the targets, how many of them come first, how many there are.

    Args:
        lm: the model.
        inputs: (B, T, columns) int64.
        targets: (B, T, columns) int64; those IGNORED do not count.
        positions: (B, T) int64.
    """
    columns = list(zip(lm(inputs, positions), targets.unbind(dim=-1), strict=True))
    nats = torch.stack([
        F.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=IGNORED, reduction="sum")
        for logits, wanted in columns
    ])  # fmt: skip
    hits = torch.stack([(logits.argmax(dim=-1) == wanted).sum() for logits, wanted in columns])
    return torch.stack([nats.double().sum(), hits.double().sum(), (targets != IGNORED).double().sum()])


@torch.inference_mode()
def nats_of(lm: UnitLm, documents: Sequence[tuple[Steps, Steps]]) -> list[float]:
    """Negative log probability of each document, given as its inputs and targets.

    Documents longer than the model's context are read in windows that overlap by half, so that a prediction sees at
    least half a context of what came before.
    """
    context = lm.shape.context_steps
    windows = [
        (number, begin, first, end)
        for number, (inputs, _) in enumerate(documents)
        for begin, first, end in _windows(len(inputs), context)
    ]
    windows.sort(key=lambda window: window[3] - window[1])
    found = [0.0] * len(documents)
    size = max(1, BATCH_STEPS // context)
    for start in range(0, len(windows), size):
        batch = windows[start : start + size]
        steps = max(end - begin for _, begin, _, end in batch)
        inputs = np.zeros((len(batch), steps, lm.layout.columns), dtype=np.int64)
        targets = np.full_like(inputs, IGNORED)
        for row, (number, begin, first, end) in enumerate(batch):
            given, wanted = documents[number]
            inputs[row, : end - begin] = given[begin:end]
            targets[row, first - begin : end - begin] = wanted[first:end]
        for (number, *_), nats in zip(batch, _row_nats(lm, inputs, targets), strict=True):
            found[number] += nats
    return found


def _row_nats(lm: UnitLm, inputs: Ints, targets: Ints) -> list[float]:
    rows = torch.from_numpy(inputs).to(lm.device)
    wanted = torch.from_numpy(targets).to(lm.device)
    positions = torch.arange(rows.shape[1], device=lm.device).expand(rows.shape[:2])
    nats = torch.zeros(len(rows), dtype=torch.float64, device=lm.device)
    for logits, column in zip(lm(rows, positions), wanted.unbind(dim=-1), strict=True):
        each = F.cross_entropy(logits.transpose(1, 2), column, ignore_index=IGNORED, reduction="none")
        nats += each.double().sum(dim=1)
    listed: list[float] = nats.tolist()
    return listed


def _windows(length: int, context: int) -> list[tuple[int, int, int]]:
    """(begin, first that counts, end) of each window."""
    if length <= context:
        return [(0, 0, length)]
    stride = max(context // 2, 1)
    found = [(0, 0, context)]
    while found[-1][2] < length:
        first = found[-1][2]
        end = min(first + stride, length)
        found.append((end - context, first, end))
    return found


def score(lm: UnitLm, documents: Documents) -> Score:
    """What all documents cost together; the model should be in evaluation mode."""
    nats, decisions = 0.0, 0
    for first in range(0, len(documents), 256):
        part = [documents.read(i) for i in range(first, min(first + 256, len(documents)))]
        nats += sum(nats_of(lm, part))
        decisions += sum(int((targets != IGNORED).sum()) for _, targets in part)
    return Score(nats, decisions, float(documents.durations_s.sum()))
