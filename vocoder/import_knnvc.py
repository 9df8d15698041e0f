"""`voxtok import-knnvc`: kNN-VC's published HiFi-GAN -> a vocoder folder.

The file (g_02500000.pt or prematch_g_02500000.pt of github.com/bshall/knn-vc) is read without running code. Its
features are layer 6 of WavLM-Large, of waveforms that are not normalised: give that model, and the vocoder refuses any
other.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError, CorruptFile, one_line
from voxtok.tokenize.upstream import Normalization
from voxtok.tokenize.weights import Weights
from voxtok.vocoder.features import FeatureConfig, Features
from voxtok.vocoder.model import VocoderModel
from voxtok.vocoder.model_config import Facts, HifiganConfig, ModelConfig
from voxtok.vocoder.vocoder import Vocoder

PUBLISHED = HifiganConfig(channels=512, upsample_factors=(10, 8, 2, 2), upsample_kernels=(20, 16, 4, 4))
"""Shape of the published generator, as hifigan/config_v1_wavlm.json has it."""
SAMPLING_RATE = 16000


@dataclass(frozen=True, kw_only=True)
class ImportKnnvcConfig:
    """Turn kNN-VC's vocoder checkpoint into a vocoder folder."""

    checkpoint: str
    """The .pt file."""
    out: str
    """Vocoder folder to write."""
    shape: str | None = None
    """The JSON config that the checkpoint was trained with, where it is not the published config_v1_wavlm.json."""
    upstream: str | None = None
    """The SSL model whose features it takes, such as microsoft/wavlm-large or a folder; null accepts any features of
    the right width."""
    layer: int | None = None
    """Its layer, with --upstream: 6 for the published checkpoint."""
    normalization: Normalization | None = None
    """Its waveform normalisation, with --upstream: none for the published checkpoint."""

    def __post_init__(self) -> None:
        if len({part is None for part in (self.upstream, self.layer, self.normalization)}) != 1:
            raise ConfigError("--upstream, --layer and --normalization are given together")


def import_knnvc(config: ImportKnnvcConfig) -> Vocoder:
    """Write the vocoder folder.

    Raises:
        CorruptFile: the file holds no such generator.
        ConfigError: the shape is another, or the upstream's frames are of another width or hop.
    """
    weights = plain_weights(read_generator(config.checkpoint), config.checkpoint)
    shape = PUBLISHED if config.shape is None else read_shape(config.shape)
    model = build(weights, shape, config.checkpoint)
    vocoder = Vocoder(VocoderModel(model.config, _checked(model.facts, config)).eval())
    vocoder.model.load_state_dict(model.state_dict())
    vocoder.save(config.out)
    return vocoder


def read_generator(path: Path | str) -> Weights:
    """The state dict under `generator`.

    Raises:
        CorruptFile: it cannot be read without running code, or holds something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever it stumbles over
        raise CorruptFile(f"{path} cannot be read as a checkpoint: {one_line(error)}") from error
    found = content.get("generator") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise CorruptFile(f"{path} has no state dict under 'generator': give the g_... file, not the do_... one")
    return found


def plain_weights(weights: Mapping[str, torch.Tensor], name: str) -> Weights:
    """Weights with their normalisation multiplied out: g v / |v|, the norm being over all but the first dimension.

    Raises:
        CorruptFile: a direction without its length.
    """
    plain: Weights = {}
    for key, tensor in weights.items():
        if key.endswith(".weight_g"):
            continue
        if not key.endswith(".weight_v"):
            plain[key] = tensor.float()
            continue
        stem = key.removesuffix("_v")
        if f"{stem}_g" not in weights:
            raise CorruptFile(f"{name} has {key} and not {stem}_g")
        norms = torch.linalg.vector_norm(tensor.double(), dim=tuple(range(1, tensor.ndim)), keepdim=True)
        plain[stem] = (weights[f"{stem}_g"].double() * tensor.double() / norms).float()
    return plain


def read_shape(path: Path | str) -> HifiganConfig:
    """The generator's shape in a JSON file of HiFi-GAN's field names.

    Raises:
        CorruptFile: not such a file.
        ConfigError: blocks of another type, or dilations that differ between kernels.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        dilations = {tuple(each) for each in found["resblock_dilation_sizes"]}
        kind = str(found["resblock"])
        shape = HifiganConfig(
            channels=found["upsample_initial_channel"],
            upsample_factors=tuple(found["upsample_rates"]),
            upsample_kernels=tuple(found["upsample_kernel_sizes"]),
            block_kernels=tuple(found["resblock_kernel_sizes"]),
            block_dilations=next(iter(dilations)),
        )
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise CorruptFile(f"{path} is not a config of HiFi-GAN: {one_line(error)}") from error
    if kind != "1" or len(dilations) != 1:
        raise ConfigError(f"{path}: residual blocks of type 1 with equal dilations are known, not these")
    return shape


def build(weights: Mapping[str, torch.Tensor], shape: HifiganConfig, name: str) -> VocoderModel:
    """The network with these weights.

    Raises:
        CorruptFile: a tensor is missing, unknown or of another shape.
    """
    projection = weights.get("lin_pre.weight")
    if projection is None or projection.ndim != 2:
        raise CorruptFile(f"{name} has no lin_pre.weight: it is not kNN-VC's generator")
    width, feature_width = projection.shape
    hop_samples = 1
    for factor in shape.upsample_factors:
        hop_samples *= factor
    config = ModelConfig(generator="plain-hifigan", width=width, hifigan=shape)
    facts = Facts(sampling_rate=SAMPLING_RATE, hop_samples=hop_samples, inputs="features", feature_width=feature_width)
    model = VocoderModel(config, facts)
    named: dict[str, Any] = {
        "inputs.content.mean": torch.zeros(feature_width),
        "inputs.content.scale": torch.ones(feature_width),
    }
    for key, tensor in weights.items():
        parts = {"lin_pre.weight": "inputs.content.project.weight", "lin_pre.bias": "inputs.content.project.bias"}
        named[parts.get(key, f"generator.net.{key}")] = tensor
    try:
        model.load_state_dict(named)
    except RuntimeError as error:
        raise CorruptFile(f"{name} is not a generator of this shape: {str(error)[:300]}") from error
    return model


def _checked(facts: Facts, config: ImportKnnvcConfig) -> Facts:
    """The facts with the fingerprint of the upstream's features."""
    if config.upstream is None or config.layer is None or config.normalization is None:
        return facts
    wanted = FeatureConfig(upstream=config.upstream, layer=config.layer, normalization=config.normalization)
    features = Features.open(wanted, device="cpu")
    found = (features.width, features.upstream.hop_samples)
    if found != (facts.feature_width, facts.hop_samples):
        raise ConfigError(
            f"{config.upstream} has frames of {found[0]} dimensions every {found[1]} samples, "
            f"the checkpoint is for {facts.feature_width} and {facts.hop_samples}"
        )
    return Facts(
        sampling_rate=features.upstream.sampling_rate,
        hop_samples=facts.hop_samples,
        inputs="features",
        feature_width=facts.feature_width,
        features=features.fingerprint,
    )


def main(argv: Sequence[str]) -> int:
    """The command `voxtok import-knnvc`."""
    config = parse(ImportKnnvcConfig, argv, "voxtok import-knnvc")
    vocoder = import_knnvc(config)
    print(f"vocoder of {vocoder.width}-dimensional features, {vocoder.hop_samples} samples a frame -> {config.out}")
    return 0
