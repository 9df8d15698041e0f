"""`predicted:STREAM:RUN`: what a model of `voxtok pretrain` predicts, as features: the logits of one of its targets.

RUN is the output folder of `voxtok pretrain`; STREAM counts its stores and then its labels from 0. Logits of phones,
learnt from labelled speech, are closer to phones on unlabelled speech than the frames below them, so their clusters are
targets for the next iteration. Each frame is the mean of three, since phones are longer than that.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.heads import load_heads
from voxtok.tokenize.upstream import Upstream
from voxtok.tokenize.weights import hash_weights, read_weights


class Predicted:
    """Logits behind the interface of an upstream, whose only layer is 0."""

    def __init__(self, upstream: Upstream, run: Path, stream: int) -> None:
        self._inner = upstream
        self._heads, self._stream = load_heads(run / "heads.safetensors").to(upstream.device), stream
        if not 0 <= stream < len(self._heads.vocab_sizes):
            raise ConfigError(f"{run} predicts {len(self._heads.vocab_sizes)} streams, counted from 0: not {stream}")
        weights = read_weights(run / "model" / "model.safetensors")
        self._gain, self._bias = (
            weights[f"encoder.layer_norm.{part}"].float().to(upstream.device) for part in ("weight", "bias")
        )
        self.sampling_rate = upstream.sampling_rate
        self.hop_samples = upstream.hop_samples
        self.min_samples = upstream.min_samples
        self.num_layers = 0
        self.width = self._heads.vocab_sizes[stream]
        self.device = upstream.device
        self.identity: dict[str, Any] = {
            "family": "predicted", "version": 1, "stream": stream, "heads": hash_weights(self._heads.state_dict()),
            "of": upstream.identity,
        }  # fmt: skip

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform of `num_samples`, as the model has them."""
        return self._inner.num_frames(num_samples)

    def statistics(self, chunks: Iterable[torch.Tensor]) -> torch.Tensor:
        """Of the model."""
        return self._inner.statistics(chunks)

    def extract(
        self,
        waveforms: torch.Tensor,
        lengths: torch.Tensor,
        layers: Sequence[int],
        statistics: Sequence[torch.Tensor] | None = None,
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """See Upstream.extract."""
        if set(layers) - {0}:
            raise ConfigError(f"predictions have layer 0 alone, not {sorted(set(layers) - {0})}")
        last = self._inner.num_layers
        features, counts = self._inner.extract(waveforms, lengths, (last,), statistics)
        found = torch.zeros(*features[last].shape[:2], self.width, device=self.device)
        with torch.inference_mode():
            for row, frames, count in zip(found, features[last], counts.tolist(), strict=True):
                normal = F.layer_norm(frames[:count], frames.shape[-1:], self._gain, self._bias)
                row[:count] = mean_of_three(self._heads.of_block(-1, normal)[self._stream])
        return {layer: found for layer in layers}, counts


def mean_of_three(frames: torch.Tensor) -> torch.Tensor:
    """(N, D) means of each frame and its neighbours; the ends count twice.

    Worked: 0 3 3 9 becomes 1 2 5 7.
    """
    padded = torch.cat([frames[:1], frames, frames[-1:]])
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3
