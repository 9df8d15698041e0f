"""The attention decoder: a transformer that predicts the next piece of text from the ones before and the encoder.

Training sees all prefixes at once; a search goes one piece at a time with the keys and values of the past kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from voxtok.asr.attention import Attention
from voxtok.asr.padded import Padded
from voxtok.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape of the attention decoder; its width is the encoder's."""

    blocks: int
    """Layers."""
    heads: int
    """Of both attentions."""
    inner: int
    """Dimensions of the feed-forward parts."""
    dropout: float = 0.1
    """Everywhere."""

    def __post_init__(self) -> None:
        if min(self.blocks, self.heads, self.inner) < 1 or not 0 <= self.dropout < 1:
            raise ConfigError("decoder: sizes are at least 1, and dropout is between 0 and 1")


@dataclass(frozen=True, eq=False)
class DecoderState:
    """What a search keeps of N hypotheses, as many of each of B utterances, in the order of utterances.

    Attributes:
        past: of each layer, the keys and values (N, heads, S, d) of the S pieces so far.
        encoded: of each layer, the keys and values (B, heads, T, d) of the encoder's frames.
        inside: (B, 1, 1, T) bool, which of those frames are real.
    """

    past: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    encoded: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    inside: torch.Tensor

    def repeat(self, count: int) -> "DecoderState":
        """Each hypothesis `count` times."""
        return self.select(torch.arange(len(self.past[0][0]), device=self.inside.device).repeat_interleave(count))

    def select(self, rows: torch.Tensor) -> "DecoderState":
        """The state of hypotheses `rows` (N,), which must be as many of each utterance, in the order of utterances."""
        past = tuple((keys[rows], values[rows]) for keys, values in self.past)
        return DecoderState(past, self.encoded, self.inside)


class Decoder(nn.Module):
    """Pre-norm transformer decoder (Vaswani et al. 2017) with sinusoidal positions."""

    def __init__(self, config: DecoderConfig, width: int, vocab_size: int) -> None:
        super().__init__()
        if width % config.heads:
            raise ConfigError("decoder.heads must divide the encoder's width")
        self.width = width
        self.embed = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.layers = nn.ModuleList([DecoderLayer(config, width) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocab_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, encoded: Padded, pieces: torch.Tensor) -> torch.Tensor:
        """Logits (B, S, V) of the piece after each of (B, S) `pieces`, which begin with sos; those before count."""
        state = self.start(encoded)
        logits, _ = self._advance(pieces, state)
        return logits

    def start(self, encoded: Padded) -> DecoderState:
        """The state before the first piece, one hypothesis for each utterance."""
        empty = encoded.values.new_zeros(len(encoded.lengths), 0, self.width)
        layers = cast(Sequence[DecoderLayer], self.layers)
        past = tuple(layer.own.keys_values(empty) for layer in layers)
        over = tuple(layer.cross.keys_values(encoded.values) for layer in layers)
        return DecoderState(past, over, encoded.inside[:, None, None])

    def step(self, pieces: torch.Tensor, state: DecoderState) -> tuple[torch.Tensor, DecoderState]:
        """Log-probabilities (N, V) of what follows when each hypothesis takes one more of `pieces` (N,)."""
        logits, state = self._advance(pieces[:, None], state)
        return logits[:, 0].float().log_softmax(dim=-1), state

    def _advance(self, pieces: torch.Tensor, state: DecoderState) -> tuple[torch.Tensor, DecoderState]:
        begin = state.past[0][0].shape[2]
        total = begin + pieces.shape[1]
        hidden = self.embed(pieces) * math.sqrt(self.width) + positions(begin, total, self.width, pieces.device)
        hidden = self.dropout(hidden)
        seen = torch.ones(pieces.shape[1], total, dtype=torch.bool, device=pieces.device).tril(begin)
        past = []
        for layer, before, encoded in zip(self.layers, state.past, state.encoded, strict=True):
            hidden, kept = layer(hidden, before, encoded, seen, state.inside)
            past.append(kept)
        return self.output(self.norm(hidden)), DecoderState(tuple(past), state.encoded, state.inside)


class DecoderLayer(nn.Module):
    """Attention over the pieces so far, attention over the encoder's frames, feed-forward."""

    def __init__(self, config: DecoderConfig, width: int) -> None:
        super().__init__()
        self.own = Attention(width, config.heads, config.dropout)
        self.cross = Attention(width, config.heads, config.dropout)
        self.forward_part = nn.Sequential(
            nn.Linear(width, config.inner), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.inner, width)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden: torch.Tensor,
        past: tuple[torch.Tensor, torch.Tensor],
        encoded: tuple[torch.Tensor, torch.Tensor],
        seen: torch.Tensor,
        inside: torch.Tensor,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """New hidden (N, S, width), and the keys and values with those of `hidden` appended."""
        normed = self.norms[0](hidden)
        new = self.own.keys_values(normed)
        kept = (torch.cat([past[0], new[0]], dim=2), torch.cat([past[1], new[1]], dim=2))
        hidden = hidden + self.dropout(self.own(normed, kept, seen))
        together = self.norms[1](hidden).reshape(len(inside), -1, hidden.shape[2])  # (B, N / B * S, width)
        hidden = hidden + self.dropout(self.cross(together, encoded, inside)).view_as(hidden)
        return hidden + self.dropout(self.forward_part(self.norms[2](hidden))), kept


def positions(begin: int, end: int, width: int, device: torch.device) -> torch.Tensor:
    """Sinusoids (end - begin, width) of places begin .. end - 1 (Vaswani et al. 2017)."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    angles = torch.arange(begin, end, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
