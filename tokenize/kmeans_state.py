"""What k-means is told, and how far it is: a checkpoint holds all that the next step depends on."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.runtime.files import write_bytes

Phase = Literal["seed", "exchange", "sample", "polish", "pass", "done"]


@dataclass(frozen=True, kw_only=True)
class KMeansConfig:
    """Options of a k-means fit."""

    vocab_size: int
    """K, the number of centroids."""
    seed: int = 0
    """Seed of the seeding; that of the sample is the frame source's."""
    restarts: int = 1
    """Seedings on the sample, of which the best goes on."""
    exchanges: int = 12
    """Rounds of merging and splitting clusters; 0 stays near the seeding's local optimum."""
    passes: int = 8
    """Lloyd steps over all frames at most; 0 fits to the sample only, for corpora that one pass must do."""
    tolerance: float = 5e-4
    """Passes end when one lowers the inertia by less than this share."""
    sample_per_centroid: int = 256
    """Frames per centroid in the sample, which stays in memory: K x this x D values, and a few hundred bytes a frame
    for its components (up to 6 D bytes where frames have no structure)."""
    sample_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format of the sample."""
    backend: Literal["voxtok", "faiss"] = "voxtok"
    """Which k-means fits; faiss needs all frames in memory and takes the seed, K and `restarts` only: it makes 25
    steps over all frames."""
    faiss_gb: float = 32.0
    """The most memory that faiss may take for frames."""

    def __post_init__(self) -> None:
        if self.vocab_size < 1:
            raise ConfigError(f"vocab-size must be at least 1, not {self.vocab_size}")
        if self.restarts < 1 or self.sample_per_centroid < 1:
            raise ConfigError("restarts and sample-per-centroid must be at least 1")
        if self.exchanges < 0 or self.passes < 0 or self.tolerance < 0:
            raise ConfigError("exchanges, passes and tolerance must not be negative")


@dataclass(frozen=True)
class State:
    """A fit between two steps: the next one depends on nothing else, so a killed fit goes on to the same bytes."""

    centroids: torch.Tensor
    """(K, C) among components before the phases `polish` and `pass`, (K, D) from there on; empty at first."""
    sizes: torch.Tensor
    """(K,) int64 frames that each centroid is the mean of; empty before the phase `sample`."""
    phase: Phase = "seed"
    iteration: int = 0
    """Steps made in this phase."""
    inertia: float = math.inf
    """Of the step before, in this phase; in `seed`, the best."""
    history: tuple[dict[str, Any], ...] = ()
    """One row a step: phase, iteration, frames, inertia of the centroids that the step began with."""

    @classmethod
    def initial(cls) -> "State":
        """Before the first step."""
        return cls(torch.empty(0, 0), torch.empty(0, dtype=torch.int64))

    def noted(self, num_frames: int, inertia: float, **more: float) -> "State":
        """The state with one more row of history, and one more iteration."""
        row = {"phase": self.phase, "iteration": self.iteration, "frames": num_frames, "inertia": inertia, **more}
        return replace(self, iteration=self.iteration + 1, history=(*self.history, row))

    def entering(self, phase: Phase) -> "State":
        """The state at the beginning of another phase."""
        return replace(self, phase=phase, iteration=0, inertia=math.inf)


def state_to_bytes(config: KMeansConfig, state: State) -> bytes:
    """A safetensors file with the rest of the state, and the config, as JSON in its header."""
    rest = {name: value for name, value in vars(state).items() if name not in ("centroids", "sizes")}
    tensors = {"centroids": state.centroids.cpu().contiguous(), "sizes": state.sizes.cpu()}
    return safetensors.save(tensors, {"config": json.dumps(asdict(config)), "state": json.dumps(rest)})


def state_from_bytes(content: bytes, config: KMeansConfig) -> State | None:
    """The inverse; None where it is the state of another config."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    if json.loads(header["config"]) != asdict(config):
        return None
    rest: dict[str, Any] = {**json.loads(header["state"]), **safetensors.load(content)}
    return State(**rest | {"history": tuple(rest["history"])})


def save_state(path: Path, config: KMeansConfig, state: State) -> None:
    """Write a checkpoint atomically."""
    write_bytes(path, state_to_bytes(config, state))


def load_state(path: Path, config: KMeansConfig) -> State | None:
    """Read a checkpoint; None where there is none, or it is of another config.

    Raises:
        CorruptFile: the file is not a checkpoint of k-means.
    """
    if not path.exists():
        return None
    try:
        return state_from_bytes(path.read_bytes(), config)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CorruptFile(f"{path} is no checkpoint of k-means ({error}): delete it to fit from the start") from error
