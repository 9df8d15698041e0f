"""HuBERT models to train: their shape, their first weights, their frames, and how they are saved."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from transformers import HubertConfig, HubertModel

from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import write_bytes, write_json
from voxtok.tokenize.architecture import Architecture, from_config

RATE = 16000
PREPROCESSOR = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": RATE, "do_normalize": True}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a HuBERT model with a layer-norm front and pre-norm blocks ("stable layer norm").

    Both make features independent of padding. The front sees 400 samples and moves by 320, as HuBERT's does, but its
    channels may be few and its steps large: at full width it takes half of the time of a base model.
    """

    width: int
    """Of a frame."""
    blocks: int
    """Transformer blocks."""
    heads: int
    """Of attention."""
    inner: int
    """Width of the feed-forward layers."""
    channels: tuple[int, ...]
    """Outputs of each convolution of the front."""
    kernels: tuple[int, ...]
    """Kernel of each convolution."""
    strides: tuple[int, ...]
    """Stride of each convolution."""
    positions: int
    """Kernel of the positional convolution, in frames."""
    position_groups: int
    """Its groups."""
    dropout: float = 0.0
    """After embeddings, attention and feed-forward layers."""
    gabor: bool = False
    """Begin with a first convolution of mel-spaced Gabor filters, in place of a random one."""

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.kernels) == len(self.strides):
            raise ConfigError("model.channels, model.kernels and model.strides need one number a convolution each")
        if self.gabor and self.channels[0] % 4:
            raise ConfigError("model.gabor needs a first convolution whose channels are a multiple of 4")
        if self.width % self.heads or self.width % self.position_groups:
            raise ConfigError("model.width must be a multiple of model.heads and of model.position_groups")


def new_model(shape: Shape) -> HubertModel:
    """A model with random weights; `torch.manual_seed` decides which."""
    config = HubertConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        conv_dim=list(shape.channels),
        conv_kernel=list(shape.kernels),
        conv_stride=list(shape.strides),
        feat_extract_norm="layer",
        conv_bias=True,
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=shape.positions,
        num_conv_pos_embedding_groups=shape.position_groups,
        hidden_dropout=shape.dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.05,  # above zero, or transformers makes no mask embedding
    )
    model = HubertModel(config)
    if shape.gabor:
        set_gabor(cast(torch.nn.Conv1d, model.get_submodule("feature_extractor.conv_layers.0.conv")))
    return model


def set_gabor(convolution: torch.nn.Conv1d) -> None:
    """Make the filters of a convolution over samples mel-spaced Gabor functions, each in four phases.

    After the half-wave rectification that follows, the four phases of a band add up to its envelope, so the layers
    above begin with something like a mel filter bank (as in SincNet and LEAF). Higher bands weigh more, as speech has
    less power there.
    """
    channels, _, kernel = convolution.weight.shape
    bands = channels // 4
    mel = torch.linspace(1127 * math.log1p(60 / 700), 1127 * math.log1p(7800 / 700), bands + 2)
    edges_hz = 700 * torch.expm1(mel / 1127)
    time_s = (torch.arange(kernel) - kernel / 2 + 0.5) / RATE
    centre_hz, width_hz = edges_hz[1:-1, None], (edges_hz[2:] - edges_hz[:-2])[:, None] / 2  # (bands, 1)
    spread_s = (1.2 / (2 * math.pi * width_hz)).clamp_max(kernel / RATE / 4.5)
    envelope = torch.exp(-0.5 * (time_s / spread_s) ** 2)  # (bands, kernel)
    envelope = 0.5 * envelope / envelope.norm(dim=1, keepdim=True) * (centre_hz / 500).sqrt()
    phase = torch.arange(4)[:, None, None] * math.pi / 2
    filters = envelope * torch.cos(2 * math.pi * centre_hz * time_s + phase)  # (4, bands, kernel)
    with torch.no_grad():
        convolution.weight.copy_(filters.transpose(0, 1).reshape(channels, 1, kernel))
        if convolution.bias is not None:
            convolution.bias.normal_(0, 0.1)  # silence is told from speech by what the bias leaves of it


def start_model(shape: Shape, init: str | None, device: torch.device) -> HubertModel:
    """A new model on a device, with the weights of the checkpoint folder `init` where one is given.

    Raises:
        ConfigError: the checkpoint is of another shape.
    """
    model = new_model(shape)
    torch.nn.Module.to(model, device)
    if init is None:
        return model
    found: HubertModel = HubertModel.from_pretrained(init, local_files_only=True, dtype=torch.float32)
    try:
        model.load_state_dict(found.state_dict())
    except RuntimeError as error:
        raise ConfigError(f"{init} has another shape than `model` says: {error}") from error
    return model


def hidden_frames(
    model: HubertModel, waveforms: torch.Tensor, mask: torch.Tensor | None, blocks: Sequence[int]
) -> list[torch.Tensor]:
    """(B, F, width) of each block, 1-based; the last one after the encoder's final norm, which it is trained with.

    Block 0 alone is the projected front, without masks, positions and anything above.
    """
    num_frames = architecture_of(model).num_frames(waveforms.shape[1])
    if not len(waveforms):  # a rank without a crop of a small batch; attention takes no empty batches
        return [waveforms.new_zeros(0, num_frames, model.config.hidden_size) for _ in blocks]
    if tuple(blocks) == (0,):
        features = model.feature_projection(model.feature_extractor(waveforms).transpose(1, 2))
        return [features[0] if isinstance(features, tuple) else features]
    if mask is None:  # else transformers draws a mask of its own while training
        mask = torch.zeros(len(waveforms), num_frames, dtype=torch.bool, device=waveforms.device)
    last = model.config.num_hidden_layers
    output = model(waveforms, mask_time_indices=mask, output_hidden_states=tuple(blocks) != (last,))
    return [output.last_hidden_state if block == last else output.hidden_states[block] for block in blocks]


def hidden_frames_and_raw(
    model: HubertModel, waveforms: torch.Tensor, mask: torch.Tensor | None, blocks: Sequence[int]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """As `hidden_frames`, and the last block's (B, F, width) before the final norm: what an upstream's layer is."""
    raw: list[torch.Tensor] = []
    hook = model.encoder.layer_norm.register_forward_pre_hook(lambda _, inputs: raw.append(inputs[0]))
    try:
        hidden = hidden_frames(model, waveforms, mask, blocks)
    finally:
        hook.remove()
    return hidden, raw[0] if raw else hidden[-1]  # without a crop nothing runs


def architecture_of(model: HubertModel) -> Architecture:
    """Hop, window and frames of a model."""
    return from_config(model.config, "this model")


def save_model(model: HubertModel, folder: Path, dtype: torch.dtype) -> None:
    """Write an ordinary checkpoint folder, whole or not at all: config.json, preprocessor_config.json, safetensors."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    weights = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    model.save_pretrained(partial, state_dict=weights)
    written = partial / "model.safetensors"
    write_bytes(written, written.read_bytes())  # save_pretrained lets none but the owner read it
    write_json(partial / "preprocessor_config.json", PREPROCESSOR)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
