"""Neural codecs as upstreams: EnCodec, DAC and Mimi, from a checkpoint as transformers saves it.

The frames, layer 0, are the latents of the codec's encoder; its own quantizer (tokenize/codec_quantizer.py) makes them
tokens, and its decoder turns tokens into samples again.

    EnCodec   24 kHz, 75 frames/s    the model pads the end of a recording to a whole frame, by reflection
    Mimi      24 kHz, 12.5 frames/s  likewise, with zeros in every layer; attention sees the last 10 s
    DAC       44.1, 24 or 16 kHz     the recording is padded with zeros to a whole frame, as DAC's preprocessor does

So n samples always have ceil(n / hop) frames. How its end is padded depends on a recording's own length, so utterances
are computed one at a time, whatever the batch. A long recording is computed as a whole, yet in pieces: convolutions on
pieces that overlap by their reach, the transformer with a cache of what its window reaches, the LSTM along the whole
sequence of latents. What grows with the length are the samples and the latents alone, about 1 GB an hour.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from voxtok.runtime.errors import ConfigError, CorruptFile, one_line
from voxtok.tokenize.checkpoint import Checkpoint
from voxtok.tokenize.upstream import Dtype, Normalization
from voxtok.tokenize.weights import hash_weights

PIECE_FRAMES = {"encodec": 3000, "dac": 3000, "mimi": 1000}
"""Frames of a piece of convolutions, about 40 s (Mimi's convolutions give 25 a second)."""
ATTENTION_FRAMES = 1000
"""Frames that Mimi's transformer takes at a time: 40 s."""
NO_WINDOWS = "codecs compute a recording of any length whole, in bounded memory: set window-s to null"
IDENTITY_OPTIONS = {
    "encodec": ("upsampling_ratios", "dilation_growth_rate", "use_causal_conv", "pad_mode", "sampling_rate"),
    "dac": ("downsampling_ratios", "sampling_rate"),
    "mimi": (
        *("upsampling_ratios", "dilation_growth_rate", "use_causal_conv", "pad_mode", "sampling_rate", "frame_rate"),
        *("num_attention_heads", "hidden_act", "norm_eps", "sliding_window", "rope_parameters"),
    ),
}
"""What changes a latent and does not show in the weights' shapes."""


class Codec:
    """A codec's encoder behind the Upstream interface; layer 0 is its latents before quantization."""

    num_layers = 0

    def __init__(self, model: Any, identity: dict[str, Any], device: torch.device) -> None:
        self.model = model
        """The transformers model, with its quantizer and decoder."""
        self.identity = identity
        self.device = device
        self.sampling_rate = int(model.config.sampling_rate)
        self.family = str(model.config.model_type)
        self.hop_samples = int(model.config.frame_size if self.family == "mimi" else model.config.hop_length)
        self.min_samples = 1  # the rest of the frame is padding
        self.width = int(model.config.hidden_size)
        self.piece_frames = PIECE_FRAMES[self.family]

    def num_frames(self, num_samples: int) -> int:
        """Frames begun: ceil(num_samples / hop)."""
        return math.ceil(num_samples / self.hop_samples)

    def statistics(self, chunks: Iterable[torch.Tensor]) -> torch.Tensor:
        """None: nothing is normalised over the recording."""
        return torch.zeros(0, dtype=torch.float64)

    @torch.inference_mode()
    def extract(
        self,
        waveforms: torch.Tensor,
        lengths: torch.Tensor,
        layers: Sequence[int],
        statistics: Sequence[torch.Tensor] | None = None,
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """Latents of each utterance; see Upstream.extract."""
        if set(layers) != {0}:
            raise ConfigError(f"a codec has layer 0 only, its latents; {sorted(layers)} were asked for")
        if statistics is not None:
            raise ConfigError(NO_WINDOWS)
        samples = lengths.tolist()
        if min(samples) < self.min_samples:
            raise ConfigError("a waveform without samples has no frames")
        counts = [self.num_frames(length) for length in samples]
        latents = torch.zeros(len(counts), max(counts), self.width, device=self.device)
        for i, (length, count) in enumerate(zip(samples, counts, strict=True)):
            latents[i, :count] = self._latents(waveforms[i : i + 1, None, :length].to(self.device, torch.float32))[0].T
        return {0: latents}, torch.tensor(counts, device=self.device)

    @torch.inference_mode()
    def decode(self, vectors: torch.Tensor) -> torch.Tensor:
        """(N, width) vectors, as the quantizer decodes tokens, to (num_samples,) float32: the codec as a vocoder."""
        latents = vectors.to(self.device, torch.float32).T[None]
        found = self.model.decoder(latents)
        samples: torch.Tensor = found.audio_values if self.family == "mimi" else found
        return samples.flatten().cpu()

    def _latents(self, waveform: torch.Tensor) -> torch.Tensor:
        """(1, 1, T) to (1, width, frames)."""
        encoder = self.model.encoder
        if self.family == "dac":
            missing = -waveform.shape[2] % self.hop_samples
            return _in_pieces(encoder, F.pad(waveform, (0, missing)), self.hop_samples, self.piece_frames)
        if self.family == "mimi":
            stack = encoder.encoder_seanet
            hop = self.hop_samples // encoder.downsample.conv.stride[0]
            hidden = _in_pieces(stack, waveform, hop, self.piece_frames).transpose(1, 2)
            latents: torch.Tensor = encoder.downsample(self._attended(hidden).transpose(1, 2))
            return latents
        recurrent = next(i for i, layer in enumerate(encoder.layers) if type(layer).__name__ == "EncodecLSTM")
        front, rest = torch.nn.Sequential(*encoder.layers[:recurrent]), encoder.layers[recurrent:]
        hidden = _in_pieces(front, waveform, self.hop_samples, self.piece_frames)
        for layer in rest:
            hidden = layer(hidden)
        return hidden

    def _attended(self, hidden: torch.Tensor) -> torch.Tensor:
        """Mimi's transformer over (1, N, D), some frames at a time with the keys and values that they can see."""
        transformer = self.model.encoder.encoder_transformer
        if hidden.shape[1] <= ATTENTION_FRAMES:
            whole: torch.Tensor = transformer(hidden).last_hidden_state
            return whole
        parts, cache = [], None
        for part in hidden.split(ATTENTION_FRAMES, dim=1):
            found = transformer(part, past_key_values=cache, use_cache=True)
            parts.append(found.last_hidden_state)
            cache = found.past_key_values
        return torch.cat(parts, dim=1)


def _in_pieces(stack: torch.nn.Module, waveform: torch.Tensor, hop: int, piece_frames: int) -> torch.Tensor:
    """Convolutions over (1, 1, T), as if at once: (1, channels, frames).

    Every piece is computed with as many frames around it as the convolutions reach, which are then dropped.
    """
    num_samples = waveform.shape[2]
    if num_samples <= piece_frames * hop:
        whole: torch.Tensor = stack(waveform)
        return whole
    reach = math.ceil(_reach_samples(stack) / hop)
    parts = []
    for first in range(0, math.ceil(num_samples / hop), piece_frames):
        begin = max(0, first - reach)
        end = (first + piece_frames + reach) * hop
        found = stack(waveform[:, :, begin * hop : end])
        parts.append(found[:, :, first - begin : first - begin + piece_frames])
    return torch.cat(parts, dim=2)


def _reach_samples(stack: torch.nn.Module) -> int:
    """Samples that one output sees at most, from its first to its last."""
    reach, stride = 1, 1
    for module in stack.modules():
        if isinstance(module, torch.nn.Conv1d):
            reach += (module.kernel_size[0] - 1) * module.dilation[0] * stride
            stride *= module.stride[0]
    return reach


def load(
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: Dtype,
    normalization: Normalization,
    max_layer: int | None,
) -> Codec:
    """Open a codec: encoder, quantizer and decoder, in float32 whatever they are stored in.

    Raises:
        ConfigError: another number format or normalisation; a codec that tokens alone do not describe (stereo, or with
            a loudness beside its tokens, as EnCodec at 48 kHz).
        CorruptFile: a weight is missing or of another shape.
    """
    if normalization != "checkpoint" or dtype != "float32":
        raise ConfigError(f"{checkpoint.name}: codecs take the waveform as it is, in float32: leave both options alone")
    config = checkpoint.config()
    family = str(config.model_type)
    if getattr(config, "audio_channels", 1) != 1 or getattr(config, "normalize", False):
        raise ConfigError(
            f"{checkpoint.name}: this codec has two channels, or loudness beside its tokens, as EnCodec at 48 kHz, "
            "so tokens alone do not describe it: take EnCodec at 24 kHz, Mimi or DAC"
        )
    if getattr(config, "chunk_length_s", None) is not None:
        raise ConfigError(f"{checkpoint.name}: EnCodec in chunks is not supported: chunk_length_s must be null")
    identity = {
        "family": family,
        "version": 1,
        "weights_sha256": hash_weights(checkpoint.weights()),
        "config": {name: getattr(config, name) for name in IDENTITY_OPTIONS[family]},
        "normalization": normalization,
        "dtype": dtype,
    }
    return Codec(_model(checkpoint, family).to(device), identity, device)


def _model(checkpoint: Checkpoint, family: str) -> Any:
    """The whole transformers model, in evaluation mode."""
    import transformers

    classes: dict[str, Any] = {
        "encodec": transformers.EncodecModel,
        "dac": transformers.DacModel,
        "mimi": transformers.MimiModel,
    }
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, found = classes[family].from_pretrained(
            checkpoint.folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (RuntimeError, ValueError, OSError) as error:
        described = "is not the codec that its configuration describes"
        raise CorruptFile(f"{checkpoint.name} {described}: {one_line(error)}") from error
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    if found["missing_keys"] or found["mismatched_keys"]:
        name = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))[0]
        raise CorruptFile(f"{checkpoint.name} has no tensor {name}: it is not what its configuration describes")
    return model.eval().requires_grad_(False)
