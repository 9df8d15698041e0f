"""The shape of a wav2vec2-family network: what its weights alone do not say, read from a configuration."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from voxtok.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """HuBERT, WavLM, wav2vec 2.0, data2vec-audio and UniSpeech-SAT differ in these numbers only.

    Attributes:
        kernels: of each convolution of the front, in frames of the one below (samples for the first).
        strides: likewise.
        channels: outputs of each convolution.
        conv_bias: whether the convolutions have biases.
        front_norm: "group" normalises the first convolution's channels over time, "layer" every frame of each.
        projection_norm: whether a layer norm comes before the projection to `width`.
        position: "conv" (one, weight-normed), "batch-norm" (one, after a batch norm) or "stack" (data2vec's).
        position_kernel: frames of the positional convolution, or of each of the stack.
        position_groups: its groups.
        position_depth: convolutions in it.
        width: of a frame, from the projection up.
        inner: width of the feed-forward layers.
        layers: transformer blocks.
        heads: of attention.
        pre_norm: norms come before attention and feed-forward ("stable layer norm"), not after.
        norm_epsilon: of the layer norms from the projection up; the front's are 1e-5.
        buckets: of WavLM's relative positions; 0 where attention has none.
        max_distance: frames beyond which WavLM's relative positions share a bucket.
    """

    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    conv_bias: bool
    front_norm: Literal["group", "layer"]
    projection_norm: bool
    position: Literal["conv", "batch-norm", "stack"]
    position_kernel: int
    position_groups: int
    position_depth: int
    width: int
    inner: int
    layers: int
    heads: int
    pre_norm: bool
    norm_epsilon: float
    buckets: int
    max_distance: int

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(self.strides)

    @property
    def min_samples(self) -> int:
        """Samples that one frame sees.

        Worked: kernels 10 3 3 3 3 2 2 and strides 5 2 2 2 2 2 2 need 1, 2, 4, 9, 19, 39, 79 frames, then 400 samples.
        """
        frames = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            frames = (frames - 1) * stride + kernel
        return frames

    def num_frames(self, num_samples: int) -> int:
        """Frames of `num_samples`: nothing is padded, so 16000 samples give 49."""
        frames = num_samples
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            frames = (frames - kernel) // stride + 1
        return max(frames, 0)


def from_config(config: Any, name: str) -> Architecture:
    """Read a transformers configuration.

    Args:
        config: HubertConfig, WavLMConfig, Wav2Vec2Config, Data2VecAudioConfig, UniSpeechConfig or UniSpeechSatConfig.
        name: of the checkpoint, for the errors.

    Raises:
        ConfigError: an activation or an attention adapter that is not known here.
    """
    activations = {config.hidden_act, config.feat_extract_activation}
    if activations != {"gelu"}:
        raise ConfigError(f"{name}: the activations are {sorted(activations)}; only gelu is known")
    if getattr(config, "adapter_attn_dim", None) is not None:
        raise ConfigError(f"{name}: attention adapters (adapter_attn_dim) are not known; use the model without them")
    stack = config.model_type == "data2vec-audio"
    batch_norm = getattr(config, "conv_pos_batch_norm", False)
    return Architecture(
        kernels=tuple(config.conv_kernel),
        strides=tuple(config.conv_stride),
        channels=tuple(config.conv_dim),
        conv_bias=config.conv_bias,
        front_norm="layer" if stack else config.feat_extract_norm,
        projection_norm=getattr(config, "feat_proj_layer_norm", True),
        position="stack" if stack else "batch-norm" if batch_norm else "conv",
        position_kernel=config.conv_pos_kernel_size if stack else config.num_conv_pos_embeddings,
        position_groups=config.num_conv_pos_embedding_groups,
        position_depth=config.num_conv_pos_embeddings if stack else 1,
        width=config.hidden_size,
        inner=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        pre_norm=not stack and config.do_stable_layer_norm,
        norm_epsilon=config.layer_norm_eps,
        buckets=config.num_buckets if config.model_type == "wavlm" else 0,
        max_distance=config.max_bucket_distance if config.model_type == "wavlm" else 0,
    )
