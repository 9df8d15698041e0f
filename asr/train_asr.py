"""`voxtok train-asr`: token stores with transcripts -> recognizer.

out/model/          the recognizer: asr.json, model.safetensors, and copies of the tokenizers
out/training.pt     weights, optimizer, averages: a killed run goes on here, along the same curve
out/best/           weights of the best evaluations; their mean is out/model
out/metrics.jsonl   losses, errors on the dev data, learning rate, hours of audio per hour, shares of the time
out/rejected.jsonl  utterances that could not be trained on, and why
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from voxtok.asr.augment import AugmentConfig
from voxtok.asr.batches import TrainingSet, batches, ctc_frames, one_frame, plan_epoch, training_set
from voxtok.asr.centroid_embeddings import begin_at_centroids
from voxtok.asr.evaluate import evaluate
from voxtok.asr.examples import JOINED, Examples, array_hashes, read_examples
from voxtok.asr.recognizer import Recognizer, RecognizerConfig
from voxtok.asr.schedule import ScheduleConfig
from voxtok.asr.text import TextModel
from voxtok.asr.tokenizers import copy_tokenizers
from voxtok.asr.update import Run, resume, save_run, start_run, update
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, connected_ranks, pick_device
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import sha256, weights_hash, write_json, write_jsonl
from voxtok.runtime.progress import Progress
from voxtok.runtime.training import Clock, Metrics, Totals, is_finished, prefetched

log = logging.getLogger("voxtok")

IRRELEVANT = {"out": "", "device": ""}
"""Options that do not change the recognizer, for the identity of a run."""


@dataclass(frozen=True, kw_only=True)
class TrainAsrConfig:
    """Train a recognizer on token stores (for features alone also on cuts) with transcripts."""

    data: tuple[str, ...]
    """Token stores to train on; streams of several stores of one corpus stand side by side as STORE+STORE."""
    dev: tuple[str, ...]
    """Held-out stores, best of other speakers than `data`."""
    text_model: str
    """File that `voxtok text-model` wrote."""
    out: str
    """Folder to write; the recognizer is in out/model."""
    model: RecognizerConfig
    """The network."""
    train: ScheduleConfig
    """Updates, learning rate, reports, checkpoints."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Changes of the input in training."""
    init: str | None = None
    """A recognizer's folder that the weights come from, of the same network, inputs and text model."""
    seed: int = 0
    """Of weights, dropout, batches and augmentation."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if not self.data or not self.dev:
            raise ConfigError("data and dev each need at least one path")
        if self.seed < 0:
            raise ConfigError("seed must be at least 0")
        if self.train.select_by == "wer" and self.model.ctc_weight == 0:
            raise ConfigError("train.select-by wer decodes with CTC: give model.ctc-weight above 0, or select by loss")


def train_asr(config: TrainAsrConfig, ranks: Ranks | None = None) -> Path:
    """Train a recognizer, or go on where a killed run stopped; a finished run is left as it is.

    Returns:
        The recognizer's folder, out/model.

    Raises:
        ConfigError: nothing to train on, or `out` holds a run of another configuration.
        TokenizerMismatch: stores of different tokenizers, or others than `init` was trained on.
        VoxtokError: the loss is not finite for many updates in a row.
    """
    ranks, out, device = ranks or Ranks(), Path(config.out), pick_device(config.device)
    text = TextModel.load(config.text_model)
    data, dev = read_data(config, device, ranks)
    key = sha256(identity(config, text, data, dev))
    if is_finished(out, key):
        return out / "model"
    recognizer = build(config, data, text).to(device)
    chosen, unusable = usable(config, data, text, config.augment)
    heldout, unusable_dev = usable(config, dev, text, None)
    rejected = [*data.rejected, *unusable, *dev.rejected, *unusable_dev]
    if rejected and ranks.is_first:
        write_jsonl(out / "rejected.jsonl", rejected)
        log.warning("%d utterances cannot be used: see %s", len(rejected), out / "rejected.jsonl")
    if not chosen.texts or not heldout.texts:
        what, rows = ("evaluate", unusable_dev) if chosen.texts else ("train", unusable)
        raise ConfigError(f"there is no utterance to {what} on: {rows[0]['detail']}")
    run = start_run(recognizer, config.train, out, rejected)
    resume(run, out, key)
    train(run, chosen, heldout, config, key, ranks)
    return out / "model"


def read_data(config: TrainAsrConfig, device: torch.device, ranks: Ranks) -> tuple[Examples, Examples]:
    """Training and held-out examples; the first rank computes features where they are needed, the others wait."""
    expected = None if config.init is None else Recognizer.load(config.init, device="cpu").source

    def read() -> tuple[Examples, Examples]:
        inputs, cache = config.model.inputs, Path(config.out) / "cache"
        data = read_examples(config.data, inputs, expected=expected, cache=cache / "data", device=device)
        return data, read_examples(config.dev, inputs, expected=data.source, cache=cache / "dev", device=device)

    found = read() if ranks.is_first else None
    ranks.barrier()
    return found or read()


def usable(
    config: TrainAsrConfig, examples: Examples, text: TextModel, augment: AugmentConfig | None
) -> tuple[TrainingSet, list[dict[str, str]]]:
    """What the heads can be trained on, and why not the rest.

    CTC and k2's pruned loss need a frame for each piece of a text, CTC also for blanks between equal ones; others one.
    """
    pruned = config.model.transducer is not None and config.model.transducer.loss == "pruned"
    needed = ctc_frames if config.model.ctc_weight > 0 else len if pruned else one_frame
    return training_set(examples, text, needed, config.model.encoder.num_frames, augment)


def build(config: TrainAsrConfig, data: Examples, text: TextModel) -> Recognizer:
    """The recognizer with its first weights, random or those of `init`; features are normalised by the data's."""
    torch.manual_seed(config.seed)
    recognizer = Recognizer(config.model, data.source, text)
    if recognizer.front.embed is not None and config.model.inputs.embeddings == "centroids":
        begin_at_centroids(recognizer.front.embed, tokenizers_of(config), config.seed)
    if recognizer.front.features is not None:
        recognizer.front.features.normalize_by([item.features for item in data.items if item.features is not None])
    if config.init is not None:
        before = Recognizer.load(config.init, device="cpu")
        if before.text.sha256 != text.sha256 or before.config != config.model:
            raise ConfigError(f"{config.init} has another network or another text model")
        recognizer.load_state_dict(before.state_dict())
    return recognizer


