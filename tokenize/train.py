"""The training loop of SSL models, for pre-training and distillation: they differ in their loss alone.

out/model/          config.json, preprocessor_config.json, model.safetensors
out/heads.safetensors  what predicts the targets
out/training.pt     weights, their average, optimizer: a killed run goes on here, along the same loss curve
out/metrics.jsonl   loss, accuracies, learning rate, hours of audio per hour, and each part's share of the time
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from transformers import HubertModel

from voxtok.runtime.averaging import MovingAverage
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import sha256, write_bytes, write_json
from voxtok.runtime.progress import Progress
from voxtok.runtime.training import (
    Checkpoint,
    Clock,
    Metrics,
    Totals,
    clip_gradients,
    find_checkpoint,
    is_finished,
    learning_rate,
    parameter_groups,
    prefetched,
    save_checkpoint,
    seed_step,
    sum_gradients,
)
from voxtok.tokenize.crops import Batch, Corpus, CropConfig, batches
from voxtok.tokenize.student import architecture_of, save_model

log = logging.getLogger("voxtok")

Terms = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Sums over this rank's crops and what they are divided by, once ranks are added; "loss" is what is trained."""

IRRELEVANT = {"out": "", "device": "", "memory_gb": 0}
"""Options that do not change the model, for the identity of a run."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how fast; everything but reports and checkpoints changes the model."""

    steps: int
    """Batches to train on."""
    peak_lr: float
    """Highest learning rate of AdamW."""
    warmup_steps: int
    """Steps until the highest learning rate."""
    decay_share: float
    """Share of the steps over which the learning rate falls to zero, at the end."""
    weight_decay: float = 0.01
    """Of AdamW, on matrices."""
    max_gradient: float = 5.0
    """Norm at which gradients are clipped."""
    average_decay: float = 0.0
    """Of the moving average of weights, which is what is kept, such as 0.999; 0 keeps the weights of the last step."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of matrix products; weights stay float32."""
    saved_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the weights in out/model."""
    workers: int = 0
    """Threads that prepare batches ahead; 0 prepares them in between."""
    report_steps: int = 50
    """Steps from one line of metrics to the next."""
    checkpoint_steps: int = 500
    """Steps from one checkpoint to the next."""
    tensorboard: bool = False
    """Write TensorBoard's files too (pip install tensorboard)."""

    def __post_init__(self) -> None:
        if not 0 < self.warmup_steps < self.steps:
            raise ConfigError("train.warmup-steps must be positive and below train.steps")
        if not 0 <= self.decay_share <= 1:
            raise ConfigError("train.decay-share is a share: between 0 and 1")
        if not 0 <= self.average_decay < 1:
            raise ConfigError("train.average-decay is from 0 to below 1")
        if self.report_steps < 1 or self.checkpoint_steps < 1:
            raise ConfigError("train.report-steps and train.checkpoint-steps must be at least 1")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return learning_rate(
            step, peak=self.peak_lr, warmup_steps=self.warmup_steps, steps=self.steps, decay_share=self.decay_share
        )


