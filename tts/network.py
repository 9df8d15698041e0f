"""The network of token TTS: symbols -> how many rows of tokens each lasts -> the tokens of all rows at once.

In the manner of FastSpeech (Ren et al. 2019): an encoder over symbols, a predictor of durations, and a decoder over the
rows that symbols are repeated to, which ends in a classifier for each token stream. The decoder may also be given some
of the tokens and guess the others (MaskGIT, Chang et al. 2022), so that guesses can be refined; see refinement.py.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from voxtok.runtime.errors import ConfigError
from voxtok.tts.utterances import Rows

Decoder = Literal["parallel", "masked"]

MOST_ROWS = 1000
"""Rows that one symbol can last at the most."""


@dataclass(frozen=True, kw_only=True)
class TtsShape:
    """The shape of the network."""

    rows: Rows
    """frames: a row a frame. merged: a row a run of equal frames, whose durations are predicted too."""
    decoder: Decoder
    """parallel: tokens are guessed once. masked: they can be refined, in several rounds."""
    speaker: Literal["none", "table", "embedding"] = "none"
    """table: a vector for each training speaker. embedding: a vector measured on a recording."""
    width: int = 256
    """Dimensions of a symbol and of a row."""
    heads: int = 4
    """Attention heads."""
    encoder_blocks: int = 4
    """Blocks over symbols."""
    decoder_blocks: int = 4
    """Blocks over rows."""
    kernel: int = 7
    """Symbols or rows that a block's convolution sees."""
    expansion: int = 4
    """Hidden width of a block's feed-forward layer over its width."""
    dropout: float = 0.1
    """Of blocks and of the predictors of durations."""

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.encoder_blocks, self.decoder_blocks, self.expansion) < 1:
            raise ConfigError("model.width, heads, blocks and expansion must be at least 1")
        if self.width % (2 * self.heads):
            raise ConfigError("model.width must be an even number of dimensions for each of model.heads")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError("model.kernel must be odd")
        if not 0 <= self.dropout < 1:
            raise ConfigError("model.dropout is a share: from 0 to below 1")


@dataclass(frozen=True, eq=False)
class Expanded:
    """Rows before their tokens are known: hidden (B, R, W), and inside (B, R), false on padding."""

    hidden: torch.Tensor
    inside: torch.Tensor


@dataclass(frozen=True, eq=False)
class Guess:
    """What the decoder makes of rows: logits (B, R, vocab_size) of each stream; of merged rows also log(1 + frames)."""

    logits: tuple[torch.Tensor, ...]
    log_frames: torch.Tensor | None


