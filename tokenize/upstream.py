"""Upstreams: what turns waveforms into frames. One small interface, a `match` on the name, no registry."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch


class Upstream(Protocol):
    """A frozen feature extractor on one device.

    Promise: the features of an utterance do not depend on its batch-mates or on the padding (<= 1e-4 relative).

    Attributes:
        sampling_rate: of the waveforms it takes, Hz.
        hop_samples: samples from one frame to the next; the frame rate is sampling_rate / hop_samples.
        min_samples: the shortest waveform that gives one frame.
        num_layers: transformer blocks; a layer number L in 1 .. num_layers is the raw output of the L-th block, 0 is
            the input to block 1 (fairseq, kNN-VC; Hugging Face hidden_states[L]). Filter banks have 0 only.
        width: dimensions of a frame.
        identity: everything that changes a feature, as JSON: family, weights' SHA-256, waveform normalisation, dtype.
    """

    sampling_rate: int
    hop_samples: int
    min_samples: int
    num_layers: int
    width: int
    identity: dict[str, Any]
    device: torch.device

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform of `num_samples`."""
        ...

    def extract(
        self, waveforms: torch.Tensor, lengths: torch.Tensor, layers: Sequence[int]
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """Features of several layers from one pass; nothing above max(layers) is computed.

        Args:
            waveforms: (B, T) float32, each padded to T with anything.
            lengths: (B,) samples of each.
            layers: layer numbers.

        Returns:
            {layer: (B, F, width) float32, zero beyond an utterance's frames}, (B,) frames of each.
        """
        ...
