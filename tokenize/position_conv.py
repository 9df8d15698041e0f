"""Positional convolution of the wav2vec2 family: h + gelu(conv(h)), over 128 frames in 16 groups of channels.

Convolved by FFT (overlap-save), always in float32: 6 times less CPU time than the direct convolution for HuBERT base,
and more exact than a bfloat16 one. Weights are weight-normed (Salimans & Kingma 2016), over all but the taps.
"""

import torch
from torch.nn import functional as F

from voxtok.tokenize.architecture import Architecture
from voxtok.tokenize.weights import WeightReader

NORM_EPSILON = 1e-5
NAME = "encoder.pos_conv_embed"


class GroupedConv:
    """A convolution along time with groups of channels, "same" padding, by overlap-save FFT.

    Attributes:
        kernel: taps.
        size: samples of one transform; each yields size - kernel + 1 outputs.
        spectrum: (bins, groups, inputs, outputs) complex64.
        bias: (D,) float32.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, groups: int) -> None:
        """Transform the taps.

        Args:
            weight: (D, D / groups, kernel) float32, as torch's Conv1d has it.
            bias: (D,) float32.
            groups: of channels.
        """
        width, inputs, self.kernel = weight.shape
        self.size = max(64, 1 << (2 * self.kernel - 1).bit_length())
        spectrum = torch.fft.rfft(weight.flip(2).double(), self.size)  # Conv1d correlates: reversed taps convolve
        spectrum = spectrum.view(groups, width // groups, inputs, -1).permute(3, 0, 2, 1)
        self.spectrum = spectrum.to(torch.complex64).contiguous()
        self.bias = bias

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, F, D) float32 -> (B, F, D) float32; output f sees inputs f - kernel // 2 and kernel - 1 after it."""
        batch, length, width = frames.shape
        bins, groups, inputs = self.spectrum.shape[:3]
        hop = self.size - self.kernel + 1
        count = -(-length // hop)
        before = self.kernel // 2
        after = (count - 1) * hop + self.size - length - before
        blocks = F.pad(frames, (0, 0, before, after)).unfold(1, self.size, hop)  # (B, count, D, size)
        spectra = torch.fft.rfft(blocks).view(batch * count, groups, inputs, bins).permute(3, 1, 0, 2)
        spectra = torch.matmul(spectra, self.spectrum)  # (bins, groups, B * count, outputs)
        convolved: torch.Tensor = torch.fft.irfft(spectra.permute(2, 1, 3, 0), self.size)[..., self.kernel - 1 :]
        convolved = convolved.reshape(batch, count, width, hop).transpose(2, 3)
        return convolved.reshape(batch, count * hop, width)[:, :length] + self.bias


class PositionConv:
    """What is added to the projected frames before block 1: one convolution, or data2vec's stack of them."""

    def __init__(self, reader: WeightReader, architecture: Architecture) -> None:
        self.stack = architecture.position == "stack"
        self.convs = [_conv(reader, architecture, index) for index in range(architecture.position_depth)]
        self.affine = _batch_norm(reader, architecture.width) if architecture.position == "batch-norm" else None

    def __call__(self, frames: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        """Compute what is to be added.

        Args:
            frames: (B, F, D).
            padding: (B, F, 1) true beyond an utterance's frames, which are zero for each convolution, as they are at
                the ends of a lone utterance; None if there are none.

        Returns:
            (B, F, D) in the dtype of `frames`.
        """
        hidden = frames.float()
        if self.affine is not None:
            hidden = torch.addcmul(self.affine[1], hidden, self.affine[0])
        for conv in self.convs:
            hidden = conv(hidden if padding is None else hidden.masked_fill(padding, 0.0))
            if self.stack:
                hidden = F.layer_norm(hidden, hidden.shape[-1:], eps=NORM_EPSILON)
            hidden = F.gelu(hidden)
        return hidden.to(frames.dtype)


def _conv(reader: WeightReader, architecture: Architecture, index: int) -> GroupedConv:
    width, kernel, groups = architecture.width, architecture.position_kernel, architecture.position_groups
    shape = (width, width // groups, kernel)
    name = f"{NAME}.layers.{index}.conv" if architecture.position == "stack" else f"{NAME}.conv"
    if architecture.position == "conv":
        direction = reader.take(f"{name}.parametrizations.weight.original1", shape)
        length = reader.take(f"{name}.parametrizations.weight.original0", (1, 1, kernel))
        weight = direction * (length / direction.norm(dim=(0, 1), keepdim=True))
    else:
        weight = reader.take(f"{name}.weight", shape)
    return GroupedConv(weight, reader.take(f"{name}.bias", (width,)), groups)


def _batch_norm(reader: WeightReader, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift that a batch norm amounts to once trained."""
    name = f"{NAME}.batch_norm"
    weight, bias, mean, variance = (
        reader.take(f"{name}.{part}", (width,)) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight * torch.rsqrt(variance + NORM_EPSILON)
    return scale, bias - mean * scale
