"""Parts of training loops: seeds, the learning-rate schedule, gradients over ranks, checkpoints, metrics.jsonl."""

import json
import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError, CorruptFile, VoxtokError
from voxtok.runtime.files import atomic, read_json, read_jsonl, write_jsonl
from voxtok.runtime.optional import require

log = logging.getLogger("voxtok")

T = TypeVar("T")

CHECKPOINT_FORMAT = "voxtok-training"
CHECKPOINT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 also held the first rank's random state, which no run needs that seeds every step."""


def seed_step(seed: int, step: int, ranks: Ranks) -> None:
    """Seed Python, NumPy and torch, CUDA too, before a step: a resumed run draws what it would have, on every rank."""
    drawn = int(np.random.SeedSequence([seed, step, ranks.rank]).generate_state(1)[0])
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)


def learning_rate(step: int, *, peak: float, warmup_steps: int, steps: int, decay_share: float) -> float:
    """Linear warm-up, a plateau, and a half cosine to zero over the last `decay_share` of the steps.

    Worked: with peak 1, 10 warm-up steps, 100 steps and decay over the last half, step 4 has 0.5, steps 9 to 49 have 1,
    step 75 has 0.5.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    begin = steps * (1 - decay_share)
    if step <= begin or decay_share == 0:
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - begin) / (steps - begin))))


def inverse_sqrt_rate(step: int, *, peak: float, warmup_steps: int) -> float:
    """Linear warm-up, then down with the inverse square root of the step (Vaswani et al. 2017; ESPnet's warmuplr).

    Worked: with peak 1 and 10 warm-up steps, step 9 has 1 and step 39 has 0.5.
    """
    return peak * min((step + 1) / warmup_steps, math.sqrt(warmup_steps / (step + 1)))


def parameter_groups(parameters: Iterable[torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups: matrices decay, biases and norms do not."""
    every = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in every if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in every if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def sum_gradients(parameters: Iterable[torch.nn.Parameter], ranks: Ranks) -> None:
    """Add up every rank's gradients in one message, so that losses which share one denominator add up to one loss."""
    if not ranks.connected:
        return
    every = [parameter for parameter in parameters if parameter.requires_grad]
    # A parameter that no loss of this rank reached still takes part: all ranks send messages of one size.
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in every]
    flat = ranks.all_reduce(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    sizes = [parameter.numel() for parameter in every]
    for parameter, part in zip(every, flat.split(sizes), strict=True):
        parameter.grad = part.view_as(parameter)


def clip_gradients(parameters: Iterable[torch.nn.Parameter], max_gradient: float, step: int) -> None:
    """Scale gradients down to a norm of `max_gradient`; `step` is counted from 0.

    Raises:
        VoxtokError: they are not finite; weights, and the last checkpoint, are from before.
    """
    norm = torch.nn.utils.clip_grad_norm_(list(parameters), max_gradient)
    if not norm.isfinite():
        raise VoxtokError(f"the loss is not finite in step {step + 1}: a lower train.peak-lr, or train.dtype float32?")


def prefetched(recipes: Iterator[Callable[[], T]], threads: int) -> Iterator[T]:
    """Make batches in order, in threads ahead of their use where there are any."""
    if threads == 0:
        yield from (recipe() for recipe in recipes)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for recipe in recipes:
                waiting.append(pool.submit(recipe))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@dataclass(frozen=True)
class Checkpoint:
    """All that a training needs to go on as if it had not stopped; data and random numbers follow from `step`.

    Attributes:
        step: steps done.
        config: hash of the configuration, which a resumed run must have.
        state: `state_dict`s by name: modules and optimizers.
    """

    step: int
    config: str
    state: dict[str, Any]


def save_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all; tensors and plain values only."""
    with atomic(path) as file:
        torch.save(
            {
                "format": CHECKPOINT_FORMAT,
                "version": CHECKPOINT_VERSION,
                "step": checkpoint.step,
                "config": checkpoint.config,
                "state": checkpoint.state,
            },
            file,
        )


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint without running code.

    Raises:
        CorruptFile: not a training checkpoint, or of another version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever it stumbles over
        raise CorruptFile(f"{path} is not a training checkpoint: {error}") from error
    if content.get("format") != CHECKPOINT_FORMAT or content.get("version") not in READABLE_VERSIONS:
        raise CorruptFile(f"{path}: expected {CHECKPOINT_FORMAT} version {CHECKPOINT_VERSION}")
    return Checkpoint(content["step"], content["config"], content["state"])


def is_finished(out: Path, key: str) -> bool:
    """Whether `out` holds the finished run of the configuration whose hash is `key`; says so if it does."""
    finished = (out / "done.json").exists() and bool(read_json(out / "done.json")["config"] == key)
    if finished:
        log.info("%s is up to date", out)
    return finished


def find_checkpoint(out: Path, key: str) -> Checkpoint | None:
    """What a stopped run left in out/training.pt; None, and a folder, for a new run.

    Raises:
        ConfigError: it is of another configuration than the one whose hash is `key`.
        CorruptFile: as in `load_checkpoint`.
    """
    if not (out / "training.pt").exists():
        out.mkdir(parents=True, exist_ok=True)
        return None
    checkpoint = load_checkpoint(out / "training.pt")
    if checkpoint.config != key:
        raise ConfigError(f"{out} holds a training of another configuration: give another folder, or remove it")
    return checkpoint


class Clock:
    """Which part of a loop takes how long: every `lap` books the time since the one before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = time.perf_counter()
        self._spent_s: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Book the time since the last lap to `part`; on CUDA, after its work is done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self._spent_s[part] = self._spent_s.get(part, 0.0) + now - self._last
        self._last = now

    def report(self, audio_s: float) -> dict[str, float]:
        """Audio over time spent, and each part's share of it, since the last report."""
        total_s = max(sum(self._spent_s.values()), 1e-9)
        shares = {f"share_{part}": round(spent_s / total_s, 4) for part, spent_s in self._spent_s.items()}
        self._spent_s.clear()
        return {"hours_per_hour": round(audio_s / total_s, 2)} | shares


class Totals:
    """Terms added up between two reports."""

    def __init__(self) -> None:
        self.audio_s = 0.0
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, terms: dict[str, tuple[float, float]]) -> float:
        """Count one step; returns its seconds of audio."""
        audio_s = terms.pop("audio_s")[0]
        self.audio_s += audio_s
        for name, (total, count) in terms.items():
            before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (before[0] + total, before[1] + count)
        return audio_s

    def means(self) -> dict[str, float]:
        """Each term over its count."""
        return {name: round(total / max(count, 1.0), 5) for name, (total, count) in self._sums.items()}


