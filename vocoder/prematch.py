"""`voxtok prematch`: cuts -> frames made of other utterances of the same speaker, to train a vocoder on (kNN-VC).

A vocoder of SSL features hears, in a conversion, frames that are means of others. Trained on such frames with the
original recording as its goal, it learns to undo what the mean does to them (Baas et al. 2023, section 3.3). There the
pool is the rest of the chapter; here it is the rest of what the speaker said.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from lhotse.cut import Cut

from voxtok.manifests.cuts import load_cuts, unique_cuts
from voxtok.manifests.identity import inputs_of
from voxtok.runtime.config import parse
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.files import sha256
from voxtok.tokenize.extract import ExtractConfig
from voxtok.tokenize.upstream import Dtype, Normalization
from voxtok.tokenize.windows import WindowConfig, windows_of
from voxtok.vocoder.features import FeatureConfig, Features
from voxtok.vocoder.frame_store import FrameInfo, FrameStore, is_made, require_files, write_frames
from voxtok.vocoder.matching import Matcher, Weighting
from voxtok.vocoder.reference import speakers_of

log = logging.getLogger("voxtok")


@dataclass(frozen=True, kw_only=True)
class PrematchConfig:
    """Rebuild every utterance from frames of its speaker's other utterances, for `voxtok train-vocoder --frames`."""

    cuts: str
    """Lhotse cuts or recordings, with speakers and audio files."""
    upstream: str
    """SSL model: mini, a Hugging Face folder or id[@revision], torchaudio:NAME[=checkpoint], mfcc or logmel."""
    layer: int
    """Output of this transformer block, 1-based; 0 is the input to block 1. kNN-VC takes 6 of WavLM-Large."""
    normalization: Normalization
    """Waveform normalisation: as the checkpoint's preprocessor says, always, or never (kNN-VC)."""
    out: str
    """Store of frames to write."""
    k: int = 4
    """Frames whose mean takes the place of a frame."""
    weighting: Weighting = "uniform"
    """uniform, or distance: nearer frames weigh more."""
    keep_alone: bool = False
    """Keep the own frames of a speaker's only utterance, which has no other to be made of; else it is left out."""
    pool_minutes: float = 60.0
    """Speech of a speaker that frames are taken from, and that is held in memory; beyond, random utterances of it."""
    seed: int = 0
    """Of that choice."""
    dtype: Dtype = "float32"
    """Number format that the SSL model computes in."""
    window_s: float | None = 60.0
    """Recordings longer than this are computed in windows of it; null computes every recording whole."""
    overlap_s: float = 4.0
    """Overlap of windows, of which each side's half is discarded."""
    max_mb: float = 384.0
    """Working memory of matching; changes no result."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    strict: bool = False
    """Stop at the first bad recording instead of listing it in rejected.jsonl."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.pool_minutes <= 0:
            raise ConfigError("--k must be at least 1 and --pool-minutes positive")

    @property
    def features(self) -> FeatureConfig:
        """Which features."""
        return FeatureConfig(
            upstream=self.upstream, layer=self.layer, normalization=self.normalization, dtype=self.dtype
        )

    @property
    def windows(self) -> WindowConfig | None:
        """The windows of long recordings."""
        return windows_of(self.window_s, self.overlap_s)


