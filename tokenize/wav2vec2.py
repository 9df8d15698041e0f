"""The wav2vec2 family as an upstream: HuBERT, WavLM, wav2vec 2.0 / XLS-R, data2vec-audio, UniSpeech(-SAT).

One lean forward over the checkpoint's weights: it stops at the highest asked layer and computes an utterance on its own
samples only. On a CPU utterances go one at a time, since batching gains nothing there, so that features are bitwise
independent of batch-mates; on an accelerator they go as one padded batch with masks.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.architecture import Architecture, from_config
from voxtok.tokenize.checkpoint import Checkpoint
from voxtok.tokenize.conv_front import ConvFront, Scaling
from voxtok.tokenize.moments import Moments, gather
from voxtok.tokenize.position_conv import PositionConv
from voxtok.tokenize.relative_position import RelativePosition
from voxtok.tokenize.transformer_blocks import Block
from voxtok.tokenize.upstream import Dtype, Normalization
from voxtok.tokenize.weights import WeightReader, Weights, hash_weights

Run = Callable[[torch.Tensor, torch.Tensor | None, RelativePosition | None], torch.Tensor]

HUGGING_FACE_EPSILON = 1e-7
"""Added to the variance by transformers' Wav2Vec2FeatureExtractor."""


def load(
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: Dtype,
    normalization: Normalization,
    max_layer: int | None,
) -> "Wav2Vec2":
    """Load a Hugging Face checkpoint of this family; the arguments are those of `load_upstream`.

    Raises:
        ConfigError: normalization is "checkpoint" and the checkpoint does not say.
    """
    preprocessor = checkpoint.preprocessor()
    if normalization == "checkpoint" and "do_normalize" not in preprocessor:
        raise ConfigError(
            f"{checkpoint.name}: no preprocessor_config.json says do_normalize; give normalization utterance or none"
        )
    normalize = preprocessor["do_normalize"] if normalization == "checkpoint" else normalization == "utterance"
    return build(
        checkpoint.name,
        checkpoint.model_type,
        backbone(checkpoint.weights()),
        from_config(checkpoint.config(), checkpoint.name),
        sampling_rate=int(preprocessor.get("sampling_rate", 16000)),
        waveform_epsilon=HUGGING_FACE_EPSILON if normalize else None,
        device=device,
        dtype=dtype,
        max_layer=max_layer,
    )


def backbone(weights: Weights) -> Weights:
    """The tensors that make features, under Hugging Face's present names: no heads, prefixes or old weight-norm names.

    So a model saved with or without a head, by an old or a new release, has one hash.
    """
    kept: Weights = {}
    for name, tensor in weights.items():
        found = re.fullmatch(r"(?:\w+\.)?((?:feature_extractor|feature_projection|encoder)\..+)", name)
        if found and not name.endswith("num_batches_tracked"):
            current = found[1].replace(".conv.weight_g", ".conv.parametrizations.weight.original0")
            kept[current.replace(".conv.weight_v", ".conv.parametrizations.weight.original1")] = tensor
    return kept


def build(
    name: str,
    family: str,
    weights: Weights,
    architecture: Architecture,
    *,
    sampling_rate: int,
    waveform_epsilon: float | None,
    device: torch.device,
    dtype: Dtype,
    max_layer: int | None,
) -> "Wav2Vec2":
    """Build the upstream from weights under Hugging Face's names.

    Raises:
        ConfigError: max_layer is out of range.
        CorruptFile: a tensor is missing or of another shape than the architecture says.
    """
    if max_layer is not None and not 0 <= max_layer <= architecture.layers:
        raise ConfigError(f"max_layer is {max_layer}, but {name} has layers 0 .. {architecture.layers}")
    identity = {
        "family": family,
        "weights_sha256": hash_weights(weights),
        "sampling_rate": sampling_rate,
        "normalization": "none" if waveform_epsilon is None else "utterance",
        "normalization_epsilon": waveform_epsilon,
        "dtype": dtype,
        "strides": list(architecture.strides),
        "heads": architecture.heads,
        "pre_norm": architecture.pre_norm,
        "norm_epsilon": architecture.norm_epsilon,
        "max_distance": architecture.max_distance,
    }
    reader = WeightReader(name, weights, device, getattr(torch, dtype))
    return Wav2Vec2(reader, architecture, identity, architecture.layers if max_layer is None else max_layer)


