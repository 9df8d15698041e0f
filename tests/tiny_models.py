"""Tiny models with random weights of every architecture, saved as a user's checkpoint would be.

Every parameter is random, norms and biases included, so that leaving one out shows. The convolutional front keeps the
real kernels and strides: one frame per 320 samples.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers

HIDDEN = 32
HEADS = 4
LAYERS = 3
CHANNELS = 24

WAV2VEC2_KINDS = (
    "hubert-base",
    "hubert-large",
    "wavlm-base",
    "wavlm-large",
    "wav2vec2-base",
    "wav2vec2-large",
    "data2vec-audio",
    "unispeech-sat-base",
    "unispeech-sat-large",
)
"""`base` has a group-norm front and post-norm blocks, `large` a layer-norm front and pre-norm blocks."""


def tiny_config(kind: str) -> transformers.PreTrainedConfig:
    """The configuration of a tiny model of one of WAV2VEC2_KINDS, "wav2vec2-bert" or "whisper"."""
    shared: dict[str, Any] = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 48,
    }
    family, _, size = kind.rpartition("-")
    if kind == "wav2vec2-bert":
        return transformers.Wav2Vec2BertConfig(**shared, feature_projection_input_dim=160)
    if kind == "whisper":
        return transformers.WhisperConfig(
            d_model=HIDDEN, encoder_layers=LAYERS, encoder_attention_heads=HEADS, encoder_ffn_dim=48,
            decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32, num_mel_bins=80, vocab_size=64,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )  # fmt: skip
    shared |= {"conv_dim": (CHANNELS,) * 7, "num_conv_pos_embedding_groups": 4}
    if kind == "data2vec-audio":
        return transformers.Data2VecAudioConfig(**shared, conv_pos_kernel_size=19, num_conv_pos_embeddings=3)
    shared |= {"num_conv_pos_embeddings": 128}
    if size == "large":
        shared |= {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    match family:
        case "hubert":
            return transformers.HubertConfig(**shared)
        case "wavlm":
            return transformers.WavLMConfig(**shared, num_buckets=32, max_bucket_distance=80)
        case "wav2vec2":
            return transformers.Wav2Vec2Config(**shared)
        case "unispeech-sat":
            return transformers.UniSpeechSatConfig(**shared)
        case _:
            raise ValueError(kind)


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Give every parameter a random value of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() < 2 or "const" in name or "original0" in name:
                centre = 0.0 if name.endswith("bias") else 1.0
                parameter.copy_(centre + 0.3 * noise)
            else:
                fan_in = parameter[0].numel()
                parameter.copy_(noise * (1.5 / fan_in**0.5 if "embed" not in name else 1.0))


def tiny_model(kind: str, seed: int = 0) -> transformers.PreTrainedModel:
    """A tiny model of the kind, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: transformers.PreTrainedModel = transformers.AutoModel.from_config(tiny_config(kind))
    randomize(model, seed)
    model.eval()
    return model


def save_tiny(kind: str, folder: Path, *, do_normalize: bool = True, seed: int = 0) -> Path:
    """Save a tiny model and its preprocessor as `save_pretrained` does, in `folder`, which is returned."""
    tiny_model(kind, seed).save_pretrained(folder)
    if kind == "whisper":
        transformers.WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    elif kind == "wav2vec2-bert":
        transformers.SeamlessM4TFeatureExtractor().save_pretrained(folder)
    else:
        preprocessor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000}
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor | {"do_normalize": do_normalize}))
    return folder
