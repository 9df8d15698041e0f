"""What a vocoder is told of each frame: tokens or features, who speaks and at what pitch, as one hidden sequence."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from voxtok.runtime.errors import ConfigError
from voxtok.vocoder.model_config import Facts, ModelConfig

F0_RANGE = 2.5
"""Standard deviations of a speaker's log F0 that the outermost levels stand for."""


@dataclass(frozen=True, eq=False)
class Frames:
    """A batch of frames, padded to the longest with anything.

    Attributes:
        content: (B, N, streams) int64 tokens, or (B, N, D) float32 features.
        lengths: (B,) frames of each.
        speaker: (B,) int64 rows of the speaker table, or (B, E) float32 embeddings; None where speakers are no input.
        f0_hz: (B, N) pitch, 0 where unvoiced; None where it is to be predicted.
        f0_norm: (B, 2) mean and standard deviation of the speaker's log F0; None where pitch is no input.
        streams: (B, S) bool, which token streams count; None for all.
    """

    content: torch.Tensor
    lengths: torch.Tensor
    speaker: torch.Tensor | None = None
    f0_hz: torch.Tensor | None = None
    f0_norm: torch.Tensor | None = None
    streams: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Frames":
        """The same on a device."""
        parts = (self.content, self.lengths, self.speaker, self.f0_hz, self.f0_norm, self.streams)
        content, lengths, *rest = (None if part is None else part.to(device) for part in parts)
        assert content is not None and lengths is not None
        return Frames(content, lengths, *rest)

    def mask(self) -> torch.Tensor:
        """(B, N) bool, True on frames that are no padding."""
        positions = torch.arange(self.content.shape[1], device=self.lengths.device)
        return positions[None] < self.lengths[:, None]


class FrameInputs(nn.Module):
    """Frames -> (B, N, width): the sum of what content, speaker and pitch say, each frame by itself."""

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        width = config.width
        self.content: TokenInput | FeatureInput
        if facts.inputs == "tokens":
            self.content = TokenInput(facts.vocab_sizes, width, attends=config.streams == "attention")
        else:
            self.content = FeatureInput(facts.feature_width, width)
        self.speaker: nn.Embedding | nn.Linear | None = None
        if config.speaker == "table":
            self.speaker = nn.Embedding(len(facts.speakers), width)
        elif config.speaker == "embedding":
            self.speaker = nn.Linear(facts.speaker_width, width, bias=False)
        self.f0_bins = config.f0_bins
        self.f0 = nn.Embedding(config.f0_bins + 1, width) if config.f0_bins else None

    def forward(self, frames: Frames) -> torch.Tensor:
        """(B, N, width), zero on padding.

        Raises:
            ConfigError: the speaker or the pitch is an input of this vocoder and is not given.
        """
        hidden: torch.Tensor = self.content(frames)
        if self.speaker is not None:
            if frames.speaker is None:
                raise ConfigError("this vocoder is told who speaks: give a speaker")
            hidden = hidden + self.speaker(frames.speaker)[:, None]
        if self.f0 is not None:
            if frames.f0_hz is None or frames.f0_norm is None:
                raise ConfigError("this vocoder takes the pitch as an input: give f0_hz")
            hidden = hidden + self.f0(f0_levels(frames.f0_hz, frames.f0_norm, self.f0_bins))
        return hidden * frames.mask()[..., None]


class TokenInput(nn.Module):
    """Embeddings of token streams, joined by their sum or by attention, over any subset of the streams.

    The sum is scaled to that of all streams. Attention weighs streams by a score of each embedding, as SpeechBrain's
    scalable vocoder does (Mousavi et al. 2024).
    """

    def __init__(self, vocab_sizes: tuple[int, ...], width: int, attends: bool) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(size, width) for size in vocab_sizes])
        self.score = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)) if attends else None

    def forward(self, frames: Frames) -> torch.Tensor:
        """(B, N, width)."""
        # Padding may hold anything, which need not be in the vocabulary.
        codes = frames.content.where(frames.mask()[..., None], 0)
        each = torch.stack([table(codes[..., i]) for i, table in enumerate(self.tables)], dim=2)  # (B, N, S, width)
        kept = torch.ones(each.shape[0], each.shape[2], dtype=torch.bool, device=each.device)
        kept = kept if frames.streams is None else frames.streams
        if self.score is None:
            scale = each.shape[2] / kept.sum(dim=1).clamp_min(1)  # (B,)
            return (each * kept[:, None, :, None]).sum(dim=2) * scale[:, None, None]
        scores = self.score(each).squeeze(-1).masked_fill(~kept[:, None], -math.inf)  # (B, N, S)
        joined: torch.Tensor = (each * scores.softmax(dim=-1)[..., None]).sum(dim=2)
        return joined


class FeatureInput(nn.Module):
    """Features of zero mean and unit variance by the training data's statistics, through one matrix."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, feature_width: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_width))
        self.register_buffer("scale", torch.ones(feature_width))
        self.project = nn.Linear(feature_width, width)

    def forward(self, frames: Frames) -> torch.Tensor:
        """(B, N, width)."""
        hidden: torch.Tensor = self.project((frames.content - self.mean) * self.scale)
        return hidden.where(frames.mask()[..., None], 0)  # padding may be NaN


def f0_levels(f0_hz: torch.Tensor, f0_norm: torch.Tensor, bins: int) -> torch.Tensor:
    """Pitch as levels 1 .. bins over a speaker's range; 0 where unvoiced (Polyak et al. 2021).

    Args:
        f0_hz: (B, N) Hz, 0 where unvoiced.
        f0_norm: (B, 2) mean and standard deviation of the speaker's log F0.
        bins: levels.

    Worked: a speaker of mean 100 Hz and deviation log 2, 5 bins: 100 Hz lies in the middle, level 3; 50 Hz, one
    deviation below, at (-1 + 2.5) / 5 of the range, level 2.
    """
    normal = (f0_hz.clamp_min(1).log() - f0_norm[:, :1]) / f0_norm[:, 1:].clamp_min(1e-3)
    place = (normal + F0_RANGE) / (2 * F0_RANGE)
    levels = 1 + (place * bins).floor().clamp(0, bins - 1).long()
    return levels.where(f0_hz > 0, 0)
