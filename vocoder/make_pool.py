"""`voxtok pool`: a speaker's recordings -> matching pool, saved once and used by every conversion to that voice."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from lhotse.cut import Cut

from voxtok.manifests.identity import inputs_of
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import BadAudio, ConfigError, ManifestError
from voxtok.runtime.files import sha256, write_jsonl
from voxtok.runtime.progress import Progress
from voxtok.tokenize.extract import ExtractConfig
from voxtok.tokenize.upstream import Dtype, Normalization
from voxtok.tokenize.windows import WindowConfig, windows_of
from voxtok.vocoder.features import FeatureConfig, Features
from voxtok.vocoder.pool import Measured, Pool, is_up_to_date
from voxtok.vocoder.reference import of_speaker, reference_cuts, without_silent_ends
from voxtok.vocoder.speaker import SpeakerModel, load_speaker_model, mean_embedding

log = logging.getLogger("voxtok")


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Save the frames of a speaker's recordings, for `voxtok convert` to match with."""

    reference: str
    """An audio file, a folder of audio files, or Lhotse cuts."""
    upstream: str
    """The vocoder's: mini, a Hugging Face folder or id[@revision], torchaudio:NAME[=checkpoint], mfcc or logmel."""
    layer: int
    """Output of this transformer block, 1-based; 0 is the input to block 1. kNN-VC takes 6 of WavLM-Large."""
    normalization: Normalization
    """Waveform normalisation: as the checkpoint's preprocessor says, always, or never (kNN-VC)."""
    out: str
    """Pool folder to write."""
    speaker: str | None = None
    """Take this speaker's cuts only; by default, all."""
    without: tuple[str, ...] = ()
    """Ids of cuts to leave out."""
    speaker_model: str | None = None
    """What measures the speaker's embedding: mini, or a folder (see voxtok.vocoder.speaker); null measures none. Needed
    for vocoders that are told who speaks, such as vocoder-mini."""
    trim: bool = False
    """Leave out silence before and after the speech of each recording."""
    thin: int | None = None
    """Keep at most this many frames: the most typical of each of as many clusters; null keeps all."""
    seed: int = 0
    """Of the clusters."""
    save_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the saved frames; float16 halves the pool and rounds it."""
    dtype: Dtype = "float32"
    """Number format that the SSL model computes in."""
    window_s: float | None = 60.0
    """Recordings longer than this are computed in windows of it; null computes every recording whole."""
    overlap_s: float = 4.0
    """Overlap of windows, of which each side's half is discarded."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    strict: bool = False
    """Stop at the first bad recording instead of listing it in rejected.jsonl."""

    def __post_init__(self) -> None:
        if self.thin is not None and self.thin < 1:
            raise ConfigError("--thin is a number of frames, at least 1")

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


def pool_of(
    cuts: Iterable[Cut | BadAudio],
    features: Features,
    *,
    windows: WindowConfig | None,
    trim: bool,
    speaker_model: SpeakerModel | None,
    strict: bool = False,
) -> tuple[Pool, list[BadAudio]]:
    """Frames of all usable cuts, and why the others are not.

    Args:
        cuts: recordings of one speaker, or what is wrong with them.
        features: the SSL model and its layer.
        windows: of long recordings; None computes them whole.
        trim: leave out silent ends.
        speaker_model: measures the speaker's embedding; None leaves it out.
        strict: raise the first BadAudio instead.

    Raises:
        ManifestError: not one recording can be used.
        ConfigError: the speaker can be measured on none.
    """
    listed = list(without_silent_ends(cuts, features.upstream.sampling_rate) if trim else cuts)
    rejected = [cut for cut in listed if isinstance(cut, BadAudio)]
    usable = [cut for cut in listed if not isinstance(cut, BadAudio)]
    if strict and rejected:
        raise rejected[0]
    parts: list[torch.Tensor] = []
    duration_s = 0.0
    with Progress("pool", sum(cut.duration for cut in usable)) as progress:
        for cut, frames in features.of_cuts(usable, ExtractConfig(windows=windows)):
            progress.add(cut.duration)
            if not isinstance(frames, BadAudio):
                parts.append(frames)
                duration_s += cut.duration
            elif strict:
                raise frames
            else:
                rejected.append(frames)
    if not parts:
        why = f": {rejected[0]}" if rejected else ""
        raise ManifestError(f"the reference has no recording that can be used{why}")
    speaker = None
    if speaker_model is not None:
        speaker = Measured(speaker_model.fingerprint, tuple(mean_embedding(speaker_model, usable).tolist()))
    return Pool(torch.cat(parts), features.description, duration_s, speaker=speaker), rejected


def make_pool(config: PoolConfig) -> Pool:
    """Write the pool folder; one that was made of the same recordings and options is only loaded.

    Raises:
        ManifestError: no reference, or no recording of it can be used.
        ConfigError: no such speaker, layer or upstream.
        BadAudio: with `strict`, the first bad recording.
    """
    cuts = of_speaker(reference_cuts(config.reference), config.speaker, config.without)
    features = Features.open(config.features, device=config.device)
    speaker_model = None
    if config.speaker_model is not None:
        speaker_model = load_speaker_model(config.speaker_model, device=config.device)
    measures = None if speaker_model is None else speaker_model.fingerprint
    options = [config.trim, config.thin, config.seed, config.save_dtype, config.window_s, config.overlap_s, measures]
    contents = [cut.row() if isinstance(cut, BadAudio) else inputs_of(cut) for cut in cuts]
    inputs = sha256([features.fingerprint, options, contents, config.strict])
    out = Path(config.out)
    if is_up_to_date(out, inputs):
        log.info("%s is up to date", out)
        return Pool.load(out)
    pool, rejected = pool_of(
        cuts,
        features,
        windows=config.windows,
        trim=config.trim,
        speaker_model=speaker_model,
        strict=config.strict,
    )
    if config.thin is not None:
        pool = pool.thinned(config.thin, config.seed, pick_device(config.device))
    frames = pool.frames.to(getattr(torch, config.save_dtype))
    if not torch.isfinite(frames).all():
        raise ConfigError(f"a feature does not fit {config.save_dtype}: use --save-dtype float32")
    write_jsonl(out / "rejected.jsonl", (error.row() for error in rejected))
    pool = replace(pool, frames=frames, inputs=inputs)
    pool.save(out)
    return pool


def main(argv: Sequence[str]) -> int:
    """The command `voxtok pool`."""
    config = parse(PoolConfig, argv, "voxtok pool")
    pool = make_pool(config)
    print(f"{len(pool.frames)} frames of {pool.duration_s / 60:.1f} min -> {config.out}")
    return 0