def tokenizers_of(config: TrainAsrConfig) -> list[Path]:
    """Their folders in the first stores whose streams stand side by side; all other stores have the same."""
    return [Path(store) / "tokenizer" for store in config.data[0].split(JOINED)]


def identity(config: TrainAsrConfig, text: TextModel, data: Examples, dev: Examples) -> dict[str, Any]:
    """JSON of all that decides the result."""
    described = {"text_model": text.sha256, "source": data.source.described(), "init": weights_hash(config.init)}
    return asdict(config) | described | {"data": content_of(data), "dev": content_of(dev), **IRRELEVANT}


def content_of(examples: Examples) -> str:
    """Hash of what is said and heard in utterances; features count by what made them."""
    items = [[item.id, item.text, *array_hashes(item.tokens, item.durations, item.context)] for item in examples.items]
    return sha256([items, examples.features])


def train(run: Run, data: TrainingSet, dev: TrainingSet, config: TrainAsrConfig, key: str, ranks: Ranks) -> None:
    """Updates, reports, evaluations and checkpoints until the run is over; then the recognizer is written."""
    schedule, out = config.train, Path(config.out)
    recipes = batches(data, schedule.batch_frames, config.seed, ranks, begin=run.step * schedule.accumulate)
    parts = prefetched(recipes, schedule.workers)
    clock, totals = Clock(run.device), Totals()
    run.recognizer.train()
    with (
        Metrics(out, ranks, resumed_step=run.step, tensorboard=schedule.tensorboard) as metrics,
        Progress("train-asr", seconds_left(run, data, schedule)) as progress,
    ):
        while not run.is_over(schedule):
            chosen = list(islice(parts, schedule.accumulate))
            clock.lap("data")
            terms = update(run, chosen, schedule, config.augment, config.seed, ranks, clock)
            progress.add(totals.add(terms))
            run.step += 1
            if run.is_due(schedule.report_steps, schedule):
                report = clock.report(totals.audio_s)
                state = {"lr": schedule.rate(run.step - 1), "skipped": run.skipped}
                metrics.add(run.step, totals.means() | state | report)
                totals = Totals()
            if run.is_due(schedule.evaluate_steps, schedule):
                metrics.add(run.step, judged(run, dev, schedule, ranks))
                clock.lap("evaluation")
            if ranks.is_first and (run.is_due(schedule.checkpoint_steps, schedule) or run.is_over(schedule)):
                save_run(run, out, key)
                clock.lap("checkpoint")
    if ranks.is_first:
        run.recognizer.load_state_dict(run.best.average() or run.average.weights)
        copy_tokenizers(tokenizers_of(config) if config.model.inputs.tokens else [], out / "model")
        run.recognizer.save(out / "model")
        write_json(out / "done.json", {"config": key})
    ranks.barrier()


def judged(run: Run, dev: TrainingSet, schedule: ScheduleConfig, ranks: Ranks) -> dict[str, float]:
    """Evaluate the averaged weights, and keep them if they are among the best."""
    trained = {name: tensor.clone() for name, tensor in run.recognizer.state_dict().items()}
    run.recognizer.load_state_dict(run.average.weights)
    found = evaluate(run.recognizer, dev, schedule.batch_frames, ranks, dtype=getattr(torch, schedule.dtype))
    run.recognizer.load_state_dict(trained)
    score = found[f"dev_{schedule.select_by}"]
    score = score if math.isfinite(score) else math.inf
    run.judge(score)
    if ranks.is_first:
        run.best.add(run.step, score, run.average.weights)
    return found


def seconds_left(run: Run, data: TrainingSet, schedule: ScheduleConfig) -> float:
    """Audio that is still to be trained on, about."""
    items = data.examples.items
    plan = plan_epoch(data.lengths, schedule.batch_frames, seed=0, epoch=0)
    of_batch_s = sum(item.duration_s for item in items) / len(plan)
    return of_batch_s * schedule.accumulate * (schedule.steps - run.step)


def main(argv: Sequence[str]) -> int:
    """`voxtok train-asr --config FILE --data STORE --dev STORE --text-model FILE --out FOLDER`."""
    with connected_ranks() as ranks:
        print(train_asr(parse(TrainAsrConfig, argv, "voxtok train-asr"), ranks))
    return 0
