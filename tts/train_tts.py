"""`voxtok train-tts`: token store with transcripts -> text-to-token model.

out/tts.json, text.json, model.safetensors, tokenizer/    the model, see synthesizer.py
out/voices.json        who speaks, as embeddings, for vocoders that are told
out/durations.jsonl    symbols of the training utterances and their frames; rejected.jsonl: what is not used, and why
out/training.pt        weights, optimizer: a killed run goes on here, along the same curve
out/metrics.jsonl      losses and accuracies of training and of held-out speech
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from voxtok.manifests.store import TokenStore
from voxtok.runtime.averaging import MovingAverage
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, connected_ranks, pick_device
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import sha256, sha256_file, write_json, write_jsonl
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
from voxtok.tokenize.train import IRRELEVANT, TrainConfig
from voxtok.tts.corpus import Corpus, CorpusConfig, read_corpus
from voxtok.tts.network import TtsNetwork, TtsShape
from voxtok.tts.synthesizer import Synthesizer
from voxtok.tts.train_lm import keep_tokenizer
from voxtok.tts.trained_voices import TrainedVoices, voices_key
from voxtok.tts.tts_batches import TtsBatch, batches, collated
from voxtok.tts.tts_loss import NAMES, terms
from voxtok.tts.utterances import Utterance, content_of
from voxtok.vocoder.speaker import load_speaker_model

log = logging.getLogger("voxtok")


@dataclass(frozen=True, kw_only=True)
class TrainTtsConfig:
    """Train a non-autoregressive text-to-token model on the tokens of one store and their transcripts."""

    data: CorpusConfig
    """What it learns from."""
    out: str
    """Folder to write."""
    model: TtsShape
    """Shape of the model."""
    batch_frames: int
    """Frames of speech in a batch, over all ranks."""
    train: TrainConfig
    """Steps, learning rate, reports, checkpoints."""
    average_decay: float = 0.999
    """Of the moving average of weights, which is what is measured and saved; 0 saves the weights as they are."""
    seed: int = 0
    """Of weights, aligner, order, masks and dropout."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError("seed must be at least 0")
        if self.batch_frames < 1:
            raise ConfigError("batch-frames must be at least 1")
        if not 0 <= self.average_decay < 1:
            raise ConfigError("average-decay is from 0 to below 1")


def train_tts(config: TrainTtsConfig, ranks: Ranks | None = None) -> Path:
    """Train a model and write its folder, or go on where a killed run stopped; a finished one is left as it is.

    Returns:
        The folder.

    Raises:
        ConfigError: the store has no text that can be said, or `out` holds a run of another configuration.
        TokenizerMismatch: `data.valid` has tokens of another tokenizer.
    """
    out, ranks = Path(config.out), ranks or Ranks()
    key = sha256(asdict(config) | _contents(config.data) | IRRELEVANT)
    if is_finished(out, key):
        return out
    find_checkpoint(out, key)  # another configuration's folder is refused before anything in it changes
    corpus = read_corpus(config.data, config.model, out, config.seed, ranks)
    torch.manual_seed(config.seed)
    model = Synthesizer(config.model, corpus.front, corpus.source, corpus.speakers)
    model.network.to(pick_device(config.device))
    if ranks.is_first:
        write_jsonl(out / "rejected.jsonl", corpus.rejected)
        keep_tokenizer([config.data.store], out, corpus.source.fingerprint)
        keep_voices(config.data, out)
    train(model, corpus, out, key, config, ranks)
    return out


def keep_voices(data: CorpusConfig, out: Path) -> None:
    """Measure who speaks, for vocoders that are told; once, unless the recordings or the speaker model are others."""
    cuts = [cut for cut, _ in TokenStore.open(data.store)]
    model = load_speaker_model(data.speaker_model)
    if TrainedVoices.load(out).key != voices_key(cuts, model):
        TrainedVoices.measure(cuts, model).save(out)


def train(model: Synthesizer, corpus: Corpus, out: Path, key: str, config: TrainTtsConfig, ranks: Ranks) -> None:
    """Train, or go on where a killed run stopped, and write the model.

    Args:
        model: on its device, with its first weights.
        corpus: what it learns from and is measured on.
        out: folder to write.
        key: hash of all that decides the result; a run in `out` must have the same.
        config: how long and how fast.
        ranks: this process's place; every rank takes its part of each batch, and gradients are added.

    Raises:
        ConfigError: `out` holds a run of another configuration.
    """
    network, limits = model.network, config.train
    groups = parameter_groups(network.parameters(), limits.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=limits.peak_lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    average = MovingAverage(network, config.average_decay)
    step = _resume(out, key, network, optimizer, average)
    rate = corpus.source.frame_rate_hz
    every = batches(corpus.utterances, rate, config.batch_frames, config.seed, ranks, step)
    recipes = islice(every, limits.steps - step)
    network.train()
    clock, totals = Clock(model.device), Totals()
    with (
        Metrics(out, ranks, resumed_step=step, tensorboard=limits.tensorboard) as metrics,
        Progress("train-tts", (limits.steps - step) * config.batch_frames / rate) as progress,
    ):
        for batch in prefetched(recipes, limits.workers):
            clock.lap("data")
            seed_step(config.seed, step, ranks)
            progress.add(totals.add(update(network, optimizer, batch, step, limits, ranks, clock)))
            step += 1
            average.update(step)
            last = step == limits.steps
            if step % limits.report_steps == 0 or last:
                metrics.add(step, totals.means() | {"lr": limits.rate(step - 1)} | clock.report(totals.audio_s))
                totals = Totals()
            if ranks.is_first and (step % limits.checkpoint_steps == 0 or last):
                if corpus.valid:
                    metrics.add(step, validated(model, average, corpus.valid, config))
                    clock.lap("evaluation")
                state = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "average": average.weights}
                save_checkpoint(out / "training.pt", Checkpoint(step, key, state))
                clock.lap("checkpoint")
    network.load_state_dict(average.weights)
    network.eval()
    if ranks.is_first:
        model.save(out, limits.saved_dtype)
        write_json(out / "done.json", {"config": key})
    ranks.barrier()


