"""The codebook: one safetensors file of centroids, with its format in the metadata and nothing executable."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.runtime.files import write_bytes

FORMAT = "voxtok-codebook 1"
"""Name and version in one metadata entry: safetensors writes several entries in an order that changes."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """Centroids of k-means.

    Attributes:
        centroids: (K, D) float32; token k stands for row k.
    """

    centroids: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.centroids.ndim != 2 or self.centroids.dtype != np.float32 or not self.centroids.size:
            found = f"{self.centroids.dtype}{self.centroids.shape}"
            raise ConfigError(f"a codebook is a (K, D) float32 array, not {found}")
        if not np.isfinite(self.centroids).all():
            raise ConfigError("a codebook has NaN or infinite centroids: fit it again on features without them")

    @property
    def vocab_size(self) -> int:
        """K, the number of different tokens."""
        return len(self.centroids)

    @property
    def width(self) -> int:
        """D, the dimensions of a frame."""
        return self.centroids.shape[1]

    @property
    def sha256(self) -> str:
        """Hash of the shape and the little-endian float32 bytes, independent of the file around them."""
        content = f"{self.centroids.shape}".encode() + np.ascontiguousarray(self.centroids, dtype="<f4").tobytes()
        return hashlib.sha256(content).hexdigest()

    def save(self, path: Path | str) -> None:
        """Write the safetensors file atomically."""
        write_bytes(path, save({"centroids": self.centroids}, metadata={"format": FORMAT}))

    @classmethod
    def load(cls, path: Path | str) -> "Codebook":
        """Read what `save` wrote.

        Raises:
            CorruptFile: not a safetensors file, or not a codebook of a version this release knows.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                found = (file.metadata() or {}).get("format", "no format")
                if found != FORMAT:
                    raise CorruptFile(f"{path}: expected {FORMAT!r}, found {found!r}")
                return cls(file.get_tensor("centroids"))
        except (OSError, SafetensorError) as error:
            raise CorruptFile(f"{path}: not a readable codebook ({error})") from error
