"""Ranks: one engine for 1 CPU, 1 GPU or many nodes. `torchrun` sets the environment; without it there is one rank."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from voxtok.runtime.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This process's place among all; `connected` says whether collective operations have peers to talk to."""

    rank: int = 0
    world_size: int = 1
    connected: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this rank writes what only one may write."""
        return self.rank == 0

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum `tensor` over ranks in place, and return it."""
        if self.connected:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every rank's tensor, in rank order; shapes may differ in the first dimension only."""
        if not self.connected:
            return [tensor]
        counts, padded = self._padded(tensor)
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return [part[:count] for part, count in zip(parts, counts, strict=True)]

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """As `all_gather`, on the first rank; an empty list on the others."""
        if not self.connected:
            return [tensor]
        counts, padded = self._padded(tensor)
        parts = [torch.empty_like(padded) for _ in range(self.world_size)] if self.is_first else None
        dist.gather(padded, parts, dst=0)
        return [part[:count] for part, count in zip(parts or [], counts if parts else [], strict=True)]

    def _padded(self, tensor: torch.Tensor) -> tuple[list[int], torch.Tensor]:
        """Every rank's length, and this rank's tensor lengthened to the longest."""
        counts = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(self.world_size)]
        dist.all_gather(counts, torch.tensor([len(tensor)], device=tensor.device))
        lengths = [int(count) for count in counts]
        padded = tensor.new_zeros((max(lengths), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        return lengths, padded

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rank 0's tensor, in place on every rank."""
        if self.connected:
            dist.broadcast(tensor, src=0)
        return tensor

    def barrier(self) -> None:
        """Wait for every rank; over the CPU, as ranks on it may be more than CUDA devices."""
        if self.connected:
            dist.all_reduce(torch.zeros(1))


def ranks_from_environment() -> Ranks:
    """RANK and WORLD_SIZE as torchrun or a Slurm array job sets them, without connecting the processes.

    Raises:
        ConfigError: they are no numbers, or the rank is not one of 0 .. WORLD_SIZE - 1 (its work would never be done).
    """
    rank, world_size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world_size.isdecimal() and int(rank) < int(world_size)):
        raise ConfigError(f"RANK={rank} is not one of 0 .. WORLD_SIZE-1 with WORLD_SIZE={world_size}: count from 0")
    return Ranks(int(rank), int(world_size))


@contextmanager
def connected_ranks() -> Iterator[Ranks]:
    """Join the process group that torchrun describes (NCCL for CUDA, Gloo for the CPU); a single process joins nothing.

    Raises:
        ConfigError: WORLD_SIZE is set without the rest of what torchrun sets.
    """
    ranks = ranks_from_environment()
    if ranks.world_size == 1:
        yield ranks
        return
    if "MASTER_ADDR" not in os.environ:
        raise ConfigError("WORLD_SIZE is set, but there is no MASTER_ADDR: start the ranks with torchrun")
    if int(os.environ.get("LOCAL_RANK", "0")) < torch.cuda.device_count():
        torch.cuda.set_device(local_device())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # Ranks wait for each other's whole extraction pass: the default of 10 minutes would end real fits.
    dist.init_process_group(backend, timeout=timedelta(days=1))
    try:
        yield Ranks(ranks.rank, ranks.world_size, connected=True)
    finally:
        dist.destroy_process_group()


def local_device() -> torch.device:
    """This rank's own CUDA device.

    Raises:
        ConfigError: more processes than devices.
    """
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise ConfigError(f"local rank {index} has no device of its own: this machine has {torch.cuda.device_count()}")
    return torch.device("cuda", index)


def pick_device(name: str) -> torch.device:
    """`cuda` is this rank's CUDA device; `auto` too where there is one, else the CPU; any other name is torch's.

    Raises:
        ConfigError: torch does not know the device, or this machine has none of its kind.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return local_device()
    if name == "auto":
        return torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