def _whole_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of metrics.jsonl, but for a last one that was cut off."""
    if path.exists():
        with suppress(ValueError):
            yield from read_jsonl(path)


class Metrics:
    """metrics.jsonl, one line a report, and TensorBoard where it is asked for; only the first rank writes.

    A resumed run drops the lines after its checkpoint, so that the file reads as one uninterrupted run.
    """

    def __init__(self, folder: Path, ranks: Ranks, *, resumed_step: int, tensorboard: bool) -> None:
        self._file: TextIO | None = None
        self._board: Any = None
        if not ranks.is_first:
            return
        self._path = folder / "metrics.jsonl"
        write_jsonl(self._path, [row for row in _whole_rows(self._path) if row["step"] <= resumed_step])
        self._file = open(self._path, "a", encoding="utf-8")
        if tensorboard:
            self._board = require("torch.utils.tensorboard", "train").SummaryWriter(
                str(folder), purge_step=resumed_step
            )

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append one line, written out at once."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def add_audio(self, step: int, name: str, samples: npt.NDArray[np.float32], sampling_rate: int) -> None:
        """A recording (T,) for TensorBoard, where it is asked for."""
        if self._board is not None:
            self._board.add_audio(name, samples[None], step, sample_rate=sampling_rate)

    def add_picture(self, step: int, name: str, values: npt.NDArray[np.floating]) -> None:
        """A picture (rows, columns), first row on top, for TensorBoard, where it is asked for: the largest is white."""
        if self._board is not None:
            low, high = float(values.min()), float(values.max())
            self._board.add_image(name, (values - low) / max(high - low, 1e-9), step, dataformats="HW")

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
