"""`voxtok sweep`: token quality of several layers and vocabulary sizes, from one pass over the audio of each part.

Features of all layers are computed together. Those to fit on wait in one bounded cache, a random subset of the same
frames for every layer; those held out are labelled by every codebook as they come and not kept. Every codebook is left
as a tokenizer folder with its own quality page beside it.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lhotse.cut import Cut

from voxtok.manifests.audio import Samples
from voxtok.manifests.codebook import kmeans_codebook
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, pick_device
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.progress import Progress
from voxtok.tokenize.extract import ExtractConfig, extract
from voxtok.tokenize.frames import UtteranceFrames, cached, columns
from voxtok.tokenize.kmeans import fit_kmeans
from voxtok.tokenize.kmeans_state import KMeansConfig
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.meter import Codes, Meter, Scoring
from voxtok.tokenize.metrics import Report
from voxtok.tokenize.quality import make_report, token_abx
from voxtok.tokenize.report import write_report
from voxtok.tokenize.sweep_page import write_sweep
from voxtok.tokenize.tokenizer import Tokenizer, TokenizerConfig
from voxtok.tokenize.unit_edit import EncodedPairs, encoded_pairs
from voxtok.tokenize.upstream import Upstream
from voxtok.tokenize.windows import WindowConfig, extract_samples

log = logging.getLogger("voxtok")


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Scoring):
    """Fit a codebook for every layer and vocabulary size, and compare their tokens on held-out speech."""

    cuts: str
    """Cuts to fit on; those that are held out too are left out."""
    heldout_cuts: str
    """Cuts to score, with phone alignments and speakers."""
    upstream: str
    """mfcc, logmel, a Hugging Face folder or id[@revision], or torchaudio:NAME[=checkpoint]."""
    layers: tuple[int, ...]
    """Layers to compare: outputs of the transformer blocks, 1-based; 0 is the input to block 1."""
    vocab_sizes: tuple[int, ...]
    """Vocabulary sizes to compare."""
    out: str
    """Folder of the tables, the page, and a tokenizer folder for every layer and size."""
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
        for name in ("layers", "vocab_sizes"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name.replace('_', '-')} needs at least one value, each once")
        if self.cache_gb <= 0 or (self.hours is not None and self.hours <= 0):
            raise ConfigError("cache-gb and hours must be positive")

    @property
    def extraction(self) -> ExtractConfig:
        """How features are computed."""
        windows = None if self.window_s is None else WindowConfig(window_s=self.window_s, overlap_s=self.overlap_s)
        return ExtractConfig(windows=windows, readers=self.readers)


def sweep(config: SweepConfig) -> list[Report]:
    """Fit and score every combination; returns their reports, which also lie in the folders `write_sweep` names.

    Raises:
        ConfigError: a layer the upstream lacks, more centroids than frames, or nothing left to fit on.
    """
    upstream = load_upstream(
        config.upstream,
        device=pick_device(config.device),
        dtype=config.dtype,
        normalization=config.normalization,
        max_layer=max(config.layers),
    )
    heldout = list(load_cuts(config.heldout_cuts))
    tokenizers = fit_all(config, upstream, training_cuts(config, {cut.id for cut in heldout}))
    reports = score_all(config, upstream, tokenizers, heldout)
    write_sweep(reports, {field.name: getattr(config, field.name) for field in fields(config)}, config.out)
    return reports


def training_cuts(config: SweepConfig, heldout: set[str]) -> list[tuple[int, Cut]]:
    """The cuts to fit on, each with its index among all of them: a seeded subset of those not held out."""
    cuts = [(i, cut) for i, cut in enumerate(load_cuts(config.cuts)) if cut.id not in heldout]
    if not cuts:
        raise ConfigError(f"every cut of {config.cuts} is held out: nothing is left to fit on")
    if config.hours is None:
        return cuts
    order = np.random.default_rng(config.seed).permutation(len(cuts))
    ends_s = np.cumsum([cuts[i][1].duration for i in order])
    return [cuts[i] for i in sorted(order[: 1 + int(np.searchsorted(ends_s, config.hours * 3600))].tolist())]


def fit_all(config: SweepConfig, upstream: Upstream, cuts: Sequence[tuple[int, Cut]]) -> list[Tokenizer]:
    """A tokenizer for every layer and vocabulary size, saved in its folder."""
    frames = UtteranceFrames(
        upstream.width * len(config.layers), lambda: _all_layers(config, upstream, cuts), config.seed
    )
    where: Path | Literal["memory"] = "memory" if config.cache == "memory" else Path(config.out) / "cache"
    kept = cached(frames, where, getattr(torch, config.cache_dtype), int(config.cache_gb * 1e9))
    tokenizers = []
    for i, layer in enumerate(config.layers):
        source = columns(kept, i * upstream.width, upstream.width)
        for vocab_size in config.vocab_sizes:
            log.info("fitting %d centroids on layer %d", vocab_size, layer)
            settings = KMeansConfig(vocab_size=vocab_size, seed=config.seed)
            result = fit_kmeans(source, settings, Ranks(), upstream.device)
            described = TokenizerConfig(
                upstream=config.upstream,
                layers=(layer,),
                normalization=config.normalization,
                dtype=config.dtype,
                windows=config.extraction.windows,
                dedup=False,
            )
            tokenizer = Tokenizer(described, upstream, kmeans_codebook(result.centroids.cpu().numpy()))
            tokenizer.save(folder_of(config, tokenizer))
            tokenizers.append(tokenizer)
    return tokenizers


def folder_of(config: SweepConfig, tokenizer: Tokenizer) -> Path:
    """Where one combination's tokenizer and report lie."""
    return Path(config.out) / f"layer{tokenizer.config.layer_name}-k{tokenizer.vocab_sizes[0]}"


