"""What predicts targets from the blocks of a model in training; kept beside it, not in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F

from voxtok.runtime.errors import CorruptFile
from voxtok.tokenize.weights import read_weights


class Heads(torch.nn.Module):
    """Logits of every stream from every supervised block: a layer norm, and one matrix for all streams together.

    With a temperature the logits are the cosines of frames and rows of the matrix, over it.
    """

    def __init__(self, blocks: int, width: int, vocab_sizes: Sequence[int], temperature: float = 0.0) -> None:
        super().__init__()
        self.vocab_sizes = list(vocab_sizes)
        self.temperature = temperature
        # Saved with the weights, which do not tell them.
        self.register_buffer("settings", torch.tensor([temperature, *vocab_sizes], dtype=torch.float64))
        self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(width) for _ in range(blocks)])
        self.outputs = torch.nn.ModuleList([torch.nn.Linear(width, sum(vocab_sizes)) for _ in range(blocks)])

    def forward(self, hidden: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
        """For each block, logits (N, vocab_size) of each stream from (N, width) frames."""
        return [self.of_block(block, frames) for block, frames in zip(range(len(self.norms)), hidden, strict=True)]

    def of_block(self, block: int, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits (N, vocab_size) of each stream from a supervised block's (N, width) frames; -1 is the last block."""
        output = cast(torch.nn.Linear, self.outputs[block])
        logits = self.logits(self.norms[block](frames), output).float()
        return tuple(logits.split(self.vocab_sizes, dim=-1))

    def logits(self, frames: torch.Tensor, output: torch.nn.Linear) -> torch.Tensor:
        """(N, streams' vocabularies together) from (N, width) normalised frames."""
        if not self.temperature:
            return cast(torch.Tensor, output(frames))
        return F.linear(F.normalize(frames, dim=-1), F.normalize(output.weight, dim=-1)) / self.temperature


def load_heads(path: Path) -> Heads:
    """The heads that `voxtok pretrain` left in its folder, on the CPU.

    Raises:
        CorruptFile: there are none, or they are damaged.
    """
    weights = read_weights(path)
    if "settings" not in weights:
        raise CorruptFile(f"{path} is not what `voxtok pretrain` writes: no settings")
    temperature, *vocab_sizes = weights["settings"].tolist()
    blocks = sum(name.startswith("norms.") for name in weights) // 2  # weight and bias
    heads = Heads(blocks, len(weights["norms.0.weight"]), [int(size) for size in vocab_sizes], temperature)
    heads.load_state_dict(weights)
    return heads