class TtsNetwork(nn.Module):
    """Symbols -> durations and tokens.

    Attributes:
        shape: of the network.
        vocab_sizes: of the token streams; the number above a stream's vocabulary is its mask.
    """

    def __init__(self, shape: TtsShape, symbols: int, vocab_sizes: tuple[int, ...], speakers: int) -> None:
        """For numbers below `symbols`, 0 being padding; `speakers` is the size of the table or of an embedding."""
        super().__init__()
        self.shape, self.vocab_sizes = shape, vocab_sizes
        width = shape.width
        self.symbols = nn.Embedding(symbols, width, padding_idx=0)
        self.encoder = Blocks(shape, shape.encoder_blocks)
        self.speaker: nn.Embedding | nn.Linear | None = None
        if shape.speaker == "table":
            self.speaker = nn.Embedding(speakers, width)
        elif shape.speaker == "embedding":
            self.speaker = nn.Linear(speakers, width)
        self.durations = Predictor(width, shape.dropout)
        self.place = nn.Linear(4, width)
        self.tokens: nn.ModuleList | None = None
        if shape.decoder == "masked":
            self.tokens = nn.ModuleList([nn.Embedding(size + 1, width) for size in vocab_sizes])
        self.decoder = Blocks(shape, shape.decoder_blocks)
        self.heads = nn.ModuleList([nn.Linear(width, size) for size in vocab_sizes])
        self.frames = Predictor(width, shape.dropout) if shape.rows == "merged" else None

    def encode(self, ids: torch.Tensor, speaker: torch.Tensor | None) -> torch.Tensor:
        """(B, P, W) of symbols (B, P), 0 on padding, spoken by `speaker`: (B,) rows of the table or (B, E) embeddings.

        Raises:
            ConfigError: the network is told who speaks, and is not.
        """
        hidden: torch.Tensor = self.encoder(self.symbols(ids), ids > 0)
        if self.speaker is not None:
            if speaker is None:
                raise ConfigError("this model is told who speaks: give a speaker")
            hidden = hidden + self.speaker(speaker)[:, None]
        return hidden

    def log_durations(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """(B, P) logarithms of 1 + the rows of each symbol."""
        found: torch.Tensor = self.durations(hidden, ids > 0)
        return found

    def expand(self, hidden: torch.Tensor, durations: torch.Tensor) -> Expanded:
        """Repeat each symbol (B, P, W) by its rows (B, P) and tell every row its place in its symbol."""
        ends = durations.cumsum(dim=1)  # (B, P)
        lengths = ends[:, -1]
        rows = torch.arange(int(lengths.max()), device=ends.device)[None].expand(len(ends), -1).contiguous()
        inside = rows < lengths[:, None]
        owner = torch.searchsorted(ends, rows, right=True).clamp_max(ends.shape[1] - 1)  # (B, R)
        length = durations.gather(1, owner).clamp_min(1).float()
        before = rows - (ends - durations).gather(1, owner)
        after = length - 1 - before
        place = torch.stack([(before + 0.5) / length, before.float().log1p(), after.clamp_min(0).log1p(), length.log()])
        repeated = hidden.gather(1, owner[..., None].expand(-1, -1, hidden.shape[2]))
        return Expanded((repeated + self.place(place.permute(1, 2, 0).to(hidden.dtype))) * inside[..., None], inside)

    def guess(self, rows: Expanded, codes: torch.Tensor | None) -> Guess:
        """What tokens the rows have, given some of them (B, R, S), a stream's mask for the others; None gives none."""
        hidden = rows.hidden
        if self.tokens is not None:
            given = self.masks(rows) if codes is None else codes
            hidden = hidden + torch.stack([table(given[..., s]) for s, table in enumerate(self.tokens)]).sum(dim=0)
        hidden = self.decoder(hidden, rows.inside)
        logits = tuple(head(hidden).float() for head in self.heads)
        return Guess(logits, None if self.frames is None else self.frames(hidden, rows.inside))

    def masks(self, rows: Expanded) -> torch.Tensor:
        """(B, R, S) masks of all streams: nothing is known."""
        sizes = torch.tensor(self.vocab_sizes, device=rows.inside.device)
        return sizes.expand(*rows.inside.shape, -1).clone()


class Blocks(nn.Module):
    """A stack of blocks: (B, T, W) to (B, T, W), blind to padding; positions are sinusoids (Vaswani et al. 2017)."""

    def __init__(self, shape: TtsShape, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(shape) for _ in range(count)])
        self.norm = nn.LayerNorm(shape.width)
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, hidden: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """The last block's output, normalised."""
        hidden = hidden + self.scale * sinusoids(hidden.shape[1], hidden.shape[2], hidden.device)
        for block in self.blocks:
            hidden = block(hidden, inside)
        normalised: torch.Tensor = self.norm(hidden)
        return normalised


class Block(nn.Module):
    """A convolution over neighbours, then torch's transformer layer; each is added to what it is given."""

    def __init__(self, shape: TtsShape) -> None:
        super().__init__()
        width = shape.width
        self.norm = nn.LayerNorm(width)
        self.near = nn.Conv1d(width, width, shape.kernel, padding=shape.kernel // 2, groups=width)
        self.mixed = nn.Linear(width, width)
        self.transformer = nn.TransformerEncoderLayer(
            width, shape.heads, shape.expansion * width, shape.dropout, "gelu", batch_first=True, norm_first=True
        )

    def forward(self, hidden: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """(B, T, W) to (B, T, W)."""
        near = self.near((self.norm(hidden) * inside[..., None]).transpose(1, 2)).transpose(1, 2)
        hidden = hidden + self.mixed(F.gelu(near))
        found: torch.Tensor = self.transformer(hidden, src_key_padding_mask=~inside)
        return found


class Predictor(nn.Module):
    """One number for each row from its neighbours: FastSpeech's predictor of durations."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv1d(width, width, 3, padding=1) for _ in range(2)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, 1)

    def forward(self, hidden: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """(B, T, W) with inside (B, T) to (B, T) float32."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            kept = (hidden * inside[..., None]).transpose(1, 2)
            hidden = self.dropout(norm(F.relu(convolution(kept).transpose(1, 2))))
        found: torch.Tensor = self.out(hidden).squeeze(-1)
        return found.float()


def sinusoids(length: int, width: int, device: torch.device) -> torch.Tensor:
    """(length, width) sines and cosines of places, from a period of 2 pi to one of 2 pi times 10000."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def whole_rows(logs: torch.Tensor, ids: torch.Tensor, marks: frozenset[int], speed: float) -> torch.Tensor:
    """(B, P) int64 rows of symbols (B, P) from their log durations; at least one but for marks, none on padding.

    Args:
        speed: 2 is twice as fast.
    """
    rows = (logs.expm1().clamp(0, MOST_ROWS) / speed).round().long()
    may_be_none = torch.isin(ids, torch.tensor([0, *sorted(marks)], device=ids.device))
    return rows.clamp_min(1).where(~may_be_none, rows) * (ids > 0)
