"""`voxtok train-lm`: token stores -> unit language model (GSLM, Lakhotia et al. 2021).

out/lm.json, model.safetensors    the model; tokenizer/ beside it where token stores were given
out/training.pt                   weights, optimizer: a killed run goes on here, along the same curve
out/metrics.jsonl                 loss, perplexity, bits per second of training and of held-out speech
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch

from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, connected_ranks, pick_device
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import sha256, write_json
from voxtok.runtime.progress import Progress
from voxtok.runtime.training import (
    Checkpoint,
    Clock,
    Metrics,
    Totals,
    clip_gradients,
    find_checkpoint,
    is_finished,
    parameter_groups,
    prefetched,
    save_checkpoint,
    seed_step,
    sum_gradients,
)
from voxtok.tokenize.patterns import PatternName
from voxtok.tokenize.tokenizer_folder import read_description, read_parts, require_same, write_folder
from voxtok.tokenize.train import IRRELEVANT, TrainConfig
from voxtok.tts.layout import Layout, Rows
from voxtok.tts.lm import LmShape, UnitLm
from voxtok.tts.lm_data import Documents, LmBatch, hash_of, lm_batches, mean_frames, open_tokens, unit_documents
from voxtok.tts.lm_score import prediction_terms, score

log = logging.getLogger("voxtok")


@dataclass(frozen=True, kw_only=True)
class TrainLmConfig:
    """Train a language model on the tokens of stores or flat exports of one tokenizer."""

    stores: tuple[str, ...]
    """Token stores, or flat exports of them, which are memory-mapped."""
    valid: tuple[str, ...] = ()
    """Likewise, of speech to measure the perplexity on at every checkpoint."""
    out: str
    """Folder to write."""
    rows: Rows
    """frames: a step a frame. merged: runs of equal frames, and subword pieces, without durations. timed: with them."""
    pattern: PatternName
    """How several streams, durations among them, become steps: parallel, flattened or delayed."""
    max_duration_frames: int = 0
    """Longest duration of a row; rows timed need it."""
    model: LmShape
    """Shape of the model."""
    batch_steps: int
    """Steps in a batch, over all ranks."""
    train: TrainConfig
    """Steps, learning rate, reports, checkpoints."""
    seed: int = 0
    """Of weights, dropout, order and cuts."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if not self.stores:
            raise ConfigError("stores needs at least one token store")
        if self.seed < 0:
            raise ConfigError("seed must be at least 0")
        if self.batch_steps < self.model.context_steps:
            raise ConfigError("batch-steps must be at least model.context-steps: a batch has whole rows")


def train_lm(config: TrainLmConfig, ranks: Ranks | None = None) -> Path:
    """Train a model and write its folder, or go on where a killed run stopped; a finished one is left as it is.

    Returns:
        The folder.

    Raises:
        ConfigError: the rows or the pattern do not suit the tokens, or `out` holds a run of another configuration.
        TokenizerMismatch: stores of different tokenizers.
    """
    out, ranks = Path(config.out), ranks or Ranks()
    sources, held_out = ([open_tokens(store) for store in stores] for stores in (config.stores, config.valid))
    first = sources[0]
    contents = [hash_of(source) for source in (*sources, *held_out)]
    key = sha256(asdict(config) | {"fingerprint": first.fingerprint, "contents": contents, **IRRELEVANT})
    if is_finished(out, key):
        return out
    find_checkpoint(out, key)  # another configuration's folder is refused before anything in it changes
    layout = Layout(
        rows=config.rows,
        pattern=config.pattern,
        max_duration_frames=config.max_duration_frames,
        vocab_sizes=first.vocab_sizes,
        frame_rate_hz=first.frame_rate_hz,
        fingerprint=first.fingerprint,
        has_durations=first.durations is not None,
        pieces=first.bpe is not None,
        mean_frames=mean_frames(sources) if config.rows == "merged" else 1.0,
    )
    documents = unit_documents(sources, layout)
    valid = unit_documents(held_out, layout) if held_out else None
    torch.manual_seed(config.seed)
    lm = UnitLm(config.model, layout).to(pick_device(config.device))
    if ranks.is_first:
        keep_tokenizer(config.stores, out, layout.fingerprint)
    train(lm, documents, valid, out, key, config.batch_steps, config.train, config.seed, ranks)
    return out


def keep_tokenizer(stores: Sequence[str], out: Path, fingerprint: str) -> None:
    """Copy the first tokenizer that a store holds, so that speech can be continued from `out` alone."""
    for store in stores:
        folder = Path(store) / "tokenizer"
        if (folder / "tokenizer.json").exists():
            described = read_description(folder)
            require_same(fingerprint, described["fingerprint"], str(folder))
            write_folder(out / "tokenizer", described, *read_parts(folder, described))
            return


