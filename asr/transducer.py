"""The transducer's other two networks: a predictor over the last pieces, and the joiner of its output and a frame."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from voxtok.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TransducerConfig:
    """Shape of the predictor and the joiner."""

    history: int
    """Pieces that the predictor sees (Ghodsi et al. 2020); icefall takes 2."""
    width: int
    """Dimensions of both networks."""
    loss: Literal["full", "pruned"] = "full"
    """full (torchaudio's), or pruned (Kuang et al. 2022), which needs k2 and much less memory."""
    prune_range: int = 5
    """Pieces kept at each frame by the pruned loss; it takes 2 or more."""

    def __post_init__(self) -> None:
        if min(self.history, self.width) < 1 or self.prune_range < 2:
            raise ConfigError("transducer: history and width are at least 1, prune-range at least 2")


class Predictor(nn.Module):
    """A stateless predictor: embeddings of the last pieces under one grouped convolution, as icefall has it."""

    def __init__(self, config: TransducerConfig, vocab_size: int) -> None:
        super().__init__()
        self.history = config.history
        self.embed = nn.Embedding(vocab_size, config.width)
        groups = config.width // 4 if config.width % 4 == 0 else 1
        self.convolution = nn.Conv1d(config.width, config.width, config.history, groups=groups, bias=False)
        self.output = nn.Linear(config.width, config.width)

    def forward(self, pieces: torch.Tensor) -> torch.Tensor:
        """(N, S, width) after each of (N, S + history - 1) pieces; blanks stand before the first."""
        embedded = self.embed(pieces).transpose(1, 2)
        found: torch.Tensor = self.output(F.relu(self.convolution(embedded).transpose(1, 2)))
        return found


class Joiner(nn.Module):
    """Logits from an encoder frame and a predictor's output: a sum under tanh, then one matrix."""

    def __init__(self, config: TransducerConfig, encoder_width: int, vocab_size: int) -> None:
        super().__init__()
        self.frames = nn.Linear(encoder_width, config.width)
        self.output = nn.Linear(config.width, vocab_size)

    def forward(self, frames: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """(..., V) logits from (..., encoder_width) and (..., width), which broadcast."""
        found: torch.Tensor = self.output(torch.tanh(self.frames(frames) + predicted))
        return found


class SimpleJoiner(nn.Module):
    """The pruned loss's first pass: two matrices whose sum stands for the joiner, and shows where paths lie."""

    def __init__(self, config: TransducerConfig, encoder_width: int, vocab_size: int) -> None:
        super().__init__()
        self.frames = nn.Linear(encoder_width, vocab_size)
        self.predicted = nn.Linear(config.width, vocab_size)

    def forward(self, frames: torch.Tensor, predicted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, V) and (B, S + 1, V) logits."""
        return self.frames(frames), self.predicted(predicted)