class Wav2Vec2:
    """An upstream (see Upstream) of the wav2vec2 family.

    Attributes:
        loaded_layers: the highest layer that can be asked for.
        one_by_one: whether utterances are computed one at a time; true on a CPU.
    """

    def __init__(
        self, reader: WeightReader, architecture: Architecture, identity: dict[str, Any], loaded_layers: int
    ) -> None:
        self.name = reader.name
        self.architecture = architecture
        self.identity = identity
        self.device = reader.device
        self.one_by_one = reader.device.type == "cpu"
        self.loaded_layers = loaded_layers
        self.sampling_rate: int = identity["sampling_rate"]
        self.hop_samples = architecture.hop_samples
        self.min_samples = architecture.min_samples
        self.num_layers = architecture.layers
        self.width = architecture.width
        self._epsilon: float | None = identity["normalization_epsilon"]
        self._window = architecture.kernels[0] if architecture.front_norm == "group" else 0
        self._front = ConvFront(reader, architecture)
        channels = architecture.channels[-1]
        self._projection_norm = (
            reader.norm("feature_projection.layer_norm", channels) if architecture.projection_norm else None
        )
        self._projection = reader.linear("feature_projection.projection", channels, architecture.width)
        self._position = PositionConv(reader, architecture)
        self._norm = reader.norm("encoder.layer_norm", architecture.width)
        self._blocks: list[Run] = [Block(reader, architecture, index) for index in range(loaded_layers)]
        self._distances: torch.Tensor | None = None
        if architecture.buckets:
            shape = (architecture.buckets, architecture.heads)
            self._distances = reader.take("encoder.layers.0.attention.rel_attn_embed.weight", shape).to(reader.dtype)

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform of `num_samples`; nothing is padded."""
        return self.architecture.num_frames(num_samples)

    def compile(self) -> None:
        """Let torch.compile fuse the blocks; the first passes then take a minute, and rounding changes a little."""
        self._blocks = [torch.compile(block, dynamic=True) for block in self._blocks]

    def statistics(self, chunks: Iterable[torch.Tensor]) -> torch.Tensor:
        """Moments of a whole recording's samples, which its windows are normalised with; none where nothing is."""
        if self._epsilon is None and not self._window:
            return torch.zeros(0, dtype=torch.float64)
        return gather(chunks, self._window, self.architecture.strides[0]).pack()

    def extract(
        self,
        waveforms: torch.Tensor,
        lengths: torch.Tensor,
        layers: Sequence[int],
        statistics: Sequence[torch.Tensor] | None = None,
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """Features of several layers from one pass; see Upstream."""
        samples = lengths.tolist()
        self._check(samples, layers)
        frames = [self.num_frames(count) for count in samples]
        moments = [None] * len(samples) if statistics is None else [Moments.unpack(s, self._window) for s in statistics]
        with torch.no_grad():
            utterances = [waveforms[row, :count].to(self.device, torch.float32) for row, count in enumerate(samples)]
            if not self.one_by_one:
                features = self._compute(utterances, moments, layers)
            else:
                shape = (len(frames), max(frames), self.width)
                features = {layer: torch.zeros(shape, device=self.device) for layer in layers}
                for row, utterance in enumerate(utterances):
                    alone = self._compute([utterance], moments[row : row + 1], layers)
                    for layer in layers:
                        features[layer][row, : frames[row]] = alone[layer][0]
        return features, torch.tensor(frames)

    def _check(self, samples: list[int], layers: Sequence[int]) -> None:
        if not layers:
            raise ConfigError("no layer was asked for")
        for layer in layers:
            if not 0 <= layer <= self.num_layers:
                raise ConfigError(f"layer {layer} is out of range: {self.name} has layers 0 .. {self.num_layers}")
            if layer > self.loaded_layers:
                raise ConfigError(
                    f"layer {layer} was not loaded: {self.name} was loaded with max_layer {self.loaded_layers}"
                )
        if min(samples) < self.min_samples:
            raise ConfigError(f"a waveform of {min(samples)} samples is too short: {self.min_samples} give one frame")

    def _compute(
        self, utterances: list[torch.Tensor], moments: Sequence[Moments | None], layers: Sequence[int]
    ) -> dict[int, torch.Tensor]:
        """One padded batch: {layer: (B, F, D) float32, zero beyond each utterance's frames}."""
        scaled, first = zip(*map(self._scale, utterances, moments), strict=True)
        waveforms = torch.nn.utils.rnn.pad_sequence(list(scaled), batch_first=True)
        frames = torch.tensor([self.num_frames(len(utterance)) for utterance in utterances], device=self.device)
        hidden = self._front(waveforms, torch.stack(first))
        padding: torch.Tensor | None = None
        if len(utterances) > 1:
            padding = torch.arange(hidden.shape[1], device=self.device) >= frames[:, None]  # (B, F)
        features = {}
        for layer, output in enumerate(self._layers(hidden, padding, max(layers))):
            if layer in layers:
                output = output.float()
                features[layer] = output if padding is None else output.masked_fill(padding[:, :, None], 0.0)
        return features

    def _scale(self, samples: torch.Tensor, moments: Moments | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The normalised waveform, and the first convolution's weights for it."""
        if self._epsilon is None and not self._window:
            return samples, self._front.unfolded
        if moments is None:
            moments = gather([samples], self._window, self.architecture.strides[0])
        else:
            moments = Moments(moments.samples.to(samples.device), moments.windows.to(samples.device))
        mean, variance = moments.waveform()
        # A group norm takes the mean away in any case; before the first convolution, fewer digits are lost.
        gain = torch.ones_like(mean) if self._epsilon is None else torch.rsqrt(variance + self._epsilon)
        first = self._front.fold(Scaling(mean, gain), moments) if self._window else self._front.unfolded
        return (samples - mean.float()) * gain.float(), first

    def _layers(self, hidden: torch.Tensor, padding: torch.Tensor | None, highest: int) -> Iterable[torch.Tensor]:
        """The input to block 1, then each block's output up to `highest`, each (B, F, D)."""
        if self._projection_norm is not None:
            hidden = F.layer_norm(hidden, hidden.shape[-1:], *self._projection_norm, self.architecture.norm_epsilon)
        hidden = F.linear(hidden, *self._projection)
        by_frame = by_key = None
        if padding is not None:
            by_frame, by_key = padding[:, :, None], padding[:, None, None, :]
        hidden = hidden + self._position(hidden, by_frame)
        if not self.architecture.pre_norm:
            hidden = F.layer_norm(hidden, hidden.shape[-1:], *self._norm, self.architecture.norm_epsilon)
        yield hidden
        positions = None
        if self._distances is not None:
            positions = RelativePosition(self._distances, hidden.shape[1], self.architecture.max_distance)
        for block in self._blocks[:highest]:
            hidden = block(hidden, by_key, positions)
            yield hidden
