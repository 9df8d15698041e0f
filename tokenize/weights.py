"""Weights: named tensors read from a file that can run no code, their hash, and their way onto a device.

The hash is over tensors, not files, so the same weights in safetensors or in PyTorch's format have the same one.
"""

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from voxtok.runtime.errors import CorruptFile, one_line

Weights = dict[str, torch.Tensor]


def read_weights(path: Path) -> Weights:
    """Read a safetensors file, or a file of torch.save that holds nothing but tensors.

    Raises:
        CorruptFile: it cannot be read, or holds something else than named tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        zipped = zipfile.is_zipfile(path)  # torch.save's format since 1.6, the only one that can be memory-mapped
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        raise CorruptFile(f"{path} cannot be read as weights: {one_line(error)}") from error
    if not isinstance(weights, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        raise CorruptFile(f"{path} should hold a state dict: names and tensors, nothing else")
    return weights


def hash_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over the tensors sorted by name: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class WeightReader:
    """Takes tensors by name, checks their shapes, and puts them on a device in the dtype of the computation.

    Whatever dtype a checkpoint is stored in, tensors pass through float32, so that a bfloat16 file asked for as float32
    computes in float32.
    """

    name: str
    weights: Mapping[str, torch.Tensor]
    device: torch.device
    dtype: torch.dtype

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """One tensor, float32 on the device.

        Raises:
            CorruptFile: it is missing or of another shape.
        """
        if name not in self.weights:
            raise CorruptFile(f"{self.name} has no tensor {name}: it is not the model that its configuration describes")
        tensor = self.weights[name]
        if tuple(tensor.shape) != shape:
            raise CorruptFile(f"{self.name}: {name} is {tuple(tensor.shape)}, its configuration says {shape}")
        # A copy, since a file's tensors lie at any address, and CPU products round differently with the alignment.
        return tensor.detach().to(self.device, torch.float32, copy=True)

    def linear(self, name: str, inputs: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (outputs, inputs) and bias (outputs,) in the computation's dtype."""
        return self.cast(self.take(f"{name}.weight", (outputs, inputs)), self.take(f"{name}.bias", (outputs,)))

    def norm(self, name: str, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale (width,) and shift (width,) of a layer norm, in the computation's dtype."""
        return self.cast(self.take(f"{name}.weight", (width,)), self.take(f"{name}.bias", (width,)))

    def cast(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both in the computation's dtype."""
        return first.to(self.dtype).contiguous(), second.to(self.dtype).contiguous()
