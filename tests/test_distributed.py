"""Ranks and devices: what the environment says is checked before any work is divided by it."""

import pytest
import torch

from voxtok.runtime.distributed import Ranks, connected_ranks, pick_device, ranks_from_environment
from voxtok.runtime.errors import ConfigError


def test_one_process_is_rank_0_of_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert ranks_from_environment() == Ranks(0, 1)


@pytest.mark.parametrize(("rank", "world_size"), [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "0")])
def test_a_rank_that_does_not_exist_is_refused(rank: str, world_size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Slurm array numbered 1-8 would otherwise leave the first shards undone, with exit status 0."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world_size)
    with pytest.raises(ConfigError, match="count from 0"):
        ranks_from_environment()


def test_ranks_that_must_talk_need_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="torchrun"), connected_ranks():
        pass


def test_devices_are_checked() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="'gpu' cannot be used"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="'cuda' cannot be used"):
            pick_device("cuda")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_every_local_rank_has_a_device_of_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device(name) == torch.device("cuda", 3)
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(ConfigError, match="no device of its own"):
        pick_device(name)
