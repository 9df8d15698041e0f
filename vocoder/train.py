"""The training loop of vocoders.

out/model/          the vocoder, with averaged weights
out/training.pt     weights, averages, discriminators, optimizers: a killed run goes on here
out/metrics.jsonl   losses, learning rate, hours of audio per hour, each part's share of the time; held-out distance
"""

import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from voxtok.manifests.codebook import Codebook
from voxtok.runtime.averaging import decay_at
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.files import sha256, write_json
from voxtok.runtime.progress import Progress, log
from voxtok.runtime.training import (
    Checkpoint,
    Clock,
    Metrics,
    Totals,
    find_checkpoint,
    is_finished,
    prefetched,
    save_checkpoint,
    seed_step,
    sum_gradients,
)
from voxtok.tokenize.quantizer import open_quantizer
from voxtok.vocoder.discriminators import Discriminators, discriminator_loss, feature_loss, generator_loss
from voxtok.vocoder.heldout import look_at, split_heldout
from voxtok.vocoder.loop_config import LoopConfig
from voxtok.vocoder.losses import LossConfig, duration_term, mel_distance, pitch_terms
from voxtok.vocoder.model import Synthesis, VocoderModel
from voxtok.vocoder.segments import Batch, SegmentConfig, batches
from voxtok.vocoder.speech import Speech
from voxtok.vocoder.vocoder import Vocoder

Terms = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Trainee:
    """What is trained, on one device.

    Attributes:
        model: the network.
        average: its averaged weights.
        discriminators: its opponents.
        codebook: of the tokenizer, where tokens are looked up in it.
    """

    model: VocoderModel
    average: VocoderModel
    discriminators: Discriminators
    codebook: Codebook | None

    @classmethod
    def of(cls, model: VocoderModel, discriminators: Discriminators, codebook: Codebook | None) -> "Trainee":
        """With averages that begin at the model."""
        return cls(model, copy.deepcopy(model).eval().requires_grad_(False), discriminators, codebook)

    def vocoder(self) -> Vocoder:
        """The vocoder of the averaged weights."""
        return Vocoder(self.average, self.codebook)


@dataclass(frozen=True, eq=False)
class Optimizers:
    """Of the generator and of the discriminators."""

    generator: torch.optim.Optimizer
    discriminators: torch.optim.Optimizer

    @classmethod
    def of(cls, trainee: Trainee, config: LoopConfig) -> "Optimizers":
        """AdamW as HiFi-GAN has it."""

        def adam(module: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
            return torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.8, 0.99), weight_decay=0.01, fused=True)

        return cls(adam(trainee.model, config.peak_lr), adam(trainee.discriminators, config.discriminator_lr))


def train(
    trainee: Trainee,
    speech: Speech,
    out: Path,
    identity: Any,
    segments: SegmentConfig,
    losses: LossConfig,
    config: LoopConfig,
    seed: int,
    ranks: Ranks,
) -> Path:
    """Train, or go on where a killed run stopped; a finished run is left as it is.

    Args:
        trainee: on its device, with its first weights.
        speech: what it learns from; its last `config.heldout` utterances are kept apart.
        out: folder to write.
        identity: JSON of all that decides the result; a run in `out` must have the same.
        segments: how batches are drawn.
        losses: weights of the terms.
        config: how long and how fast.
        seed: of batches and dropout.
        ranks: this process's place; every rank makes its part of each batch, and gradients are added.

    Returns:
        The vocoder's folder, out/model.

    Raises:
        ConfigError: `out` holds a run of another configuration, or too few utterances.
    """
    key = sha256(identity)
    if is_finished(out, key):
        return out / "model"
    device = next(trainee.model.parameters()).device
    training, heldout = split_heldout(speech, config.heldout)
    optimizers = Optimizers.of(trainee, config)
    step = _resume(out, key, trainee, optimizers)
    hop_samples = trainee.model.facts.hop_samples
    quantizer = None if trainee.codebook is None else open_quantizer(trainee.codebook, torch.device("cpu"))
    every = batches(training, segments, hop_samples, quantizer, seed, ranks, step)
    recipes = islice(every, config.steps - step)
    step_s = segments.batch_size * segments.segment_frames * hop_samples / trainee.model.facts.sampling_rate
    clock, totals = Clock(device), Totals()
    with (
        Metrics(out, ranks, resumed_step=step, tensorboard=config.tensorboard) as metrics,
        Progress("train-vocoder", (config.steps - step) * step_s) as progress,
    ):
        for batch in prefetched(recipes, config.workers):
            clock.lap("data")
            seed_step(seed, step, ranks)
            terms = update(trainee, optimizers, batch.to(device), losses, step, config, ranks, clock)
            totals.add({"audio_s": (step_s, 1.0)} | {name: (value, 1.0) for name, value in terms.items()})
            progress.add(step_s)
            step += 1
            if step % config.report_steps == 0 or step == config.steps:
                rate = config.rate(step - 1, config.peak_lr)
                metrics.add(step, totals.means() | {"lr": rate} | clock.report(totals.audio_s))
                totals = Totals()
            if ranks.is_first and (step % config.checkpoint_steps == 0 or step == config.steps):
                look_at(trainee.vocoder(), heldout, metrics, step)
                clock.lap("evaluation")
                trainee.vocoder().save(out / "model", getattr(torch, config.saved_dtype))
                _checkpoint(out, key, trainee, optimizers, step)
                clock.lap("checkpoint")
    if ranks.is_first:
        write_json(out / "done.json", {"config": key})
    ranks.barrier()
    return out / "model"


