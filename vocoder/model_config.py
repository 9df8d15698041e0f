"""What a vocoder is made of: the shape that a user chooses, and the facts that follow from what it was trained on."""

from dataclasses import dataclass, field
from typing import Literal

from voxtok.runtime.errors import ConfigError

Inputs = Literal["tokens", "features"]
SpeakerInput = Literal["none", "table", "embedding"]


@dataclass(frozen=True, kw_only=True)
class IstftConfig:
    """A ConvNeXt backbone and an inverse STFT, in the manner of Vocos (Siuzdak 2023)."""

    width: int = 512
    """Channels of the backbone."""
    expansion: int = 3
    """Hidden width of a block over its width."""
    coarse_blocks: int = 4
    """Blocks at the frame rate."""
    fine_blocks: int = 4
    """Blocks after upsampling."""
    upsample: int = 2
    """Spectra for each frame; the STFT's hop is hop_samples over this."""
    overlap: int = 4
    """Length of the STFT's window, in hops."""
    source: Literal["none", "harmonic"] = "harmonic"
    """none: magnitudes and phases are predicted (Vocos). harmonic: pulses at the pitch and noise are filtered."""
    bands: int = 64
    """Bands of each filter, spaced as mel bands are; for the harmonic source."""

    def __post_init__(self) -> None:
        if min(self.width, self.expansion, self.upsample) < 1 or min(self.coarse_blocks, self.fine_blocks) < 0:
            raise ConfigError("istft.width, expansion and upsample must be positive, numbers of blocks not negative")
        if self.overlap < 4 or self.overlap % 2:
            raise ConfigError("istft.overlap must be even and at least 4: windows of 4, 6, ... hops")


@dataclass(frozen=True, kw_only=True)
class HifiganConfig:
    """SpeechBrain's HiFi-GAN generator; the defaults are unit HiFi-GAN V1 for a hop of 320 (Polyak et al. 2021)."""

    channels: int = 512
    """Channels before the first upsampling; each upsampling halves them."""
    upsample_factors: tuple[int, ...] = (5, 4, 4, 2, 2)
    """Their product is hop_samples."""
    upsample_kernels: tuple[int, ...] = (11, 8, 8, 4, 4)
    """Lengths of the transposed convolutions."""
    block_kernels: tuple[int, ...] = (3, 7, 11)
    """Lengths of the convolutions of each parallel residual block."""
    block_dilations: tuple[int, int, int] = (1, 3, 5)
    """Dilations within a residual block."""

    def __post_init__(self) -> None:
        if len(self.upsample_factors) != len(self.upsample_kernels):
            raise ConfigError("hifigan.upsample-factors and upsample-kernels have one number for each upsampling")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a vocoder."""

    generator: Literal["istft", "hifigan", "plain-hifigan"] = "istft"
    """istft is several times faster; hifigan needs the extra `speechbrain`; plain-hifigan is for imported weights."""
    width: int = 256
    """Channels between inputs and generator."""
    streams: Literal["sum", "attention"] = "sum"
    """How several token streams are joined; either takes any subset of them."""
    speaker: SpeakerInput = "none"
    """table: one vector for each training speaker. embedding: a vector measured on a reference recording."""
    f0_bins: int = 0
    """Levels of the pitch that is given as an input, normalised for each speaker; 0 gives none."""
    durations: bool = False
    """Learn how long each token lasts, for tokens that come without durations."""
    istft: IstftConfig = field(default_factory=IstftConfig)
    """Shape of the generator, where it is istft."""
    hifigan: HifiganConfig = field(default_factory=HifiganConfig)
    """Shape of the generator, where it is hifigan or plain-hifigan."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError("model.width must be positive")
        if self.f0_bins < 0 or self.f0_bins == 1:
            raise ConfigError("model.f0-bins must be 0 (no pitch input) or at least 2")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a vocoder was trained on."""

    sampling_rate: int
    """Of the waveforms, Hz."""
    hop_samples: int
    """Samples of a frame."""
    inputs: Inputs
    """tokens: embedded by tables of the vocoder. features: frames; tokens through the codebook beside the weights."""
    vocab_sizes: tuple[int, ...] = ()
    """Of the token streams; empty where no tokens are taken."""
    feature_width: int = 0
    """Dimensions of a frame, for features."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer whose tokens are taken."""
    features: str | None = None
    """Fingerprint of the features that are taken; see `features_fingerprint`."""
    speakers: tuple[str, ...] = ()
    """Names of the table's speakers."""
    speaker_width: int = 0
    """Dimensions of the speaker embedding."""
    speaker_model: str | None = None
    """Fingerprint of what measures the speaker embedding."""

    def __post_init__(self) -> None:
        if (self.inputs == "tokens" and not self.vocab_sizes) or (self.inputs == "features" and not self.feature_width):
            raise ConfigError("a vocoder of tokens needs vocab_sizes, one of features feature_width")


def check_hop(config: ModelConfig, facts: Facts) -> None:
    """Check that the generator makes hop_samples of each frame.

    Raises:
        ConfigError: it makes another number; names both.
    """
    if config.generator == "istft" and facts.hop_samples % config.istft.upsample:
        raise ConfigError(
            f"a hop of {facts.hop_samples} samples cannot be split into istft.upsample = {config.istft.upsample} parts"
        )
    if config.generator != "istft":
        made = 1
        for factor in config.hifigan.upsample_factors:
            made *= factor
        if made != facts.hop_samples:
            raise ConfigError(
                f"hifigan.upsample-factors {list(config.hifigan.upsample_factors)} make {made} samples of a frame, "
                f"its hop is {facts.hop_samples}"
            )
