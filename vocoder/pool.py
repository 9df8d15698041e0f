"""The matching pool: a speaker's frames, with the identity of the model that made them, as one folder.

pool.json               format version, the features' identity, how many frames of how much speech
frames.safetensors      (N, D) frames; read from disk as they are needed
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError, CorruptFile, one_line
from voxtok.runtime.files import read_description, read_json, write_bytes, write_json
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.frames import ArrayFrames
from voxtok.tokenize.kmeans import KMeansConfig, fit_kmeans

FORMAT = "voxtok-pool"
VERSION = 1


@dataclass(frozen=True)
class Measured:
    """A speaker embedding.

    Attributes:
        model: fingerprint of what measured it.
        embedding: of unit length.
    """

    model: str
    embedding: tuple[float, ...]

    def towards(self, other: "Measured", share: float) -> "Measured":
        """The embedding on the line to another one's, at unit length."""
        between = (1 - share) * np.array(self.embedding) + share * np.array(other.embedding)
        return Measured(self.model, tuple((between / np.linalg.norm(between)).tolist()))


@dataclass(frozen=True, eq=False)
class Pool:
    """Frames to match with.

    Attributes:
        frames: (N, D) float32 or float16.
        features: what the frames are, as `Features.description` says it.
        duration_s: of the speech that they were computed from.
        inputs: hash of all that decided the pool, or "" where it was made by hand.
        speaker: the speaker's embedding, for vocoders that are told who speaks; None where it was not measured.
    """

    frames: torch.Tensor
    features: dict[str, Any]
    duration_s: float
    inputs: str = ""
    speaker: Measured | None = None

    def save(self, folder: Path | str) -> None:
        """Write the folder; pool.json comes last, so that one that opens is complete."""
        folder = Path(folder)
        (folder / "pool.json").unlink(missing_ok=True)
        write_bytes(folder / "frames.safetensors", save({"frames": self.frames.contiguous()}))
        described = {"format": FORMAT, "version": VERSION, "features": self.features, "inputs": self.inputs}
        described["speaker"] = None if self.speaker is None else asdict(self.speaker)
        shape = {"frames": len(self.frames), "width": self.frames.shape[1], "duration_s": round(self.duration_s, 3)}
        write_json(folder / "pool.json", {**described, **shape})

    @classmethod
    def load(cls, folder: Path | str) -> "Pool":
        """Open a pool folder; its frames stay on disk until they are used.

        Raises:
            CorruptFile: not a pool folder, or its parts do not belong together.
        """
        folder = Path(folder)
        described = read_pool_description(folder)
        try:
            with safe_open(folder / "frames.safetensors", framework="pt") as file:
                frames = file.get_tensor("frames")
        except (OSError, SafetensorError) as error:
            raise CorruptFile(f"{folder / 'frames.safetensors'} cannot be read: {one_line(error)}") from error
        if list(frames.shape) != [described["frames"], described["width"]]:
            raise CorruptFile(f"{folder}: frames.safetensors has {list(frames.shape)}, pool.json says otherwise")
        found = described["speaker"]
        speaker = None if found is None else Measured(found["model"], tuple(found["embedding"]))
        return cls(frames, described["features"], described["duration_s"], described["inputs"], speaker)

    def thinned(self, num_frames: int, seed: int, device: torch.device) -> "Pool":
        """At most `num_frames` of the frames, spread over all: the most typical frame of each k-means cluster.

        Clusters are of directions, since matching compares no lengths. Frames of speech are kept, not means of them,
        which would sound smoother than speech is.
        """
        if num_frames < 1:
            raise ConfigError(f"a pool cannot be thinned to {num_frames} frames")
        if num_frames >= len(self.frames):
            return self
        unit = torch.nn.functional.normalize(self.frames.float(), dim=1)
        config = KMeansConfig(vocab_size=num_frames, seed=seed, exchanges=0, passes=4)
        centroids = fit_kmeans(ArrayFrames(unit, seed), config, Ranks(), device).centroids
        labels, distances = (part.cpu() for part in Assigner(centroids, device).nearest(unit))
        order = distances.argsort(stable=True)
        order = order[labels[order].argsort(stable=True)]  # by cluster, the most typical first
        first = torch.ones(len(order), dtype=torch.bool)
        first[1:] = labels[order][1:] != labels[order][:-1]
        return replace(self, frames=self.frames[order[first].sort().values])


def is_pool(path: Path | str) -> bool:
    """Whether a folder holds a pool."""
    return (Path(path) / "pool.json").exists()


def read_pool_description(folder: Path) -> dict[str, Any]:
    """pool.json, checked for format and version.

    Raises:
        CorruptFile: not a pool folder.
    """
    if not is_pool(folder):
        raise CorruptFile(f"{folder}: not a pool (no pool.json): `voxtok pool` makes one")
    keys = ("features", "inputs", "frames", "width", "duration_s", "speaker")
    return read_description(folder / "pool.json", FORMAT, VERSION, keys)


def is_up_to_date(folder: Path, inputs: str) -> bool:
    """Whether the folder holds the pool that was made of these inputs."""
    return is_pool(folder) and read_json(folder / "pool.json").get("inputs") == inputs
