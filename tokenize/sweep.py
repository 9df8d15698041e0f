"""`voxtok sweep`: token quality of several layers and vocabulary sizes, from one pass over the audio of each part.

Features of all layers are computed together. Those to fit on wait in one bounded cache, a random subset of the same
frames for every layer; those held out are labelled by every codebook as they come and not kept. Every codebook is left
as a tokenizer folder with its own quality page beside it. ABX on a few utterances differs from one codebook to the next
by some hundredths, so several of each combination, from other seeds, tell what is a difference between layers.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path

import numpy as np
import torch
from lhotse.cut import Cut

from voxtok.manifests.audio import Samples
from voxtok.manifests.codebook import kmeans_codebook
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.progress import Progress
from voxtok.tokenize.compare import CompareConfig, drop_cache, heldout_cuts, training_cuts, training_frames
from voxtok.tokenize.extract import extract
from voxtok.tokenize.frames import columns
from voxtok.tokenize.kmeans import fit_kmeans
from voxtok.tokenize.kmeans_state import KMeansConfig
from voxtok.tokenize.meter import Codes, Meter
from voxtok.tokenize.metrics import Report
from voxtok.tokenize.quality import make_report, token_abx
from voxtok.tokenize.report import write_report
from voxtok.tokenize.stream_meter import stream_pairs
from voxtok.tokenize.sweep_page import write_sweep
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.unit_edit import encoded_pairs
from voxtok.tokenize.upstream import Upstream
from voxtok.tokenize.windows import extract_samples

log = logging.getLogger("voxtok")


@dataclass(frozen=True, kw_only=True)
class SweepConfig(CompareConfig):
    """Fit a codebook for every layer and vocabulary size, and compare their tokens on held-out speech."""

    cuts: str
    """Cuts to fit on; those that are held out too are left out."""
    upstream: str
    """mfcc, logmel, a Hugging Face folder or id[@revision], or torchaudio:NAME[=checkpoint]."""
    layers: tuple[int, ...]
    """Layers to compare: outputs of the transformer blocks, 1-based; 0 is the input to block 1."""
    vocab_sizes: tuple[int, ...]
    """Vocabulary sizes to compare."""
    codebooks: int = 1
    """Codebooks of each combination, by the seeds from `seed` on; tables have their mean and standard deviation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codebooks < 1:
            raise ConfigError("codebooks must be at least 1")
        for name in ("layers", "vocab_sizes"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name.replace('_', '-')} needs at least one value, each once")

    @property
    def seeds(self) -> range:
        """Of the codebooks of each combination."""
        return range(self.seed, self.seed + self.codebooks)


def sweep(config: SweepConfig) -> list[Report]:
    """Fit and score every combination; returns the reports of their codebooks, which also lie in a folder each.

    Raises:
        ConfigError: a layer the upstream lacks, more centroids than frames, or nothing left to fit on.
    """
    upstream = config.load(config.upstream, config.layers)
    heldout, repeated = heldout_cuts(config)
    tokenizers = fit_all(config, upstream, training_cuts(config.cuts, config, {cut.id for cut in heldout}))
    drop_cache(config)
    reports = score_all(config, upstream, tokenizers, heldout, repeated)
    write_sweep(reports, {field.name: getattr(config, field.name) for field in fields(config)}, config.out)
    return reports


def fit_all(config: SweepConfig, upstream: Upstream, cuts: Sequence[tuple[int, Cut]]) -> dict[Path, Tokenizer]:
    """The tokenizers of every layer and vocabulary size, by the folders where they are saved."""
    kept = training_frames(config, upstream, config.layers, cuts)
    tokenizers = {}
    for i, layer in enumerate(config.layers):
        source = columns(kept, i * upstream.width, upstream.width)
        for vocab_size, seed in product(config.vocab_sizes, config.seeds):
            log.info("fitting %d centroids on layer %d", vocab_size, layer)
            settings = KMeansConfig(vocab_size=vocab_size, seed=seed)
            result = fit_kmeans(source, settings, Ranks(), upstream.device)
            described = config.tokenizer(config.upstream, [layer])
            tokenizer = Tokenizer(described, upstream, kmeans_codebook(result.centroids.cpu().numpy()))
            name = f"layer{layer}-k{vocab_size}" + (f"-seed{seed}" if config.codebooks > 1 else "")
            tokenizers[Path(config.out) / name] = tokenizer
            tokenizer.save(Path(config.out) / name)
    return tokenizers


def score_all(
    config: SweepConfig,
    upstream: Upstream,
    folders: dict[Path, Tokenizer],
    cuts: Sequence[Cut],
    repeated: Sequence[BadAudio],
) -> list[Report]:
    """Label held-out speech with every codebook in one pass, and measure each; the reports go to their folders.

    What is `repeated` is in them among what could not be used.
    """
    tokenizers = list(folders.values())

    def labels(features: dict[int, torch.Tensor]) -> torch.Tensor:
        return torch.cat([tokenizer.quantize(features) for tokenizer in tokenizers], dim=1)  # (frames, combinations)

    def encode(samples: Samples) -> Codes:
        features = extract_samples(upstream, samples, config.layers, config.extraction.windows)
        return labels({layer: part.to(upstream.device) for layer, part in features.items()}).cpu().numpy()

    meters = [Meter(tokenizer.vocab_sizes[0], tokenizer.frame_rate_hz, config) for tokenizer in tokenizers]

    def reject(error: BadAudio) -> None:
        for meter in meters:
            meter.reject(error)

    for error in repeated:
        reject(error)
    with Progress("quality", sum(cut.duration for cut in cuts)) as progress:
        for cut, found in extract(cuts, upstream, config.layers, labels, config.extraction):
            progress.add(cut.duration)
            if isinstance(found, BadAudio):
                log.warning("not scored: %s", found)
                reject(found)
                continue
            for meter, codes in zip(meters, found.to(torch.int32).numpy().T, strict=True):
                meter.add(cut, np.ascontiguousarray(codes))
    some = [utterance.cut for utterance in meters[0].drawn()[: config.ued_utterances]]
    pairs = encoded_pairs(some, upstream, encode, config.seed, reject)
    reports = []
    for i, (folder, tokenizer, meter) in enumerate(zip(folders, tokenizers, meters, strict=True)):
        mine = stream_pairs(pairs, i)
        described = {"fingerprint": tokenizer.fingerprint, **asdict(tokenizer.config)}
        described |= {"layer": tokenizer.config.layers[0], "vocab_size": tokenizer.vocab_sizes[0]}
        described["frame_rate_hz"] = tokenizer.frame_rate_hz
        report = make_report(
            config.heldout_cuts, described, meter, token_abx(meter, tokenizer.quantizer, upstream.device), mine
        )
        write_report(report, folder)
        reports.append(report)
    return reports


def main(argv: Sequence[str]) -> int:
    """The command `voxtok sweep`."""
    config = parse(SweepConfig, argv, "voxtok sweep")
    reports = sweep(config)
    print(f"{len(reports) // config.codebooks} combinations -> {config.out}/sweep.html, {config.out}/sweep.tsv")
    return 0