def prematch(config: PrematchConfig) -> FrameStore:
    """Write the store of frames, speaker by speaker; one that was made of the same cuts and options is only opened.

    Raises:
        ConfigError: a cut has no speaker or several, or no audio file, or no speaker has two utterances.
        BadAudio: with `strict`, the first bad recording.
    """
    features = Features.open(config.features, device=config.device)
    cuts = list(unique_cuts(load_cuts(config.cuts)))
    require_files(cut for cut, _ in cuts)
    speakers = by_speaker([cut for cut, twice in cuts if twice is None])
    options = [config.k, config.weighting, config.keep_alone, config.pool_minutes, config.seed]
    made_of = [*options, config.window_s, config.overlap_s, [inputs_of(cut) for cut, _ in cuts]]
    info = FrameInfo(
        features=features.fingerprint,
        width=features.width,
        sampling_rate=features.upstream.sampling_rate,
        hop_samples=features.upstream.hop_samples,
        made_of=sha256(["prematch", made_of]),
    )
    if is_made(config.out, info):
        log.info("%s is up to date", config.out)
        return FrameStore.open(config.out)

    repeated = [(cut, twice) for cut, twice in cuts if twice is not None]

    def of_speaker(speaker: str) -> Iterator[tuple[Cut, torch.Tensor | BadAudio]]:
        for cut, frames in prematched(speakers[speaker], speaker, features, config):
            if isinstance(frames, BadAudio) and config.strict:
                raise frames
            yield cut, frames

    return write_frames(config.out, info, [lambda: repeated, *(partial(of_speaker, speaker) for speaker in speakers)])


def by_speaker(cuts: Sequence[Cut]) -> dict[str, list[Cut]]:
    """The utterances of each speaker, in the order of the cuts.

    Raises:
        ConfigError: a cut has no speaker, or several.
    """
    found: dict[str, list[Cut]] = {}
    for cut in cuts:
        names = speakers_of(cut)
        if len(names) != 1:
            raise ConfigError(f"{cut.id} has {len(names)} speakers: prematching needs one for each cut")
        found.setdefault(names.pop(), []).append(cut)
    return found


def prematched(
    cuts: Sequence[Cut], speaker: str, features: Features, config: PrematchConfig
) -> Iterator[tuple[Cut, torch.Tensor | BadAudio]]:
    """Each utterance of one speaker with the means of its nearest frames in the others, (N, D) float32.

    Only the frames of the pool, at most `pool_minutes` of speech, are held in memory.
    """
    extraction = ExtractConfig(windows=config.windows)
    chosen = _pool_members(cuts, config)
    pooled: list[tuple[Cut, torch.Tensor]] = []
    for cut, frames in features.of_cuts([cuts[i] for i in chosen], extraction):
        if isinstance(frames, BadAudio):
            yield cut, frames
        else:
            pooled.append((cut, frames))
    rest = [cut for i, cut in enumerate(cuts) if i not in chosen]
    matcher = None
    if pooled:
        pool = torch.cat([frames for _, frames in pooled])
        matcher = Matcher(pool, device=features.upstream.device, max_mb=config.max_mb)

    def rebuilt(cut: Cut, frames: torch.Tensor | BadAudio, without: tuple[int, int]) -> torch.Tensor | BadAudio:
        if isinstance(frames, BadAudio):
            return frames
        if matcher is not None and len(matcher.pool) - (without[1] - without[0]) >= config.k:
            return matcher.match(frames, config.k, config.weighting, without)
        alone = BadAudio(cut.id, "missing", f"speaker {speaker} has no other utterance to make this one of")
        return frames if config.keep_alone else alone

    start = 0
    for cut, frames in pooled:
        yield cut, rebuilt(cut, frames, (start, start + len(frames)))
        start += len(frames)
    for cut, found in features.of_cuts(rest, extraction):
        yield cut, rebuilt(cut, found, (0, 0))


def _pool_members(cuts: Sequence[Cut], config: PrematchConfig) -> set[int]:
    """Indices of utterances that fill the pool: all where they fit, else random ones, but at least two."""
    order = np.random.default_rng(config.seed).permutation(len(cuts))
    ends_s = np.cumsum([cuts[i].duration for i in order])
    fitting = max(int(np.searchsorted(ends_s, config.pool_minutes * 60, side="right")), 2)
    return set(order[:fitting].tolist())


def main(argv: Sequence[str]) -> int:
    """The command `voxtok prematch`."""
    config = parse(PrematchConfig, argv, "voxtok prematch")
    store = prematch(config)
    print(f"{len(store.frames)} frames -> {config.out}")
    return 0
