"""The codebook: what a quantizer is made of, as one safetensors file with nothing executable in it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from voxtok.runtime.errors import ConfigError, CorruptFile, one_line
from voxtok.runtime.files import checked_description, sha256, write_bytes

FORMAT = "voxtok-codebook"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Codebook:
    """The arrays and settings of one quantizer; tokenize/quantizer.py says what each kind does with them.

    Attributes:
        kind: the quantizer: kmeans, ...
        settings: what is not an array, as JSON.
        arrays: by name, finite where they are floats.
    """

    kind: str
    settings: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]

    def __post_init__(self) -> None:
        for name, array in self.arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ConfigError(f"{name} of the codebook has NaN or infinite values: fit on features without them")

    @property
    def centroids(self) -> npt.NDArray[np.float32]:
        """The (K, D) centroids of a k-means codebook.

        Raises:
            ConfigError: a codebook of another kind.
        """
        if self.kind != "kmeans":
            raise ConfigError(f"this needs a k-means codebook, not one of kind {self.kind!r}")
        return self.arrays["centroids"]

    @property
    def sha256(self) -> str:
        """Hash of kind, settings and little-endian array contents, independent of the file around them."""
        arrays = {}
        for name, array in self.arrays.items():
            content = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
            arrays[name] = [str(array.dtype), list(array.shape), hashlib.sha256(content).hexdigest()]
        return sha256([self.kind, self.settings, arrays])

    def save(self, path: Path | str) -> None:
        """Write the safetensors file atomically."""
        described = {"format": FORMAT, "version": VERSION, "kind": self.kind, "settings": self.settings}
        # One metadata entry only: safetensors writes several in an order that changes from run to run.
        write_bytes(path, save(self.arrays, metadata={"codebook": json.dumps(described, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path | str) -> "Codebook":
        """Read what `save` wrote.

        Raises:
            CorruptFile: not a safetensors file, or not a codebook of a version this release knows.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                described = json.loads((file.metadata() or {}).get("codebook", "{}"))
                described = checked_description(described, path, FORMAT, VERSION, ("kind", "settings"))
                arrays = {name: file.get_tensor(name) for name in file.keys()}
                return cls(described["kind"], described["settings"], arrays)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CorruptFile(f"{path}: not a readable codebook ({one_line(error)})") from error


def kmeans_codebook(centroids: npt.NDArray[Any]) -> Codebook:
    """The codebook of (K, D) centroids; token k stands for row k.

    Raises:
        ConfigError: another shape, or centroids that are not finite.
    """
    if centroids.ndim != 2 or not centroids.size:
        raise ConfigError(f"centroids are a (K, D) array, not {centroids.shape}")
    return Codebook("kmeans", {}, {"centroids": np.ascontiguousarray(centroids, dtype=np.float32)})
