"""What comparing quantizers on held-out speech takes: options, the SSL model, and one set of frames to fit on."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lhotse.cut import Cut

from voxtok.manifests.cuts import load_cuts, unique_cuts
from voxtok.manifests.identity import inputs_of
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.files import read_json, sha256, write_json
from voxtok.runtime.progress import Progress
from voxtok.tokenize.extract import ExtractConfig, extract, side_by_side
from voxtok.tokenize.frame_cache import CachedFrames, cached
from voxtok.tokenize.frames import UtteranceFrames
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.meter import Scoring
from voxtok.tokenize.tokenizer_folder import TokenizerConfig
from voxtok.tokenize.upstream import Upstream
from voxtok.tokenize.windows import windows_of

log = logging.getLogger("voxtok")


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Scoring):
    """Options of every comparison."""

    heldout_cuts: str
    """Cuts to score, with phone alignments and speakers."""
    out: str
    """Folder of the tables, the page and the tokenizers."""
    hours: float | None = None
    """Fit on a random subset of utterances of about this many hours; null takes all."""
    cache: Literal["memory", "disk"] = "memory"
    """Where the frames to fit on wait."""
    cache_gb: float = 8.0
    """Bound of that cache over all layers; beyond it a random subset of the frames is kept."""
    cache_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Number format of the cache."""
    ued_utterances: int = 20
    """Held-out utterances encoded anew for the unit edit distance; 0 leaves it out."""
    normalization: Literal["checkpoint", "utterance", "none"] = "checkpoint"
    """Waveform normalisation: as the checkpoint's preprocessor says, always, or never (kNN-VC)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format that the SSL model computes in."""
    window_s: float | None = 60.0
    """Recordings longer than this are computed in windows of it; null computes every recording whole."""
    overlap_s: float = 4.0
    """Overlap of windows, of which each side's half is discarded."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    readers: int = 2
    """Threads that read and resample audio."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache_gb <= 0 or (self.hours is not None and self.hours <= 0):
            raise ConfigError("cache-gb and hours must be positive")

    @property
    def extraction(self) -> ExtractConfig:
        """How features are computed."""
        return ExtractConfig(windows=windows_of(self.window_s, self.overlap_s), readers=self.readers)

    def load(self, upstream: str, layers: Sequence[int]) -> Upstream:
        """The SSL model."""
        return load_upstream(
            upstream,
            device=pick_device(self.device),
            dtype=self.dtype,
            normalization=self.normalization,
            max_layer=max(layers),
        )

    def tokenizer(self, upstream: str, layers: Sequence[int]) -> TokenizerConfig:
        """The description of a tokenizer of some layers."""
        return TokenizerConfig(
            upstream=upstream,
            layers=tuple(layers),
            normalization=self.normalization,
            dtype=self.dtype,
            windows=self.extraction.windows,
            dedup=False,
        )


def heldout_cuts(config: CompareConfig) -> tuple[list[Cut], list[BadAudio]]:
    """The cuts to score, and what is said of those that are not since an earlier one has their id."""
    pairs = list(unique_cuts(load_cuts(config.heldout_cuts)))
    repeated = [twice for _, twice in pairs if twice is not None]
    for error in repeated:
        log.warning("not scored: %s", error)
    return [cut for cut, twice in pairs if twice is None], repeated


def training_cuts(cuts: str, config: CompareConfig, heldout: set[str]) -> list[tuple[int, Cut]]:
    """The cuts to fit on, each with its index among all of them: a seeded subset of those not held out.

    Raises:
        ConfigError: none are left.
    """
    found = [(i, cut) for i, cut in enumerate(load_cuts(cuts)) if cut.id not in heldout]
    if not found:
        raise ConfigError(f"every cut of {cuts} is held out: nothing is left to fit on")
    if config.hours is None:
        return found
    order = np.random.default_rng(config.seed).permutation(len(found))
    ends_s = np.cumsum([found[i][1].duration for i in order])
    return [found[i] for i in sorted(order[: 1 + int(np.searchsorted(ends_s, config.hours * 3600))].tolist())]


def training_frames(
    config: CompareConfig, upstream: Upstream, layers: Sequence[int], cuts: Sequence[tuple[int, Cut]]
) -> CachedFrames:
    """The layers' frames side by side, computed once and kept in the cache; `drop_cache` once they are fitted on."""
    width = upstream.width * len(layers)
    frames = UtteranceFrames(width, lambda: _utterances(config, upstream, layers, cuts), config.seed)
    where: Path | Literal["memory"] = "memory"
    if config.cache == "disk":
        made_by = [upstream.identity, list(layers), asdict(config.tokenizer("", layers)), config.seed]
        where = _cache_folder(config, sha256([made_by, [[i, inputs_of(cut)] for i, cut in cuts]]))
    return cached(frames, where, getattr(torch, config.cache_dtype), int(config.cache_gb * 1e9))


def _cache_folder(config: CompareConfig, inputs: str) -> Path:
    """Where frames wait on disk, emptied where they were made of other inputs."""
    cache = Path(config.out) / "cache"
    mark = cache / "inputs.json"
    if not mark.exists() or read_json(mark) != inputs:
        drop_cache(config)
        write_json(mark, inputs)
    return cache / "frames"


def drop_cache(config: CompareConfig) -> None:
    """Delete the frames on disk."""
    if config.cache == "disk":
        shutil.rmtree(Path(config.out) / "cache", ignore_errors=True)


def _utterances(
    config: CompareConfig, upstream: Upstream, layers: Sequence[int], cuts: Sequence[tuple[int, Cut]]
) -> Iterator[tuple[int, torch.Tensor]]:
    results = extract((cut for _, cut in cuts), upstream, layers, side_by_side(layers), config.extraction)
    with Progress("features", sum(cut.duration for _, cut in cuts)) as progress:
        for (index, cut), (_, frames) in zip(cuts, results, strict=True):
            progress.add(cut.duration)
            if isinstance(frames, BadAudio):
                log.warning("not fitted on: %s", frames)
            else:
                yield index, frames
