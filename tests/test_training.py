"""Parts of training loops."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import CorruptFile
from voxtok.runtime.files import read_jsonl
from voxtok.runtime.training import (
    Checkpoint,
    Clock,
    Metrics,
    learning_rate,
    load_checkpoint,
    parameter_groups,
    save_checkpoint,
    seed_step,
)


def rate(step: int, decay_share: float = 0.5) -> float:
    return learning_rate(step, peak=1.0, warmup_steps=10, steps=100, decay_share=decay_share)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    """The worked example: half of the warm-up at step 4, the plateau to step 50, half of the cosine at step 75."""
    assert rate(4) == pytest.approx(0.5)
    assert [rate(9), rate(30), rate(50)] == [1.0, 1.0, 1.0]
    assert rate(75) == pytest.approx(0.5)
    assert rate(99) < 0.001
    assert rate(99, decay_share=0.0) == 1.0


def test_biases_and_norms_do_not_decay() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    module[0].weight.requires_grad_(False)
    matrices, vectors = parameter_groups(module.parameters(), 0.1)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert matrices["params"] == []
    assert len(vectors["params"]) == 3


def test_a_checkpoint_holds_weights(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    save_checkpoint(path, Checkpoint(7, "key", {"model": {"weight": torch.arange(3.0)}}))
    found = load_checkpoint(path)
    assert (found.step, found.config, found.state["model"]["weight"].tolist()) == (7, "key", [0.0, 1.0, 2.0])
    torch.save(torch.load(path, weights_only=True) | {"version": 3}, path)
    with pytest.raises(CorruptFile, match="version 2"):
        load_checkpoint(path)
    torch.save({"format": "other"}, path)
    with pytest.raises(CorruptFile, match="expected voxtok-training"):
        load_checkpoint(path)


def test_random_numbers_follow_from_seed_step_and_rank() -> None:
    def drawn(seed: int, step: int, rank: int) -> tuple[float, float, float]:
        seed_step(seed, step, Ranks(rank, 2))
        return torch.rand(1).item(), float(np.random.rand()), random.random()

    assert drawn(1, 2, 0) == drawn(1, 2, 0)
    apart = [drawn(1, 2, 0), drawn(1, 2, 1), drawn(1, 3, 0), drawn(2, 2, 0), drawn(0, 3, 0)]
    assert all(len(set(values)) == len(apart) for values in zip(*apart, strict=True))


def test_metrics_after_the_checkpoint_are_dropped_on_resuming(tmp_path: Path) -> None:
    with Metrics(tmp_path, Ranks(), resumed_step=0, tensorboard=False) as metrics:
        for step in (10, 20, 30):
            metrics.add(step, {"loss": step / 10})
    with Metrics(tmp_path, Ranks(), resumed_step=20, tensorboard=False) as metrics:
        metrics.add(30, {"loss": 9.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4')  # a line that a full disk cut off
    with Metrics(tmp_path, Ranks(), resumed_step=30, tensorboard=False):
        pass
    with Metrics(tmp_path, Ranks(1, 2), resumed_step=0, tensorboard=False) as metrics:
        metrics.add(40, {"loss": 0.0})  # another rank writes nothing
    assert [(row["step"], row["loss"]) for row in read_jsonl(tmp_path / "metrics.jsonl")] == [
        (10, 1.0),
        (20, 2.0),
        (30, 9.0),
    ]


def test_the_clock_shares_the_time_among_parts() -> None:
    clock = Clock(torch.device("cpu"))
    for part in ("data", "forward", "data"):
        clock.lap(part)
    found = clock.report(audio_s=1.0)
    assert found["share_data"] + found["share_forward"] == pytest.approx(1.0, abs=1e-3)
    assert found["hours_per_hour"] > 0
    clock.lap("data")
    assert clock.report(1.0)["share_data"] == 1.0
