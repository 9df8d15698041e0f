"""Whisper's encoder (Radford et al., 2022): every 30 s of audio alone, padded with silence as Whisper was trained.

The encoder knows no shorter input than 30 s. A recording is cut into consecutive pieces of 30 s, the last one is
padded with zeros, and the frames that lie wholly within the audio are kept: one per 320 samples. So a second of
audio costs what 30 s cost, and frames on either side of a cut do not see each other; windows of 30 s with an overlap
mend that. Whisper's log-mel floor is relative to the loudest filter in the same 30 s.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.checkpoint import Checkpoint
from voxtok.tokenize.modules import filled, part_of
from voxtok.tokenize.upstream import Dtype, Normalization, Upstream
from voxtok.tokenize.weights import hash_weights

FFT_SAMPLES = 400
MEL_HOP_SAMPLES = 160
MEL_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0
"""Factors of ten below the loudest filter at which log-mels are cut."""
ENCODER_NAMES = ("conv1.", "conv2.", "embed_positions.", "layers.", "layer_norm.")
MAX_PIECES = 8
"""Pieces of 30 s computed at once on an accelerator, however many short utterances a batch holds."""


class Whisper:
    """Whisper's encoder behind the Upstream interface; layer L is a block's raw output, before the final norm."""

    sampling_rate = 16000
    hop_samples = 2 * MEL_HOP_SAMPLES
    min_samples = 2 * MEL_HOP_SAMPLES

    def __init__(
        self, encoder: Any, identity: dict[str, Any], num_layers: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.device = device
        self.identity = identity
        self.num_layers = num_layers
        self.width = int(encoder.config.d_model)
        self.one_by_one = device.type == "cpu"
        """Whether pieces of 30 s are computed alone: there is nothing to gain from a batch on a CPU."""
        self._encoder = encoder
        self._dtype = dtype
        self._piece_frames = int(encoder.config.max_source_positions)
        self._filters = mel_filters(encoder.config.num_mel_bins).to(device)
        self._window = torch.hann_window(FFT_SAMPLES, device=device)

    def num_frames(self, num_samples: int) -> int:
        """Whole hops of 320 samples; 16000 samples have 50."""
        return num_samples // self.hop_samples

    def statistics(self, chunks: Iterable[torch.Tensor]) -> torch.Tensor:
        """None: nothing reaches beyond 30 s."""
        return torch.zeros(0, dtype=torch.float64)

    @torch.inference_mode()
    def extract(
        self,
        waveforms: torch.Tensor,
        lengths: torch.Tensor,
        layers: Sequence[int],
        statistics: Sequence[torch.Tensor] | None = None,
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """Block outputs of each utterance; see Upstream.extract."""
        kept = len(self._encoder.layers)
        if not all(0 <= layer <= kept for layer in layers):
            raise ConfigError(f"layers {sorted(layers)} were asked for, but 0 .. {kept} were loaded")
        samples = lengths.tolist()
        if min(samples) < self.min_samples:
            raise ConfigError(f"{min(samples)} samples are too short: one frame needs {self.min_samples}")
        counts = [self.num_frames(length) for length in samples]
        features = {layer: torch.zeros(len(counts), max(counts), self.width, device=self.device) for layer in layers}
        places = [(i, first) for i, count in enumerate(counts) for first in range(0, count, self._piece_frames)]
        at_once = 1 if self.one_by_one else MAX_PIECES
        for start in range(0, len(places), at_once):
            group = places[start : start + at_once]
            pieces = torch.stack([self._piece(waveforms[i, : samples[i]], first) for i, first in group])
            for layer, frames in self._blocks(self._log_mels(pieces), layers).items():
                for (i, first), row in zip(group, frames, strict=True):
                    span = features[layer][i, first : min(first + self._piece_frames, counts[i])]
                    span.copy_(row[: len(span)])
        return features, torch.tensor(counts, device=self.device)

    def _piece(self, waveform: torch.Tensor, first_frame: int) -> torch.Tensor:
        """The 30 s from a frame on, padded with zeros."""
        length = self._piece_frames * self.hop_samples
        start = first_frame * self.hop_samples
        piece = waveform[start : start + length].to(self.device, torch.float32)
        return F.pad(piece, (0, length - len(piece)))

    def _log_mels(self, pieces: torch.Tensor) -> torch.Tensor:
        """(B, filters, 3000) as WhisperFeatureExtractor makes them of (B, 480000) samples."""
        spectrum = torch.stft(pieces, FFT_SAMPLES, MEL_HOP_SAMPLES, window=self._window, return_complex=True)
        power = spectrum[..., :-1].abs().square()
        logs = (self._filters @ power).clamp_min(MEL_FLOOR).log10()
        loudest = logs.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(logs, loudest - DYNAMIC_RANGE) + 4) / 4

    def _blocks(self, mels: torch.Tensor, layers: Sequence[int]) -> dict[int, torch.Tensor]:
        """{layer: (B, 1500, width)}."""
        hidden = F.gelu(self._encoder.conv1(mels.to(self._dtype)))
        hidden = F.gelu(self._encoder.conv2(hidden)).transpose(1, 2)
        hidden = hidden + self._encoder.embed_positions.weight
        kept: dict[int, torch.Tensor] = {}
        for layer in range(max(layers) + 1):
            if layer:
                hidden = self._encoder.layers[layer - 1](hidden, None)
            if layer in layers:
                kept[layer] = hidden.float()
        return kept


def mel_filters(num_filters: int) -> torch.Tensor:
    """Slaney's mel filters up to 8 kHz, as (num_filters, 201) float32."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(1 + FFT_SAMPLES // 2, num_filters, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters).float().T.contiguous()


def load(
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: Dtype,
    normalization: Normalization,
    max_layer: int | None,
) -> Upstream:
    """Open the encoder of a Whisper checkpoint.

    Raises:
        ConfigError: another normalisation than the checkpoint's was asked for.
        CorruptFile: a weight is missing.
    """
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    if normalization != "checkpoint":
        raise ConfigError(f"{checkpoint.name}: Whisper normalises its log-mel frames: normalization is 'checkpoint'")
    config = checkpoint.config()
    num_layers = config.encoder_layers
    weights = part_of(checkpoint.weights(), ("model.encoder.", "encoder."), ENCODER_NAMES)
    identity = {
        "family": "whisper",
        "version": 1,
        "weights_sha256": hash_weights(weights),
        "config": {name: getattr(config, name) for name in ("activation_function", "encoder_attention_heads")},
        "normalization": normalization,
        "dtype": dtype,
    }
    config.encoder_layers = num_layers if max_layer is None else min(max_layer, num_layers)
    torch_dtype = getattr(torch, dtype)
    encoder = filled(lambda: WhisperEncoder(config), checkpoint, weights, device, torch_dtype)
    return Whisper(encoder, identity, num_layers, device, torch_dtype)
