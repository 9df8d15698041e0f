"""Encoders: layers of SpeechBrain's Conformer and Branchformer after strided convolutions, blind to padding.

SpeechBrain's own encoders let padding into their depthwise convolutions, so an utterance's frames depend on its
batch-mates (by some percent of their size). Here each such convolution sees zeros beyond the utterance, as it does at
the edge of a batch of one.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import nn

from voxtok.asr.ebranchformer import EBranchformerLayer, half_forward
from voxtok.asr.padded import Padded
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.optional import require_speechbrain

KERNEL = 3  # of the subsampling convolutions


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Shape of the encoder; `ENCODER_SIZES` has the field's."""

    kind: Literal["conformer", "branchformer", "e-branchformer"]
    """conformer (Gulati et al. 2020), branchformer (Peng et al. 2022) or e-branchformer (Kim et al. 2023)."""
    blocks: int
    """Layers."""
    width: int
    """Dimensions of a frame."""
    heads: int
    """Of self-attention."""
    inner: int
    """Dimensions of the feed-forward parts; of the convolutional gating in a branchformer."""
    kernel: int
    """Frames that a depthwise convolution sees; odd."""
    subsampling: int
    """Input frames for each encoder frame: 1, 2, 4 or 8."""
    dropout: float = 0.1
    """Everywhere."""

    def __post_init__(self) -> None:
        if self.subsampling not in (1, 2, 4, 8):
            raise ConfigError(f"encoder.subsampling is 1, 2, 4 or 8, not {self.subsampling}")
        if min(self.blocks, self.width, self.heads, self.inner, self.kernel) < 1 or not 0 <= self.dropout < 1:
            raise ConfigError("encoder: sizes are at least 1, and dropout is between 0 and 1")
        if self.width % self.heads or self.width % 2:
            raise ConfigError("encoder.width must be even and a multiple of encoder.heads")
        if self.kernel % 2 == 0 or self.inner % 2:
            raise ConfigError("encoder.kernel must be odd and encoder.inner even")

    def num_frames(self, num_inputs: int) -> int:
        """Encoder frames for a number of input frames."""
        for _ in range(self.strides):
            num_inputs = -(-num_inputs // 2)
        return num_inputs

    @property
    def strides(self) -> int:
        """How many convolutions halve the frame rate."""
        return self.subsampling.bit_length() - 1


ENCODER_SIZES = {
    "tiny": {"blocks": 4, "width": 144, "heads": 4, "inner": 288, "kernel": 15},  # minutes on a CPU
    "base": {"blocks": 12, "width": 256, "heads": 4, "inner": 1024, "kernel": 31},  # ESPnet's LibriSpeech-100
    "large": {"blocks": 17, "width": 512, "heads": 8, "inner": 2048, "kernel": 31},
}
"""Options by size: what to write in a recipe's conf."""


class Encoder(nn.Module):
    """Frames of the input to frames that the heads read."""

    def __init__(self, config: EncoderConfig, input_width: int) -> None:
        super().__init__()
        attention = require_speechbrain("speechbrain.nnet.attention")
        self.config = config
        self.subsampling = Subsampling(input_width, config)
        self.positions = attention.RelPosEncXL(config.width)
        self.layers = nn.ModuleList([_layer(config) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(config.width)

    def forward(self, frames: Padded) -> Padded:
        """(B, T', width) from (B, T, input_width), T' = ceil(T / subsampling); zeros beyond the lengths."""
        frames = self.subsampling(frames)
        hidden, outside = frames.values, ~frames.inside
        for convolution in depthwise_convolutions(self):
            convolution.outside = outside
        positions = self.positions(hidden)
        for layer in self.layers:
            hidden, _ = layer(hidden, src_key_padding_mask=outside, pos_embs=positions)
        return Padded(Padded(self.norm(hidden).float(), frames.lengths).zeroed(), frames.lengths)


class Subsampling(nn.Module):
    """Convolutions of stride 2, or one of stride 1 where the rate stays, then dropout."""

    def __init__(self, input_width: int, config: EncoderConfig) -> None:
        super().__init__()
        self.strides = [2] * config.strides or [1]
        widths = [input_width] + [config.width] * len(self.strides)
        self.convolutions = nn.ModuleList(
            [
                nn.Conv1d(before, after, KERNEL, stride, padding=KERNEL // 2)
                for before, after, stride in zip(widths, widths[1:], self.strides, strict=False)
            ]
        )
        self.project = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, frames: Padded) -> Padded:
        """(B, T', width) from (B, T, input_width)."""
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            hidden = F.gelu(convolution(frames.zeroed().transpose(1, 2))).transpose(1, 2)
            frames = Padded(hidden, -(-frames.lengths // stride))
        return Padded(self.dropout(self.project(frames.values)), frames.lengths)


class DepthwiseConvolution(nn.Module):
    """A convolution over (B, T, C) or (B, C, T) that takes what lies outside of an utterance as zero.

    Attributes:
        outside: (B, T) bool; set before each pass by the encoder, since SpeechBrain's layers do not hand it down.
    """

    def __init__(self, channels: int, kernel: int, *, time_first: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.time_first = time_first
        self.outside = torch.zeros(0, 0, dtype=torch.bool)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """The same shape as `frames`."""
        channels_first = frames.transpose(1, 2) if self.time_first else frames
        found: torch.Tensor = self.convolution(channels_first.masked_fill(self.outside[:, None], 0))
        return found.transpose(1, 2) if self.time_first else found


def depthwise_convolutions(module: nn.Module) -> list[DepthwiseConvolution]:
    """All of a module's convolutions that must know where utterances end."""
    return [part for part in module.modules() if isinstance(part, DepthwiseConvolution)]


def _layer(config: EncoderConfig) -> nn.Module:
    """One of SpeechBrain's layers, its depthwise convolution replaced by one of ours."""
    shape: dict[str, Any] = {
        "d_model": config.width,
        "nhead": config.heads,
        "kernel_size": config.kernel,
        "dropout": config.dropout,
    }
    layer: Any
    if config.kind == "conformer":
        conformer = require_speechbrain("speechbrain.lobes.models.transformer.Conformer")
        layer = conformer.ConformerEncoderLayer(d_ffn=config.inner, **shape)
        layer.convolution_module.conv = DepthwiseConvolution(config.width, config.kernel, time_first=False)
    else:
        branchformer = require_speechbrain("speechbrain.lobes.models.transformer.Branchformer")
        layer = branchformer.BranchformerEncoderLayer(csgu_linear_units=config.inner, **shape)
        gate = DepthwiseConvolution(config.inner // 2, config.kernel, time_first=True)
        # As SpeechBrain begins: a gate that lets nearly everything through.
        nn.init.normal_(gate.convolution.weight, std=1e-6)
        nn.init.ones_(cast(nn.Parameter, gate.convolution.bias))
        layer.convolution_branch.csgu.conv = gate
    if config.kind == "e-branchformer":
        merge = DepthwiseConvolution(2 * config.width, config.kernel, time_first=True)
        before, after = (half_forward(config.width, config.inner, config.dropout) for _ in range(2))
        return EBranchformerLayer(layer, merge, (before, after), config.width, config.dropout)
    whole: nn.Module = layer
    return whole