def train(
    lm: UnitLm,
    documents: Documents,
    valid: Documents | None,
    out: Path,
    key: str,
    batch_steps: int,
    config: TrainConfig,
    seed: int,
    ranks: Ranks,
) -> None:
    """Train, or go on where a killed run stopped, and write the model.

    Args:
        lm: on its device, with its first weights.
        documents: what it learns from.
        valid: what it is measured on at every checkpoint.
        out: folder to write.
        key: hash of all that decides the result; a run in `out` must have the same.
        batch_steps: over all ranks.
        config: how long and how fast.
        seed: of order, cuts and dropout.
        ranks: this process's place; every rank takes its rows of each batch, and gradients are added.

    Raises:
        ConfigError: `out` holds a run of another configuration.
    """
    groups = parameter_groups(lm.parameters(), config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.peak_lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    step = _resume(out, key, lm, optimizer)
    context = lm.shape.context_steps
    every = lm_batches(documents, lm.layout, context, batch_steps // context, seed, ranks, step)
    recipes = islice(every, config.steps - step)
    lm.train()
    clock, totals = Clock(lm.device), Totals()
    with (
        Metrics(out, ranks, resumed_step=step, tensorboard=config.tensorboard) as metrics,
        Progress("train-lm", None) as progress,
    ):
        for batch in prefetched(recipes, config.workers):
            clock.lap("data")
            seed_step(seed, step, ranks)
            progress.add(totals.add(update(lm, optimizer, batch.to(lm.device), step, config, ranks, clock)))
            step += 1
            last = step == config.steps
            if step % config.report_steps == 0 or last:
                means = totals.means()
                values = means | {
                    "perplexity": round(math.exp(min(means["loss"], 700.0)), 4),
                    "lr": config.rate(step - 1),
                }
                metrics.add(step, values | clock.report(totals.audio_s))
                totals = Totals()
            if step % config.checkpoint_steps == 0 or last:
                if valid is not None:
                    metrics.add(step, _validated(lm, valid))
                    clock.lap("evaluation")
                if ranks.is_first:
                    state = {"model": lm.state_dict(), "optimizer": optimizer.state_dict()}
                    save_checkpoint(out / "training.pt", Checkpoint(step, key, state))
                    clock.lap("checkpoint")
    if ranks.is_first:
        lm.save(out, config.saved_dtype)
        write_json(out / "done.json", {"config": key})
    ranks.barrier()


def update(
    lm: UnitLm,
    optimizer: torch.optim.Optimizer,
    batch: LmBatch,
    step: int,
    config: TrainConfig,
    ranks: Ranks,
    clock: Clock,
) -> dict[str, tuple[float, float]]:
    """One step; returns terms over what they are divided by, and the seconds of audio, summed over ranks.

    Raises:
        VoxtokError: gradients are not finite; the last checkpoint is from before.
    """
    for group in optimizer.param_groups:
        group["lr"] = config.rate(step)
    optimizer.zero_grad()
    terms = torch.zeros(3, dtype=torch.float64, device=lm.device)
    if len(batch.inputs):  # the last batch of an epoch may have fewer rows than there are ranks
        with torch.autocast(lm.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            terms = prediction_terms(lm, batch.inputs, batch.targets, batch.positions)
    sums = ranks.all_reduce(torch.cat([terms.detach(), terms.new_tensor([batch.duration_s])]))
    clock.lap("forward")
    if terms.requires_grad:
        (terms[0] / sums[2].clamp_min(1)).backward()
    clock.lap("backward")
    sum_gradients(lm.parameters(), ranks)
    clip_gradients(lm.parameters(), config.max_gradient, step)
    optimizer.step()
    nats, hits, decisions, duration_s = sums.tolist()
    clock.lap("update")
    return {
        "audio_s": (duration_s, 1.0),
        "loss": (nats, decisions),
        "accuracy": (hits, decisions),
        "bits_per_s": (nats / math.log(2), duration_s),
    }


def _validated(lm: UnitLm, valid: Documents) -> dict[str, float]:
    """Every rank measures it all: held-out sets are small, and none has to wait for another."""
    lm.eval()
    found = score(lm, valid)
    lm.train()
    return {"valid_perplexity": round(found.perplexity, 4), "valid_bits_per_s": round(found.bits_per_s, 3)}


def _resume(out: Path, key: str, lm: UnitLm, optimizer: torch.optim.Optimizer) -> int:
    """Steps that are done; their weights and optimizer are restored."""
    checkpoint = find_checkpoint(out, key)
    if checkpoint is None:
        return 0
    lm.load_state_dict(checkpoint.state["model"])
    optimizer.load_state_dict(checkpoint.state["optimizer"])
    log.info("%s: going on at step %d", out, checkpoint.step)
    return checkpoint.step


def main(argv: Sequence[str]) -> int:
    """`voxtok train-lm --config FILE --stores "[STORE, ...]" --out FOLDER`."""
    with connected_ranks() as ranks:
        print(train_lm(parse(TrainLmConfig, argv, "voxtok train-lm"), ranks))
    return 0