@dataclass(frozen=True, eq=False)
class Trainee:
    """What is trained: the model that is kept, the heads beside it, and the loss over both."""

    model: HubertModel
    heads: torch.nn.Module
    terms: Callable[[Batch], Terms]

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Of both."""
        yield from self.model.parameters()
        yield from self.heads.parameters()

    def modules(self) -> torch.nn.ModuleDict:
        """Both by name, for their weights together."""
        return torch.nn.ModuleDict({"model": self.model, "heads": self.heads})


def train(
    trainee: Trainee,
    corpus: Corpus,
    out: Path,
    identity: dict[str, Any],
    crops: CropConfig,
    config: TrainConfig,
    seed: int,
    ranks: Ranks,
) -> Path:
    """Train, or go on where a killed run stopped; a finished run is left as it is.

    Args:
        trainee: on its device, with its first weights.
        corpus: what it learns from.
        out: folder to write.
        identity: JSON of all that decides the result; a run in `out` must have the same.
        crops: how batches are drawn.
        config: how long and how fast.
        seed: of crops, masks, disguises and dropout.
        ranks: this process's place; every rank makes its part of each batch, and gradients are added.

    Returns:
        The checkpoint folder, out/model.

    Raises:
        ConfigError: `out` holds a run of another configuration.
    """
    key = sha256(identity)
    if is_finished(out, key):
        return out / "model"
    device = next(trainee.parameters()).device
    groups = parameter_groups(trainee.parameters(), config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.peak_lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    average = MovingAverage(trainee.modules(), config.average_decay)
    step = _resume(out, key, trainee, optimizer, average)
    recipes = islice(batches(corpus, crops, seed, ranks, architecture_of(trainee.model), step), config.steps - step)
    trainee.model.train()
    clock, totals = Clock(device), Totals()
    with (
        Metrics(out, ranks, resumed_step=step, tensorboard=config.tensorboard) as metrics,
        Progress("train", (config.steps - step) * crops.batch_s) as progress,
    ):
        for batch in prefetched(recipes, config.workers):
            clock.lap("data")
            seed_step(seed, step, ranks)
            audio_s = totals.add(update(trainee, optimizer, batch.to(device), step, config, ranks, clock))
            progress.add(audio_s)
            step += 1
            average.update(step)
            if step % config.report_steps == 0 or step == config.steps:
                metrics.add(step, totals.means() | {"lr": config.rate(step - 1)} | clock.report(totals.audio_s))
                totals = Totals()
            if ranks.is_first and (step % config.checkpoint_steps == 0 or step == config.steps):
                _checkpoint(out, key, trainee, optimizer, average, step)
                clock.lap("checkpoint")
    trainee.modules().load_state_dict(average.weights)
    if ranks.is_first:
        save_model(trainee.model, out / "model", getattr(torch, config.saved_dtype))
        write_bytes(out / "heads.safetensors", save(trainee.heads.state_dict()))
        write_json(out / "done.json", {"config": key})
    ranks.barrier()
    return out / "model"


def update(
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    config: TrainConfig,
    ranks: Ranks,
    clock: Clock,
) -> dict[str, tuple[float, float]]:
    """One step; returns the terms, and the seconds of audio, summed over ranks.

    Raises:
        VoxtokError: gradients are not finite; the last checkpoint is from before.
    """
    for group in optimizer.param_groups:
        group["lr"] = config.rate(step)
    with torch.autocast(batch.mask.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        terms = trainee.terms(batch)
    audio_s = batch.mask.new_tensor([batch.duration_s, 1.0], dtype=torch.float64)
    sums = torch.stack([audio_s, *(torch.stack([a.detach().double(), b.double()]) for a, b in terms.values())])
    ranks.all_reduce(sums)
    clock.lap("forward")
    optimizer.zero_grad()
    loss, _ = terms["loss"]
    count = sums[1 + list(terms).index("loss"), 1].clamp_min(1)  # short crops may have no masked frame
    (loss / count.to(loss.dtype)).backward()
    clock.lap("backward")
    sum_gradients(trainee.parameters(), ranks)
    clip_gradients(trainee.parameters(), config.max_gradient, step)
    optimizer.step()
    rows = sums.tolist()
    clock.lap("update")
    return {name: (row[0], row[1]) for name, row in zip(["audio_s", *terms], rows, strict=True)}


def _checkpoint(
    out: Path, key: str, trainee: Trainee, optimizer: torch.optim.Optimizer, average: MovingAverage, step: int
) -> None:
    state = {
        "model": trainee.model.state_dict(),
        "heads": trainee.heads.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.weights,
    }
    save_checkpoint(out / "training.pt", Checkpoint(step, key, state))


def _resume(out: Path, key: str, trainee: Trainee, optimizer: torch.optim.Optimizer, average: MovingAverage) -> int:
    """Steps that are done; their weights, the average of them and the optimizer are restored."""
    checkpoint = find_checkpoint(out, key)
    if checkpoint is None:
        return 0
    trainee.model.load_state_dict(checkpoint.state["model"])
    trainee.heads.load_state_dict(checkpoint.state["heads"])
    optimizer.load_state_dict(checkpoint.state["optimizer"])
    average.load(checkpoint.state["average"])
    log.info("%s: going on at step %d", out, checkpoint.step)
    return checkpoint.step
