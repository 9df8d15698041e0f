"""torchaudio's HUBERT_*, WAVLM_* and WAV2VEC2_* bundles: their state dicts under Hugging Face's names.

torchaudio normalises waveforms over the whole batch and cannot mask WavLM's attention; computed here, features do not
depend on batch-mates. Its architectures are those of Hugging Face, so mapping the names is all there is to it.
"""

import os
import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.architecture import Architecture
from voxtok.tokenize.upstream import Dtype, Normalization
from voxtok.tokenize.wav2vec2 import Wav2Vec2, build
from voxtok.tokenize.weights import Weights, read_weights

FAIRSEQ_EPSILON = 1e-5
"""Added to the variance by fairseq and torchaudio, where Hugging Face adds 1e-7."""


def load_bundle(
    name: str, *, device: torch.device, dtype: Dtype, normalization: Normalization, max_layer: int | None
) -> Wav2Vec2:
    """Load a bundle's architecture with its own weights, which torchaudio downloads once, or with a file's.

    Args:
        name: of the bundle, such as "HUBERT_BASE", or "HUBERT_BASE=path" of a state dict (torch.save or safetensors).
        device, dtype, normalization, max_layer: as for `load_upstream`.

    Raises:
        ConfigError: there is no such bundle or file, or the download failed.
        CorruptFile: the file is not that bundle's state dict.
    """
    import torchaudio

    bundle_name, _, path = name.partition("=")
    known = [each for each in dir(torchaudio.pipelines) if each.startswith(("HUBERT_", "WAVLM_", "WAV2VEC2_"))]
    if bundle_name not in known:
        raise ConfigError(f"torchaudio has no bundle {bundle_name!r}; it has {', '.join(known)}")
    bundle = getattr(torchaudio.pipelines, bundle_name)
    normalize = bundle._normalize_waveform if normalization == "checkpoint" else normalization == "utterance"
    return build(
        f"torchaudio:{name}",
        "wavlm" if bundle._model_type == "WavLM" else "wav2vec2",
        rename(_from_file(Path(path).expanduser()) if path else _download(bundle_name, bundle)),
        from_params(bundle._params),
        sampling_rate=int(bundle.sample_rate),
        waveform_epsilon=FAIRSEQ_EPSILON if normalize else None,
        device=device,
        dtype=dtype,
        max_layer=max_layer,
    )


def _from_file(path: Path) -> Weights:
    if not path.is_file():
        raise ConfigError(f"{path}: no such checkpoint file")
    return read_weights(path)


def _download(name: str, bundle: Any) -> Weights:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(bundle._path).name
    if not cached.exists() and os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        raise ConfigError(f"torchaudio:{name}: {cached} is not there and HF_HUB_OFFLINE is set; give {name}=path")
    try:
        weights: Weights = bundle._get_state_dict({"map_location": "cpu", "weights_only": True})
    except URLError as error:
        raise ConfigError(f"torchaudio:{name} could not be downloaded ({error.reason}); give {name}=path") from error
    return weights


def from_params(params: dict[str, Any]) -> Architecture:
    """Read the arguments with which torchaudio builds a model."""
    channels, kernels, strides = zip(*params["extractor_conv_layer_config"], strict=True)
    return Architecture(
        kernels=kernels,
        strides=strides,
        channels=channels,
        conv_bias=params["extractor_conv_bias"],
        front_norm="group" if params["extractor_mode"] == "group_norm" else "layer",
        projection_norm=True,
        position="conv",
        position_kernel=params["encoder_pos_conv_kernel"],
        position_groups=params["encoder_pos_conv_groups"],
        position_depth=1,
        width=params["encoder_embed_dim"],
        inner=params["encoder_ff_interm_features"],
        layers=params["encoder_num_layers"],
        heads=params["encoder_num_heads"],
        pre_norm=params["encoder_layer_norm_first"],
        norm_epsilon=1e-5,
        buckets=params.get("encoder_num_buckets", 0),
        max_distance=params.get("encoder_max_distance", 0),
    )


def rename(weights: Weights) -> Weights:
    """A state dict of torchaudio's Wav2Vec2Model under Hugging Face's names; heads are dropped.

    WavLM's three input projections, one matrix there, are taken apart.
    """
    renamed: Weights = {}
    for name, tensor in weights.items():
        short = re.sub(r"^model\.", "", name)
        short = re.sub(r"^encoder\.(transformer\.)?(?=feature_projection|pos_conv|layer)", r"\1", short)
        short = short.replace("transformer.", "encoder.").replace(".attention.attention.", ".attention.")
        short = short.replace("conv.weight_g", "conv.parametrizations.weight.original0")
        short = short.replace("conv.weight_v", "conv.parametrizations.weight.original1")
        found = re.fullmatch(r"(.+\.attention\.)in_proj_(weight|bias)", short)
        if found:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{found[1]}{part}_proj.{found[2]}"] = third
        elif short.startswith(("feature_extractor.", "feature_projection.", "encoder.")):
            renamed[short] = tensor
    return renamed
