"""HiFi-GAN's generator as its authors published it (Kong et al. 2020): zeros beyond the ends, no other package.

For checkpoints of others, whose names its tensors have: kNN-VC's vocoder is one (`voxtok import-knnvc`). Weights are
plain: whoever loads a checkpoint multiplies out its weight normalisation.
"""

import torch
import torch.nn.functional as F
from torch import nn

from voxtok.vocoder.model_config import HifiganConfig

SLOPE = 0.1
"""Of leaky rectifiers; the last one has torch's own 0.01, as published."""


class PlainHifigan(nn.Module):
    """(B, width_in, N) -> (B, 1, N * hop_samples)."""

    def __init__(self, config: HifiganConfig, width_in: int) -> None:
        super().__init__()
        width = config.channels
        self.conv_pre = nn.Conv1d(width_in, width, 7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()  # those of the first rate, then of the second, ...
        self.blocks_a_rate = len(config.block_kernels)
        for factor, kernel in zip(config.upsample_factors, config.upsample_kernels, strict=True):
            self.ups.append(nn.ConvTranspose1d(width, width // 2, kernel, factor, padding=(kernel - factor) // 2))
            width //= 2
            self.resblocks.extend(ResBlock(width, size, config.block_dilations) for size in config.block_kernels)
        self.conv_post = nn.Conv1d(width, 1, 7, padding=3)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """See the class."""
        hidden = self.conv_pre(hidden)
        for i, up in enumerate(self.ups):
            hidden = up(F.leaky_relu(hidden, SLOPE))
            blocks = self.resblocks[i * self.blocks_a_rate : (i + 1) * self.blocks_a_rate]
            hidden = torch.stack([block(hidden) for block in blocks]).mean(dim=0)
        made: torch.Tensor = torch.tanh(self.conv_post(F.leaky_relu(hidden)))
        return made


class ResBlock(nn.Module):
    """Pairs of a dilated and a plain convolution, each pair added to what went in."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(width, width, kernel, dilation=dilation, padding="same") for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(width, width, kernel, padding="same") for _ in dilations)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, width, T) to the same."""
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            hidden = hidden + plain(F.leaky_relu(dilated(F.leaky_relu(hidden, SLOPE)), SLOPE))
        return hidden
