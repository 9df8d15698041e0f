"""The convolutional front of the wav2vec2 family: waveform -> one vector per hop, as matrix products.

Frames are kept channels-last, (B, frames, channels). A convolution of kernel 3 and stride 2 is then a product over
pairs of frames plus one over every second frame, both of them strided views that are taken without a copy. (One product
over triples, whose rows overlap in memory, is slower in float32.) Time is worked off in blocks that stay in a CPU's
cache, so memory does not grow with the utterance.

A group norm over time (HuBERT base, wav2vec 2.0 base, WavLM base) is folded into the first convolution's weights, from
the moments of the utterance's own samples: padding cannot reach it, and a block needs no other block.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from voxtok.tokenize.architecture import Architecture
from voxtok.tokenize.moments import Moments
from voxtok.tokenize.weights import WeightReader

FRONT_EPSILON = 1e-5
CACHE_FRAMES = 100
"""Output frames of a block on a CPU: its largest activation then takes 13 MB."""
DEVICE_FRAMES = 8192
"""Output frames of a block, over the whole batch, on an accelerator: 1 GB."""


@dataclass(frozen=True)
class Scaling:
    """What is done to a waveform before the first convolution: (x - mean) * gain, float64 scalars."""

    mean: torch.Tensor
    gain: torch.Tensor


class ConvFront:
    """The convolutions of one model."""

    def __init__(self, reader: WeightReader, architecture: Architecture) -> None:
        self.architecture = architecture
        self.dtype = reader.dtype
        self.device = reader.device
        (weight, bias), *rest = [
            _layer_weights(reader, architecture, index) for index in range(len(architecture.kernels))
        ]
        self.unfolded = torch.cat([weight, bias[None]])  # (kernel + 1, C): the first convolution, its bias last
        self.exact = self.unfolded.double()
        self.rest = [reader.cast(weight, bias) for weight, bias in rest]
        normed = 1 if architecture.front_norm == "group" else len(architecture.kernels)
        self.norms = [
            reader.norm(f"feature_extractor.conv_layers.{index}.layer_norm", architecture.channels[index])
            for index in range(normed)
        ]

    def fold(self, scaling: Scaling, moments: Moments) -> torch.Tensor:
        """The first convolution's weights for one recording, its group norm folded in; `unfolded` are those without.

        Args:
            scaling: of the recording's waveform.
            moments: over the recording's samples as they were before scaling, with windows.

        Returns:
            (kernel + 1, C) float32; the last row is the bias.
        """
        weight, bias = self.exact[:-1], self.exact[-1]
        mean, covariance = moments.window()
        channel_mean = ((mean - scaling.mean) * scaling.gain) @ weight + bias
        variance = ((covariance * scaling.gain**2) @ weight * weight).sum(0).clamp_min(0)
        scale, shift = self.norms[0]
        gain = scale.double() * torch.rsqrt(variance + FRONT_EPSILON)
        return torch.cat([weight * gain, ((bias - channel_mean) * gain + shift.double())[None]]).float()

    def __call__(self, waveforms: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Compute the frames that fit in T samples.

        Args:
            waveforms: (B, T) float32, scaled, with finite padding.
            first: (B, kernel + 1, C) float32, from `fold`, or `unfolded`.

        Returns:
            (B, F, C') in the computation's dtype; frames that see padding are of no use.
        """
        frames = self.architecture.num_frames(waveforms.shape[1])
        on_cpu = waveforms.device.type == "cpu"
        block = CACHE_FRAMES if on_cpu else max(CACHE_FRAMES, DEVICE_FRAMES // len(waveforms))
        hop, extra = self.architecture.hop_samples, self.architecture.min_samples - self.architecture.hop_samples
        blocks = [
            self._block(waveforms[:, start * hop : min(start + block, frames) * hop + extra], first)
            for start in range(0, frames, block)
        ]
        return torch.cat(blocks, dim=1)

    def _block(self, waveforms: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        strides = self.architecture.strides
        windows = waveforms.to(self.dtype).unfold(1, self.architecture.kernels[0], strides[0])
        first = first.to(self.dtype)
        frames = self._activate(torch.baddbmm(first[:, -1:], windows, first[:, :-1]), 0)  # (B, n, C)
        for index, (weight, bias) in enumerate(self.rest, start=1):
            frames = convolve(frames, weight, bias if self.architecture.conv_bias else None, strides[index])
            frames = self._activate(frames, index)
        return frames

    def _activate(self, frames: torch.Tensor, index: int) -> torch.Tensor:
        if self.architecture.front_norm == "layer":
            frames = F.layer_norm(frames, frames.shape[-1:], *self.norms[index], FRONT_EPSILON)
        return F.gelu(frames)


def _layer_weights(reader: WeightReader, architecture: Architecture, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (kernel * C, C'), rows ordered by tap, then channel, and bias (C',), zero if there is none; float32."""
    name = f"feature_extractor.conv_layers.{index}.conv"
    inputs = architecture.channels[index - 1] if index else 1
    outputs, kernel = architecture.channels[index], architecture.kernels[index]
    weight = reader.take(f"{name}.weight", (outputs, inputs, kernel)).permute(2, 1, 0).reshape(-1, outputs)
    return weight, reader.take(f"{name}.bias", (outputs,)) if architecture.conv_bias else torch.zeros_like(weight[0])


def convolve(frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int) -> torch.Tensor:
    """Convolve along time, without padding.

    Args:
        frames: (B, n, C), contiguous.
        weight: (kernel * C, C'), rows ordered by tap, then channel.
        bias: (C',).
        stride: frames.

    Returns:
        (B, (n - kernel) // stride + 1, C').
    """
    batch, length, channels = frames.shape
    count = (length - len(weight) // channels) // stride + 1
    row = stride * channels
    result = None if bias is None else bias.repeat(batch, count, 1)  # a copy, since products are added in place
    for start in range(0, len(weight), row):
        taps = weight[start : start + row].expand(batch, -1, -1)
        strides = (length * channels, row, 1)
        view = frames.as_strided((batch, count, taps.shape[1]), strides, frames.storage_offset() + start)
        result = torch.bmm(view, taps) if result is None else result.baddbmm_(view, taps)
    assert result is not None
    return result
