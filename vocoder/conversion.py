"""kNN voice conversion (Baas et al. 2023): each frame of the source becomes the mean of the target's most similar ones.

    source -> SSL layer -> k nearest frames of the target's pool -> mean -> vocoder of these features -> target's voice

Nothing is trained for a speaker. The source may also be tokens: their centroids are matched in place of its frames,
which leaves the content and drops more of the source's voice (any-to-one conversion from discrete units, Huang et al.
2022, S3PRL-VC).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from voxtok.manifests.samples import mono, resample
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.weights import hash_weights
from voxtok.tokenize.windows import WindowConfig
from voxtok.vocoder.features import Features, require_same_features
from voxtok.vocoder.matching import Matcher, Weighting
from voxtok.vocoder.matching_faiss import FaissMatcher
from voxtok.vocoder.pool import Pool
from voxtok.vocoder.speaker import Embedding
from voxtok.vocoder.vocoder import Vocoder

if TYPE_CHECKING:
    from voxtok.vocoder.conversion_stream import ConversionStream

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Blend:
    """What becomes of a source frame."""

    k: int
    """Frames of the pool whose mean takes its place; 4 in kNN-VC."""
    weighting: Weighting
    """uniform (kNN-VC), or distance: nearer frames weigh more."""
    keep_source: float = 0.0
    """0 is the target's voice, 1 the source's own frames, between them a line."""
    second: float = 0.0
    """Between two targets: 0 is the first one's voice, 1 the second one's."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k must be at least 1, not {self.k}")
        if not (0 <= self.keep_source <= 1 and 0 <= self.second <= 1):
            raise ConfigError("keep-source and second are shares: 0 .. 1")


@dataclass(frozen=True, kw_only=True)
class Search:
    """How neighbours are found."""

    index: Literal["exact", "flat", "ivf"] = "exact"
    """exact; or faiss (the extra `faiss`): flat, in float32, or ivf, which misses a few, for pools of many hours."""
    probes: int = 32
    """Cells of the ivf index that a search looks into; more miss fewer."""
    max_mb: float = 384.0
    """Working memory of the exact search; changes no result."""

    def matcher(self, pool: Pool, device: torch.device) -> Matcher | FaissMatcher:
        """What finds the neighbours in a pool."""
        if self.index == "exact":
            return Matcher(pool.frames, device=device, max_mb=self.max_mb)
        return FaissMatcher(pool.frames, index=self.index, probes=self.probes)


class Converter:
    """Converts to the voice of a pool, or to one between two pools.

    Example:
        pool = Pool.load("exp/pool")
        converter = Converter(Vocoder.load("exp/vocoder"), pool, Blend(k=4, weighting="uniform"))
        samples = converter.convert(samples, 16000, Features.reopen(pool.features, device="auto"), windows=None)

    Args:
        vocoder: of the pool's features.
        pool: the target's frames.
        blend: neighbours and interpolation.
        second: the other target's frames, for `blend.second`.
        search: how neighbours are found.

    Raises:
        TokenizerMismatch: pools or vocoder of other features.
        ConfigError: fewer frames than k, a share of a second pool that is not given, or a vocoder that is told who
            speaks and a pool whose speaker was not measured.
    """

    def __init__(
        self,
        vocoder: Vocoder,
        pool: Pool,
        blend: Blend,
        *,
        second: Pool | None = None,
        search: Search | None = None,
    ) -> None:
        vocoder.check_features(pool.features["fingerprint"])
        if second is None and blend.second > 0:
            raise ConfigError("a share of a second voice needs a second pool")
        if second is not None:
            require_same_features(pool.features, second.features, "the second pool")
        for one in (pool, second):
            if one is not None and len(one.frames) < blend.k:
                raise ConfigError(f"k = {blend.k} neighbours cannot be taken from a pool of {len(one.frames)} frames")
        search = search or Search()
        self.vocoder, self.blend = vocoder, blend
        self.speaker = told(vocoder, pool, second, blend.second)
        self.features = pool.features
        self._first = search.matcher(pool, vocoder.device)
        self._second = None if second is None else search.matcher(second, vocoder.device)

    @property
    def pools_sha256(self) -> list[str]:
        """Hashes of the pools' frames."""
        matchers = [self._first, self._second]
        return [hash_weights({"frames": one.pool}) for one in matchers if one is not None]

    def match(self, frames: torch.Tensor) -> torch.Tensor:
        """Source frames (N, D) to the target's (N, D) float32, on the CPU."""
        blend = self.blend
        if blend.keep_source == 1:
            return frames.float().cpu()
        matched = self._first.match(frames, blend.k, blend.weighting)
        if self._second is not None:
            matched = torch.lerp(matched, self._second.match(frames, blend.k, blend.weighting), blend.second)
        return torch.lerp(matched, frames.float().cpu(), blend.keep_source)

    def convert_frames(self, frames: torch.Tensor) -> Samples:
        """The waveform of source frames (N, D) in the target's voice, (N * hop_samples,) float32."""
        return self.vocoder.from_features(self.match(frames), speaker=self.speaker)

    def convert(
        self, samples: npt.ArrayLike, sampling_rate: int, features: Features, *, windows: WindowConfig | None
    ) -> Samples:
        """A recording in the target's voice, at the vocoder's rate: one frame for each of the SSL model's.

        Args:
            samples: (num_samples,) or (channels, num_samples); channels are averaged.
            sampling_rate: of `samples`, Hz; resampled where it differs from the SSL model's.
            features: the SSL model and layer of the pool.
            windows: how a long recording is computed; None computes it whole.

        Raises:
            TokenizerMismatch: features of another model or layer.
            ConfigError: too short for one frame, not finite, or of another shape.
        """
        require_same_features(self.features, features.description, "the source")
        resampled = resample(mono(samples), sampling_rate, features.upstream.sampling_rate)
        return self.convert_frames(features.of_samples(resampled, windows))

    def stream(
        self, features: Features, *, windows: WindowConfig, chunk_frames: int, enrolment: npt.ArrayLike | None = None
    ) -> "ConversionStream":
        """Convert audio as it comes; see ConversionStream, also for what needs an enrolment or cannot be streamed."""
        from voxtok.vocoder.conversion_stream import ConversionStream

        return ConversionStream(self, features, windows, chunk_frames, enrolment)


def told(vocoder: Vocoder, pool: Pool, second: Pool | None, share: float) -> Embedding | None:
    """What the vocoder is told of the target: nothing, or the embedding of the pool's speaker, or one between two.

    Raises:
        ConfigError: it needs an embedding, and that of a pool was not measured, or by another model.
    """
    if vocoder.model.config.speaker == "none":
        return None
    known = [one.speaker for one in (pool, second) if one is not None]
    if vocoder.model.config.speaker == "table" or any(
        speaker is None or speaker.model != vocoder.facts.speaker_model for speaker in known
    ):
        raise ConfigError(
            "this vocoder is told who speaks: give pools made with --speaker-model, the one that it was trained with"
        )
    first, *rest = [speaker for speaker in known if speaker is not None]
    target = first.towards(rest[0], share) if rest else first
    return np.array(target.embedding, dtype=np.float32)
