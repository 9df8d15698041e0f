"""Upstreams: what turns waveforms into frames. One small interface, a `match` on the name, no registry."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import torch

Dtype = Literal["float32", "bfloat16"]
"""Of weights and activations; features always come out as float32."""

Normalization = Literal["checkpoint", "utterance", "none"]
"""Of the waveform: what the checkpoint's preprocessor does, zero mean and unit variance over it, or as it is."""


def forbid_tf32() -> None:
    """Let CUDA compute float32 in float32: TF32, the default of its convolutions, has 10 bits, and tokens follow."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


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

    def statistics(self, chunks: Iterable[torch.Tensor]) -> torch.Tensor:
        """Sums over a whole recording that its windows are normalised with, in one pass over its samples.

        Args:
            chunks: the consecutive pieces of one recording, each (T,) float32, of any lengths; a generator streams.

        Returns:
            (S,) float64 on the CPU, opaque; S = 0 where every frame depends on samples nearby only.
        """
        ...

    def extract(
        self,
        waveforms: torch.Tensor,
        lengths: torch.Tensor,
        layers: Sequence[int],
        statistics: Sequence[torch.Tensor] | None = None,
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """Features of several layers from one pass; nothing above max(layers) is computed.

        Args:
            waveforms: (B, T) float32, each padded to T with anything.
            lengths: (B,) samples of each.
            layers: layer numbers.
            statistics: B results of `statistics`, where each waveform is a window of a longer recording; None where
                each is a whole recording, normalised over its own samples.

        Returns:
            {layer: (B, F, width) float32, zero beyond an utterance's frames}, (B,) frames of each.

        Raises:
            ConfigError: a layer that the model lacks or that was not loaded, or a waveform below min_samples.
        """
        ...