def update(
    network: TtsNetwork,
    optimizer: torch.optim.Optimizer,
    batch: TtsBatch | None,
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
    device = next(network.parameters()).device
    sums, audio_s = torch.zeros(len(NAMES), device=device), 0.0
    if batch is not None:  # a small batch may leave a rank without a part
        with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            sums, audio_s = terms(network, batch.to(device)), batch.audio_s
    every = ranks.all_reduce(torch.cat([sums.detach().double(), sums.new_tensor([audio_s], dtype=torch.float64)]))
    clock.lap("forward")
    optimizer.zero_grad()
    if sums.requires_grad:
        _loss(sums, every).backward()
    clock.lap("backward")
    sum_gradients(network.parameters(), ranks)
    clip_gradients(network.parameters(), config.max_gradient, step)
    optimizer.step()
    clock.lap("update")
    return {"audio_s": (float(every[-1]), 1.0)} | _fractions(every[:-1].tolist())


def validated(
    model: Synthesizer, average: MovingAverage, valid: Sequence[Utterance], config: TrainTtsConfig
) -> dict[str, float]:
    """Losses of the averaged weights on held-out utterances, of which masked decoders are given nothing."""
    network = copy.deepcopy(model.network)
    network.load_state_dict(average.weights)
    network.eval()
    totals = Totals()
    with torch.inference_mode():
        for start in range(0, len(valid), 16):
            part = valid[start : start + 16]
            batch = collated(part, model.source.frame_rate_hz, [[config.seed]] * len(part))
            nothing_given = replace(batch, given=torch.zeros_like(batch.given))
            found = terms(network, nothing_given.to(model.device))
            totals.add({"audio_s": (batch.audio_s, 1.0)} | _fractions(found.tolist()))
    return {f"valid_{name}": value for name, value in totals.means().items()}


def _loss(sums: torch.Tensor, every: torch.Tensor) -> torch.Tensor:
    """This rank's share of the loss: cross-entropy and squared errors, each over its count on all ranks."""
    own, total = (dict(zip(NAMES, values, strict=False)) for values in (sums, every.clamp_min(1).to(sums.dtype)))
    pairs = (("tokens", "token_count"), ("duration", "symbols"), ("frames", "rows"))
    return torch.stack([own[name] / total[count] for name, count in pairs]).sum()


def _fractions(sums: Sequence[float]) -> dict[str, tuple[float, float]]:
    """What is reported, as sums and counts."""
    named = dict(zip(NAMES, sums, strict=True))
    tokens, symbols = named["token_count"], named["symbols"]
    found = {
        "loss": (named["tokens"], tokens),
        "accuracy": (named["hits"], tokens),
        "duration_loss": (named["duration"], symbols),
        "duration_error_rows": (named["duration_error"], symbols),
    }
    return found | ({"frames_loss": (named["frames"], named["rows"])} if named["frames"] else {})


def _contents(data: CorpusConfig) -> dict[str, object]:
    """What the files that `data` names hold, as far as it decides the result."""
    stores = [TokenStore.open(folder) for folder in (data.store, data.valid) if folder is not None]
    lexicon = sha256_file(data.text.lexicon) if data.text.lexicon else None
    aligned = data.durations == "alignment"
    contents = [[store.fingerprint, content_of(store, data.text_field, aligned=aligned)] for store in stores]
    return {"contents": contents, "lexicon": lexicon}


def _resume(out: Path, key: str, network: TtsNetwork, optimizer: torch.optim.Optimizer, average: MovingAverage) -> int:
    """Steps that are done; their weights and optimizer are restored."""
    checkpoint = find_checkpoint(out, key)
    if checkpoint is None:
        return 0
    network.load_state_dict(checkpoint.state["model"])
    optimizer.load_state_dict(checkpoint.state["optimizer"])
    average.load(checkpoint.state["average"])
    log.info("%s: going on at step %d", out, checkpoint.step)
    return checkpoint.step


def main(argv: Sequence[str]) -> int:
    """`voxtok train-tts --config FILE --data.store STORE --out FOLDER`."""
    with connected_ranks() as ranks:
        print(train_tts(parse(TrainTtsConfig, argv, "voxtok train-tts"), ranks))
    return 0
