"""What a recognizer reads: tokens, log-mel or SSL features, both fused, and tokens of the utterance before."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from voxtok.asr.padded import Padded
from voxtok.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """The input of the encoder; the same encoder and heads take all of them, so that they can be compared."""

    tokens: bool
    """Read the tokens of the stores: frames, merged runs or subwords, as they were encoded."""
    features: str | None
    """Read features of the audio: logmel, or an SSL model as `voxtok fit --upstream` takes it; null reads none."""
    width: int
    """Dimensions of an embedded token and of a projected feature."""
    embeddings: Literal["random", "centroids"] = "random"
    """Where embeddings of tokens begin: at random, or at the centroids that the tokens stand for."""
    layers: tuple[int, ...] = ()
    """Layers of the SSL model; logmel takes none."""
    streams: Literal["sum", "concatenation", "attention"] = "sum"
    """How embeddings of several streams become one: added, side by side, or weighted frame by frame."""
    layer_mix: Literal["sum", "convolution"] = "sum"
    """How several layers become one: a learned weighted sum (SUPERB), or convolutions over layers (Shih 2024)."""
    fusion: Literal["add", "cross-attention"] = "add"
    """How tokens join features: added frame by frame, or looked at by attention of this many `fusion_heads`."""
    fusion_heads: int = 4
    """Heads of attention over tokens and over the context."""
    context: int = 0
    """Last tokens of the speaker's utterance before that are looked at too; 0 for none."""

    def __post_init__(self) -> None:
        if not self.tokens and self.features is None:
            raise ConfigError("inputs need tokens, features, or both")
        if bool(self.layers) != (self.features not in (None, "logmel")):
            raise ConfigError("inputs.layers are those of an SSL model in inputs.features: logmel and tokens take none")
        if self.embeddings == "centroids" and not self.tokens:
            raise ConfigError("inputs.embeddings are those of tokens: set inputs.tokens too")
        if self.context < 0 or (self.context and not self.tokens):
            raise ConfigError("inputs.context looks at so many tokens: set inputs.tokens too")
        if min(self.width, self.fusion_heads) < 1 or self.width % self.fusion_heads:
            raise ConfigError("inputs.fusion-heads must divide inputs.width, and both be at least 1")


@dataclass(frozen=True, kw_only=True)
class Source:
    """What made the inputs: a recognizer takes no other's.

    Attributes:
        tokenizers: fingerprint of each store whose streams stand side by side; empty without tokens.
        vocab_sizes: of every stream.
        token_rate_hz: frames per second before dedup; 0 without tokens.
        has_durations: whether a token may stand for several frames.
        features: identity of the feature extractor; None without features.
        feature_shape: layers and dimensions of a frame of features; (0, 0) without.
        feature_rate_hz: frames of features per second; 0 without.
    """

    tokenizers: tuple[str, ...] = ()
    vocab_sizes: tuple[int, ...] = ()
    token_rate_hz: float = 0.0
    has_durations: bool = False
    features: dict[str, Any] | None = None
    feature_shape: tuple[int, int] = (0, 0)
    feature_rate_hz: float = 0.0

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second that the encoder takes: of features where there are any; see `has_durations`."""
        return self.feature_rate_hz or self.token_rate_hz

    def described(self) -> dict[str, Any]:
        """As plain JSON; `source_of` is the inverse."""
        return asdict(self)


def source_of(described: dict[str, Any]) -> Source:
    """The Source that `described` returned, after JSON made lists of its tuples."""
    tuples = {name: tuple(described[name]) for name in ("tokenizers", "vocab_sizes", "feature_shape")}
    return Source(**{**described, **tuples})


@dataclass(frozen=True, eq=False)
class Inputs:
    """A batch of inputs; what the config leaves out is None.

    Attributes:
        tokens: (B, T, streams) int64.
        features: (B, F, layers, D) float32.
        context: (B, C, streams) int64; a length of 0 where nothing was said before.
    """

    tokens: Padded | None = None
    features: Padded | None = None
    context: Padded | None = None

    def to(self, device: torch.device) -> "Inputs":
        """The same on a device."""
        moved = (None if part is None else part.to(device) for part in (self.tokens, self.features, self.context))
        return Inputs(*moved)