def _all_layers(
    config: SweepConfig, upstream: Upstream, cuts: Sequence[tuple[int, Cut]]
) -> Iterator[tuple[int, torch.Tensor]]:
    def side_by_side(features: dict[int, torch.Tensor]) -> torch.Tensor:
        return torch.cat([features[layer] for layer in config.layers], dim=1)

    results = extract((cut for _, cut in cuts), upstream, config.layers, side_by_side, config.extraction)
    with Progress("features", sum(cut.duration for _, cut in cuts)) as progress:
        for (index, cut), (_, frames) in zip(cuts, results, strict=True):
            progress.add(cut.duration)
            if isinstance(frames, BadAudio):
                log.warning("not fitted on: %s", frames)
            else:
                yield index, frames


def score_all(
    config: SweepConfig, upstream: Upstream, tokenizers: Sequence[Tokenizer], cuts: Sequence[Cut]
) -> list[Report]:
    """Label held-out speech with every codebook in one pass, and measure each."""

    def labels(features: dict[int, torch.Tensor]) -> torch.Tensor:
        return torch.cat([tokenizer.quantize(features) for tokenizer in tokenizers], dim=1)  # (frames, combinations)

    def encode(samples: Samples) -> Codes:
        features = extract_samples(upstream, samples, config.layers, config.extraction.windows)
        return labels({layer: part.to(upstream.device) for layer, part in features.items()}).cpu().numpy()

    meters = [Meter(tokenizer.vocab_sizes[0], tokenizer.frame_rate_hz, config) for tokenizer in tokenizers]
    with Progress("quality", sum(cut.duration for cut in cuts)) as progress:
        for cut, found in extract(cuts, upstream, config.layers, labels, config.extraction):
            progress.add(cut.duration)
            if isinstance(found, BadAudio):
                log.warning("not scored: %s", found)
                continue
            for meter, codes in zip(meters, found.to(torch.int32).numpy().T, strict=True):
                meter.add(cut, np.ascontiguousarray(codes))
    some = [utterance.cut for utterance in meters[0].drawn()[: config.ued_utterances]]
    pairs = encoded_pairs(some, upstream, encode, config.seed)
    reports = []
    for i, (tokenizer, meter) in enumerate(zip(tokenizers, meters, strict=True)):
        mine: EncodedPairs = {name: [(a[:, i], b[:, i]) for a, b in found] for name, found in pairs.items()}
        described = {"fingerprint": tokenizer.fingerprint, **asdict(tokenizer.config)}
        described |= {"layer": tokenizer.config.layers[0], "vocab_size": tokenizer.vocab_sizes[0]}
        described["frame_rate_hz"] = tokenizer.frame_rate_hz
        report = make_report(
            config.heldout_cuts, described, meter, token_abx(meter, tokenizer.quantizer, upstream.device), mine
        )
        write_report(report, folder_of(config, tokenizer))
        reports.append(report)
    return reports


def main(argv: Sequence[str]) -> int:
    """The command `voxtok sweep`."""
    config = parse(SweepConfig, argv, "voxtok sweep")
    reports = sweep(config)
    print(f"{len(reports)} combinations -> {config.out}/sweep.html, {config.out}/sweep.tsv")
    return 0