def update(
    trainee: Trainee,
    optimizers: Optimizers,
    batch: Batch,
    losses: LossConfig,
    step: int,
    config: LoopConfig,
    ranks: Ranks,
    clock: Clock,
) -> dict[str, float]:
    """One step of the generator, and of the discriminators once they have begun; returns the terms over all ranks."""
    fast = torch.autocast(batch.waveforms.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16")
    terms: Terms = {}
    with fast:
        made = trainee.model(batch.frames, batch.place)
    clock.lap("generator")
    loss = _own_terms(trainee, batch, made, losses, terms)
    if step >= config.adversarial_from:
        with fast:
            real, fake = (trainee.discriminators(one)[0] for one in (batch.waveforms, made.waveforms.detach()))
        terms["discriminator"] = discriminator_loss(real, fake)
        rate = config.rate(step, config.discriminator_lr)
        _step(
            terms["discriminator"] * batch.share, optimizers.discriminators, trainee.discriminators, rate, ranks, None
        )
        clock.lap("discriminators")
        with fast:
            loss = loss + _opposed_terms(trainee, batch, made, losses, terms)
    _step(
        loss * batch.share,
        optimizers.generator,
        trainee.model,
        config.rate(step, config.peak_lr),
        ranks,
        config.max_gradient,
    )
    _average(trainee, config.average, step)
    sums = torch.stack([value.detach().double() for value in terms.values()]) * batch.share
    values: list[float] = ranks.all_reduce(sums).tolist()
    clock.lap("update")
    return dict(zip(terms, values, strict=True))


def _own_terms(trainee: Trainee, batch: Batch, made: Synthesis, losses: LossConfig, terms: Terms) -> torch.Tensor:
    """The weighted sum of the generator's own terms, which are added to `terms`."""
    rate = trainee.model.facts.sampling_rate
    terms["mel"] = mel_distance(made.waveforms, batch.waveforms, rate, losses.resolutions)
    total = losses.mel * terms["mel"]
    if made.pitch is not None:
        terms["pitch"], terms["voicing"] = pitch_terms(made.pitch, batch)
        total = total + losses.pitch * (terms["pitch"] + terms["voicing"])
    if trainee.model.durations is not None and batch.runs is not None and batch.durations is not None:
        terms["durations"] = duration_term(trainee.model.log_durations(batch.runs), batch.durations)
        total = total + losses.durations * terms["durations"]
    return total


def _opposed_terms(trainee: Trainee, batch: Batch, made: Synthesis, losses: LossConfig, terms: Terms) -> torch.Tensor:
    """The weighted sum of what the discriminators say, whose terms are added to `terms`."""
    trainee.discriminators.requires_grad_(False)  # they only pass gradients on here
    scores, activations = trainee.discriminators(made.waveforms)
    with torch.no_grad():
        _, expected = trainee.discriminators(batch.waveforms)
    trainee.discriminators.requires_grad_(True)
    terms["adversarial"], terms["features"] = generator_loss(scores), feature_loss(expected, activations)
    return losses.adversarial * terms["adversarial"] + losses.features * terms["features"]


def _step(
    loss: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    module: torch.nn.Module,
    lr: float,
    ranks: Ranks,
    max_gradient: float | None,
) -> None:
    """One optimizer step on a loss whose gradients are added up over ranks."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    loss.backward()
    sum_gradients(module.parameters(), ranks)
    if max_gradient is not None:
        torch.nn.utils.clip_grad_norm_(list(module.parameters()), max_gradient)
    optimizer.step()


@torch.no_grad()
def _average(trainee: Trainee, decay: float, step: int) -> None:
    """Move the average towards the weights."""
    for average, weight in zip(trainee.average.parameters(), trainee.model.parameters(), strict=True):
        average.lerp_(weight, 1 - decay_at(step, decay))


def _parts(trainee: Trainee, optimizers: Optimizers) -> dict[str, Any]:
    """Everything with a state, by name."""
    return {
        "model": trainee.model,
        "average": trainee.average,
        "discriminators": trainee.discriminators,
        "generator_optimizer": optimizers.generator,
        "discriminator_optimizer": optimizers.discriminators,
    }


def _checkpoint(out: Path, key: str, trainee: Trainee, optimizers: Optimizers, step: int) -> None:
    state = {name: part.state_dict() for name, part in _parts(trainee, optimizers).items()}
    save_checkpoint(out / "training.pt", Checkpoint(step, key, state))


def _resume(out: Path, key: str, trainee: Trainee, optimizers: Optimizers) -> int:
    """Steps that are done; weights and optimizers are restored."""
    checkpoint = find_checkpoint(out, key)
    if checkpoint is None:
        return 0
    for name, part in _parts(trainee, optimizers).items():
        part.load_state_dict(checkpoint.state[name])
    log.info("%s: going on at step %d", out, checkpoint.step)
    return checkpoint.step
