"""One update of a recognizer, and all that changes from update to update: what a checkpoint holds."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from voxtok.asr.augment import AugmentConfig, FrameAugment
from voxtok.asr.averaging import BestWeights
from voxtok.asr.batches import Batch
from voxtok.asr.losses import losses
from voxtok.asr.recognizer import Recognizer
from voxtok.asr.schedule import ScheduleConfig
from voxtok.runtime.averaging import MovingAverage
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import VoxtokError
from voxtok.runtime.files import write_jsonl
from voxtok.runtime.training import (
    Checkpoint,
    Clock,
    find_checkpoint,
    parameter_groups,
    save_checkpoint,
    seed_step,
    sum_gradients,
)

log = logging.getLogger("voxtok")

DIVERGED = 20
"""Updates in a row that may be skipped because gradients are not finite."""


@dataclass(eq=False)
class Run:
    """A training under way.

    Attributes:
        recognizer: on its device.
        optimizer: of its weights.
        average: moving average of its weights, which is what is evaluated and kept.
        best: weights of the best evaluations.
        rejected: rows of rejected.jsonl: utterances left out beforehand, and losses that were not finite.
        step: updates done.
        skipped: of these, the ones that changed nothing, since the gradient was not finite.
        skipped_in_a_row: the last of them.
        lowest: the best evaluation's score.
        without_better: evaluations since.
    """

    recognizer: Recognizer
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    best: BestWeights
    rejected: list[dict[str, str]] = field(default_factory=list)
    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    lowest: float = float("inf")
    without_better: int = 0

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.recognizer.device

    def is_over(self, schedule: ScheduleConfig) -> bool:
        """Whether all updates are done, or evaluations no longer get better."""
        return self.step >= schedule.steps or 0 < schedule.patience <= self.without_better

    def is_due(self, every: int, schedule: ScheduleConfig) -> bool:
        """Whether something that is done every so many updates, and at the end, is to be done now."""
        return self.step % every == 0 or self.step == schedule.steps

    def judge(self, score: float) -> None:
        """Take in an evaluation; lower is better."""
        self.without_better += 1
        if score < self.lowest:
            self.lowest, self.without_better = score, 0


def start_run(recognizer: Recognizer, schedule: ScheduleConfig, out: Path, rejected: Sequence[dict[str, str]]) -> Run:
    """A run before its first update."""
    groups = parameter_groups(recognizer.parameters(), schedule.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=schedule.peak_lr, betas=(0.9, 0.98), eps=1e-9, fused=True)
    average = MovingAverage(recognizer, schedule.average_decay)
    return Run(recognizer, optimizer, average, BestWeights(out / "best", schedule.average_best), list(rejected))


def update(
    run: Run,
    parts: Sequence[Batch | None],
    schedule: ScheduleConfig,
    augment: AugmentConfig,
    seed: int,
    ranks: Ranks,
    clock: Clock,
) -> dict[str, tuple[float, float]]:
    """One update from all `parts`, this rank's share of `accumulate` batches.

    Returns:
        Losses and the seconds of audio, each with what it is divided by, summed over ranks.

    Raises:
        VoxtokError: too many updates in a row without a finite gradient.
    """
    seed_step(seed, run.step, ranks)
    for group in run.optimizer.param_groups:
        group["lr"] = schedule.rate(run.step)
    run.optimizer.zero_grad()
    names = ["loss", *run.recognizer.config.heads]
    sums = torch.zeros(len(names) + 3, dtype=torch.float64, device=run.device)
    lost_ids: list[str] = []
    for part in parts:
        if part is not None:
            added, ids = backward(run, part.to(run.device), schedule, augment)
            sums += added
            lost_ids += ids
    ranks.all_reduce(sums)
    clock.lap("forward and backward")
    sum_gradients(run.recognizer.parameters(), ranks)
    *totals, pieces, audio_s, lost = sums.tolist()
    if lost:
        detail = f"in update {run.step + 1}"
        for name in of_all_ranks(lost_ids, run.device, ranks):
            run.rejected.append({"id": name, "reason": "loss is not finite", "detail": detail})
    descend(run, pieces, lost, schedule)
    clock.lap("update")
    return {"audio_s": (audio_s, 1.0)} | {name: (total, pieces) for name, total in zip(names, totals, strict=True)}


def backward(
    run: Run, batch: Batch, schedule: ScheduleConfig, augment: AugmentConfig
) -> tuple[torch.Tensor, list[str]]:
    """Add the gradients of a batch's summed loss.

    Returns:
        Sums over its utterances (the loss, that of each head, pieces of text, seconds of audio, losses not finite), and
        ids of the utterances whose loss is not finite.
    """
    changes = FrameAugment(augment, batch.seeds) if augment.changes_frames else None
    with torch.autocast(run.device.type, torch.bfloat16, enabled=schedule.dtype == "bfloat16"):
        encoded = run.recognizer.encode(batch.inputs, changes)
        terms = losses(run.recognizer, encoded, batch.texts, schedule.label_smoothing)
    finite = terms["loss"].detach().isfinite()
    lost_ids = [name for name, good in zip(batch.ids, finite.tolist(), strict=True) if not good]
    if finite.any():
        terms["loss"][finite].sum().backward()
    counts = torch.stack([batch.texts.lengths[finite].sum(), (~finite).sum()]).double()
    sums = torch.stack([loss.detach()[finite].sum() for loss in terms.values()]).double()
    return torch.cat([sums, counts[:1], sums.new_tensor([batch.duration_s]), counts[1:]]), lost_ids


def of_all_ranks(ids: Sequence[str], device: torch.device, ranks: Ranks) -> list[str]:
    """The ids of every rank, on the first, which writes them; an empty list on the others."""
    text = torch.frombuffer(bytearray(json.dumps(ids).encode()), dtype=torch.uint8).to(device)
    return [name for part in ranks.gather(text) for name in json.loads(bytes(part.tolist()))]


def descend(run: Run, pieces: float, lost: float, schedule: ScheduleConfig) -> None:
    """The optimizer's step, with the gradient by piece of text; none where it is not finite, and that is counted."""
    gradients = [parameter.grad for parameter in run.recognizer.parameters() if parameter.grad is not None]
    for gradient in gradients:
        gradient /= max(pieces, 1.0)
    norm = torch.nn.utils.clip_grad_norm_(run.recognizer.parameters(), schedule.max_gradient)
    if lost == 0 and bool(norm.isfinite()):
        run.optimizer.step()
        run.average.update(run.step)
        run.skipped_in_a_row = 0
        return
    run.skipped += 1
    run.skipped_in_a_row += 1
    log.warning("update %d changes nothing: %d losses, or the gradient, are not finite", run.step + 1, int(lost))
    if run.skipped_in_a_row >= DIVERGED:
        raise VoxtokError(
            f"training diverged: no finite gradient in {DIVERGED} updates in a row; "
            "lower train.peak-lr, or warm up longer"
        )


def save_run(run: Run, out: Path, key: str) -> None:
    """Write the checkpoint; then forget weights that are no longer among the best."""
    state: dict[str, Any] = {
        "model": run.recognizer.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "average": run.average.weights,
        "best": run.best.scores,
        "rejected": run.rejected,
        "counts": [run.skipped, run.skipped_in_a_row, run.lowest, run.without_better],
    }
    write_jsonl(out / "rejected.jsonl", run.rejected)
    save_checkpoint(out / "training.pt", Checkpoint(run.step, key, state))
    run.best.clean()


def resume(run: Run, out: Path, key: str) -> None:
    """Go on from the checkpoint in `out`, where there is one.

    Raises:
        ConfigError: it is of another configuration.
    """
    checkpoint = find_checkpoint(out, key)
    if checkpoint is None:
        return
    state = checkpoint.state
    run.recognizer.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.average.load(state["average"])
    run.best.scores = dict(state["best"])
    run.rejected = list(state["rejected"])
    run.skipped, run.skipped_in_a_row, run.lowest, run.without_better = state["counts"]
    run.step = checkpoint.step
    log.info("%s: going on at update %d", out, run.step)
