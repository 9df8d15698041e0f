"""From inputs to the frames that the encoder takes: embeddings, mixed layers, and what joins them."""

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from voxtok.asr.attention import Attention
from voxtok.asr.inputs import InputConfig, Inputs, Source
from voxtok.asr.padded import Padded
from voxtok.runtime.errors import ConfigError

LAYER_KERNEL = 3  # of the convolutions over layers
EPSILON = 1e-5
STATISTICS = 500

Floats = npt.NDArray[np.floating]


class Front(nn.Module):
    """Inputs to (B, T, width) frames: of features where there are any, else of tokens."""

    def __init__(self, config: InputConfig, source: Source) -> None:
        super().__init__()
        self.config, self.source = config, source
        if config.tokens and config.features and config.fusion == "add" and source.has_durations:
            raise ConfigError(
                "tokens with durations have no frame to be added to: set inputs.fusion to cross-attention"
            )
        self.embed = Embeddings(source.vocab_sizes, config) if config.tokens else None
        self.features = Features(source.feature_shape, config) if config.features else None
        attends = config.tokens and config.features is not None and config.fusion == "cross-attention"
        self.over_tokens = Glance(config) if attends else None
        self.over_context = Glance(config) if config.context else None
        self.norm = nn.LayerNorm(config.width)

    def forward(self, inputs: Inputs) -> Padded:
        """Frames of a batch; every part that the config names must be there."""
        tokens = self._embedded(inputs.tokens)
        frames = self._joined(inputs.features, tokens)
        if self.over_context is not None:
            context = self._embedded(inputs.context)
            assert context is not None
            frames = self.over_context(frames, context)
        return Padded(self.norm(frames.values), frames.lengths)

    def _embedded(self, tokens: Padded | None) -> Padded | None:
        return None if self.embed is None or tokens is None else Padded(self.embed(tokens.values), tokens.lengths)

    def _joined(self, features: Padded | None, tokens: Padded | None) -> Padded:
        if self.features is None:
            assert tokens is not None
            return tokens
        assert features is not None
        frames = Padded(self.features(features.values), features.lengths)
        if tokens is None:
            return frames
        if self.over_tokens is not None:
            joined: Padded = self.over_tokens(frames, tokens)
            return joined
        rates = self.source.token_rate_hz / self.source.feature_rate_hz
        return Padded(frames.values + under_frames(tokens, frames, rates), frames.lengths)


def under_frames(tokens: Padded, frames: Padded, rates: float) -> torch.Tensor:
    """The token at the time of each frame, (B, F, width).

    Worked: at 50 tokens and 100 frames a second, frames 0 1 2 3 4 have tokens 0 0 1 1 2; the last one stays.
    """
    places = (torch.arange(frames.values.shape[1], device=tokens.lengths.device) * rates).long()
    chosen = torch.minimum(places, tokens.lengths[:, None] - 1)  # (B, F)
    return tokens.values.gather(1, chosen[..., None].expand(-1, -1, tokens.values.shape[2]))


class Embeddings(nn.Module):
    """Tokens of one or several streams to one vector."""

    def __init__(self, vocab_sizes: Sequence[int], config: InputConfig) -> None:
        super().__init__()
        self.how = config.streams
        side_by_side = config.streams == "concatenation"
        if side_by_side and config.width % len(vocab_sizes):
            raise ConfigError(f"inputs.width must be a multiple of the {len(vocab_sizes)} streams")
        width = config.width // len(vocab_sizes) if side_by_side else config.width
        self.tables = nn.ModuleList([nn.Embedding(size, width) for size in vocab_sizes])
        self.score = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))
        if config.streams != "attention":
            self.score = nn.Sequential()

    @property
    def weights(self) -> list[torch.Tensor]:
        """(vocab_size, dimensions) of each stream."""
        return [cast(nn.Embedding, table).weight for table in self.tables]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, width) from (B, T, streams) int64."""
        embedded = [table(tokens[..., stream]) for stream, table in enumerate(self.tables)]
        if self.how == "concatenation":
            return torch.cat(embedded, dim=-1)
        stacked = torch.stack(embedded, dim=2)  # (B, T, streams, width)
        if self.how == "sum":
            return stacked.sum(dim=2)
        weights: torch.Tensor = self.score(stacked).softmax(dim=2)
        return (weights * stacked).sum(dim=2)


class Features(nn.Module):
    """Features of one or several layers, normalised by the training data's mean and deviation, to one vector."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, shape: tuple[int, int], config: InputConfig) -> None:
        super().__init__()
        layers, width = shape
        self.register_buffer("mean", torch.zeros(layers, width))
        self.register_buffer("deviation", torch.ones(layers, width))
        self.mix = LayerSum(layers) if config.layer_mix == "sum" else LayerConvolution(layers, width)
        self.project = nn.Linear(width, config.width)

    def normalize_by(self, examples: Sequence[Floats]) -> None:
        """Take mean and deviation from (F, layers, D) features, of at most STATISTICS utterances spread over all."""
        chosen = examples[:: max(1, len(examples) // STATISTICS)]
        frames = torch.cat([torch.from_numpy(np.array(part, dtype=np.float64)) for part in chosen])
        self.mean.copy_(frames.mean(dim=0))
        self.deviation.copy_(frames.std(dim=0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, width) from (B, F, layers, D)."""
        found: torch.Tensor = self.project(self.mix((features - self.mean) / (self.deviation + EPSILON)))
        return found


class LayerSum(nn.Module):
    """A weighted sum over layers with learned weights that add up to 1 (SUPERB, Yang et al. 2021)."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, D) from (B, F, layers, D)."""
        return torch.einsum("bfld,l->bfd", features, self.weights.softmax(dim=0))


class LayerConvolution(nn.Module):
    """Convolutions over the layers, each halving their number, until one is left (Shih & Harwath 2024)."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        count = max(1, math.ceil(math.log2(layers)))
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(width, width, LAYER_KERNEL, stride=2, padding=LAYER_KERNEL // 2) for _ in range(count)]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(count)])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, D) from (B, F, layers, D)."""
        hidden = features.flatten(0, 1).transpose(1, 2)  # (B F, D, layers)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = norm(F.gelu(convolution(hidden)).transpose(1, 2)).transpose(1, 2)
        mixed: torch.Tensor = hidden.squeeze(2).unflatten(0, features.shape[:2])
        return mixed


class Glance(nn.Module):
    """Frames look at a second sequence by attention; a learned vector is always there to be seen."""

    def __init__(self, config: InputConfig) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1, 1, config.width))
        self.norms = nn.ModuleList([nn.LayerNorm(config.width) for _ in range(2)])
        self.attention = Attention(config.width, config.fusion_heads, dropout=0.0)

    def forward(self, frames: Padded, second: Padded) -> Padded:
        """The frames, plus what each found in `second`."""
        always = torch.ones(len(second.lengths), 1, dtype=torch.bool, device=second.lengths.device)
        seen = torch.cat([always, second.inside], dim=1)[:, None, None]  # (B, 1, 1, 1 + S)
        there = torch.cat([self.nothing.expand(len(always), -1, -1), self.norms[1](second.values)], dim=1)
        found = self.attention(self.norms[0](frames.values), self.attention.keys_values(there), seen)
        return Padded(frames.values + found, frames.lengths)
