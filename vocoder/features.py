"""Features as voices: the layer of an SSL model that a pool, a conversion and a feature vocoder have in common.

Two of them go together if their features have one fingerprint: the same weights, normalisation, number format and
layer. Windows are not part of it: they change a feature by the reach of attention only, and a stream needs short ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from lhotse.cut import Cut

from voxtok.manifests.audio import Samples
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import BadAudio, ConfigError, CorruptFile, TokenizerMismatch
from voxtok.runtime.files import sha256
from voxtok.tokenize.extract import ExtractConfig, extract, extract_arrays
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.tokenizer_folder import from_anywhere
from voxtok.tokenize.upstream import Dtype, Normalization, Upstream
from voxtok.tokenize.windows import WindowConfig


def features_fingerprint(upstream: Upstream, layers: Sequence[int]) -> str:
    """Identity of features, layers side by side, as vocoders of features carry it: SHA-256 of model and layers."""
    return identity_fingerprint(upstream.identity, layers)


def identity_fingerprint(upstream: dict[str, Any], layers: Sequence[int]) -> str:
    """As `features_fingerprint`, of the upstream's identity as files carry it; needs no model."""
    return sha256({"format": ["voxtok-features", 1], "upstream": upstream, "layers": list(layers)})


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Which features: kNN-VC's are layer 6 of WavLM-Large, normalization none (Baas et al. 2023)."""

    upstream: str
    """mini, a Hugging Face folder or id, torchaudio:NAME, ...: where to find the weights, not which they are."""
    layer: int
    """Output of this transformer block, 1-based; 0 is the input to block 1."""
    normalization: Normalization
    """Waveform normalisation: checkpoint, utterance or none."""
    dtype: Dtype = "float32"
    """Number format that the SSL model computes in."""


@dataclass(frozen=True, eq=False)
class Features:
    """An SSL model open at one layer.

    Example: `Features.open(FeatureConfig(upstream="mini", layer=1, normalization="none"), device="auto")`.
    """

    config: FeatureConfig
    upstream: Upstream

    def __post_init__(self) -> None:
        if not 0 <= self.config.layer <= self.upstream.num_layers:
            raise ConfigError(
                f"layer {self.config.layer} is not one of {self.config.upstream}'s 0 .. {self.upstream.num_layers}"
            )

    @classmethod
    def open(cls, config: FeatureConfig, *, device: str) -> "Features":
        """Load the model.

        Raises:
            ConfigError: the name leads nowhere, or the model lacks the layer.
        """
        model = load_upstream(
            config.upstream,
            device=pick_device(device),
            dtype=config.dtype,
            normalization=config.normalization,
            max_layer=config.layer,
        )
        return cls(config, model)

    @classmethod
    def reopen(cls, described: dict[str, Any], *, device: str) -> "Features":
        """Load the model that `description` names.

        Raises:
            CorruptFile: not such a description.
            TokenizerMismatch: the model found is not the one described.
        """
        try:
            config = FeatureConfig(**{field.name: described[field.name] for field in fields(FeatureConfig)})
        except (KeyError, TypeError) as error:
            raise CorruptFile(f"a description of features lacks {error}") from error
        found = cls.open(config, device=device)
        require_same_features(described, found.description, config.upstream)
        return found

    @property
    def fingerprint(self) -> str:
        """Identity of the features: what changes them, windows aside."""
        return features_fingerprint(self.upstream, [self.config.layer])

    @property
    def description(self) -> dict[str, Any]:
        """The configuration, the identity and the fingerprint as JSON, for files that are made of features."""
        named = asdict(self.config) | {"upstream": from_anywhere(self.config.upstream)}
        return {**named, "identity": self.upstream.identity, "fingerprint": self.fingerprint}

    @property
    def width(self) -> int:
        """Dimensions of a frame."""
        return self.upstream.width

    def of_samples(self, samples: Samples, windows: WindowConfig | None) -> torch.Tensor:
        """Features of one recording in memory, at the upstream's rate: (N, D) float32 on the CPU.

        Raises:
            ConfigError: too short for one frame, or features that are not finite.
        """
        if len(samples) < self.upstream.min_samples:
            raise ConfigError(f"{len(samples)} samples are too short: one frame needs {self.upstream.min_samples}")
        extraction = ExtractConfig(windows=windows)
        return extract_arrays([samples], self.upstream, [self.config.layer], self.of_layer, extraction)[0]

    def of_cuts(self, cuts: Iterable[Cut], extraction: ExtractConfig) -> Iterator[tuple[Cut, torch.Tensor | BadAudio]]:
        """Each cut with its (N, D) float32 features on the CPU, or with why it has none, in order."""
        return extract(cuts, self.upstream, [self.config.layer], self.of_layer, extraction)

    def of_layer(self, features: dict[int, torch.Tensor]) -> torch.Tensor:
        """The one layer of {layer: (N, D)}."""
        return features[self.config.layer]


def require_same_features(expected: dict[str, Any], found: dict[str, Any], where: str) -> None:
    """Refuse features of another model or layer.

    Raises:
        TokenizerMismatch: names both.
    """
    if expected["fingerprint"] != found["fingerprint"]:
        raise TokenizerMismatch(
            f"{where} has features of {_named(found)}, where those of {_named(expected)} are needed: "
            "compute both with one upstream, layer and normalization"
        )


def _named(described: dict[str, Any]) -> str:
    of = f"layer {described['layer']} of {described['upstream']}, normalization {described['normalization']}"
    return f"{of} ({described['dtype']}, {described['fingerprint'][:12]})"
