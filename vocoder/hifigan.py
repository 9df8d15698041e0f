"""The HiFi-GAN generator of SpeechBrain (Kong et al. 2020), as the unit HiFi-GAN of Polyak et al. 2021 uses it."""

import math
from typing import Any

import torch
from torch import nn

from voxtok.runtime.optional import require_speechbrain
from voxtok.vocoder.model_config import HifiganConfig
from voxtok.vocoder.plain_hifigan import PlainHifigan
from voxtok.vocoder.source import Place


def speechbrain_hifigan() -> Any:
    """SpeechBrain's module of HiFi-GAN parts.

    Raises:
        MissingPart: SpeechBrain is not installed.
    """
    return require_speechbrain("speechbrain.lobes.models.HifiGAN")


def speechbrain_generator(config: HifiganConfig, width_in: int) -> Any:
    """SpeechBrain's network of this shape; errors as `speechbrain_hifigan`."""
    return speechbrain_hifigan().HifiganGenerator(
        in_channels=width_in,
        out_channels=1,
        resblock_type="1",
        resblock_dilation_sizes=[list(config.block_dilations)] * len(config.block_kernels),
        resblock_kernel_sizes=list(config.block_kernels),
        upsample_kernel_sizes=list(config.upsample_kernels),
        upsample_initial_channel=config.channels,
        upsample_factors=list(config.upsample_factors),
    )


class HifiganGenerator(nn.Module):
    """Hidden frames -> waveforms.

    Args:
        config: its shape.
        width_in: channels of hidden frames.
        plain: the network without SpeechBrain, for imported weights.

    Attributes:
        context_frames: frames on either side that a frame's samples depend on.
    """

    def __init__(self, config: HifiganConfig, width_in: int, *, plain: bool) -> None:
        super().__init__()
        self.net = PlainHifigan(config, width_in) if plain else speechbrain_generator(config, width_in)
        self.context_frames = reach_frames(config)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, f0_hz: torch.Tensor | None, place: Place
    ) -> tuple[torch.Tensor, None]:
        """Waveforms of (B, N, width_in), zero on padding: (B, N * hop_samples). Pitch and place change nothing.

        Its convolutions see what is beyond the edges, so utterances of unequal length are computed one by one.
        """
        lengths = mask.sum(dim=1).tolist()
        if len(set(lengths)) == 1 and lengths[0] == hidden.shape[1]:
            return self._waveforms(hidden), None
        rows = [self._waveforms(row[None, :length])[0] for row, length in zip(hidden, lengths, strict=True)]
        hop = rows[0].shape[0] // max(lengths[0], 1)
        out = hidden.new_zeros(len(rows), hidden.shape[1] * hop, dtype=torch.float32)
        for padded, row in zip(out, rows, strict=True):
            padded[: len(row)] = row
        return out, None

    def _waveforms(self, hidden: torch.Tensor) -> torch.Tensor:
        waveforms: torch.Tensor = self.net(hidden.transpose(1, 2))[:, 0]
        return waveforms.float()


def reach_frames(config: HifiganConfig) -> int:
    """Frames on either side that a sample depends on: each layer's reach at its own rate, added up.

    Worked: one upsampling by 4 with a kernel of 8, one block kernel of 3 and dilation 1: 3 frames before; one for
    the transposed convolution; 1 + 1 samples in the block and 3 after it, at 4 a frame, 1.25: 6 frames in all.
    """
    reach, rate = 3.0, 1
    for factor, kernel in zip(config.upsample_factors, config.upsample_kernels, strict=True):
        reach += math.ceil(kernel / factor / 2) / rate
        rate *= factor
        half = max(config.block_kernels) // 2
        reach += sum(half * dilation + half for dilation in config.block_dilations) / rate
    return math.ceil(reach + 3 / rate)
