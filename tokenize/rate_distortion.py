"""`voxtok rate-distortion`: quantizers on the same features -> bitrate, error, PNMI, ABX, UED, perplexity: one table.

Features to fit on are computed once for all quantizers, held-out ones once for all tokenizers of one SSL model. Every
fitted quantizer is left as a tokenizer folder.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path

import numpy as np
import torch
from lhotse.cut import Cut

from voxtok.manifests.audio import Samples
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, pick_device
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.files import sha256, write_json
from voxtok.runtime.progress import Progress
from voxtok.tokenize.compare import CompareConfig, drop_cache, heldout_cuts, training_cuts, training_frames
from voxtok.tokenize.extract import ExtractConfig, extract, side_by_side
from voxtok.tokenize.fit_codebook import STREAMED, QuantizerConfig, check_layers, fit_codebook
from voxtok.tokenize.meter import Codes
from voxtok.tokenize.quantizer import RESIDUAL
from voxtok.tokenize.rate_page import write_rates
from voxtok.tokenize.reconstruction import ReconstructionCounts
from voxtok.tokenize.stream_meter import Rate, StreamMeter
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.unit_edit import EncodedPairs, encoded_pairs
from voxtok.tokenize.windows import extract_samples

log = logging.getLogger("voxtok")


@dataclass(frozen=True, kw_only=True)
class RateDistortionConfig(CompareConfig):
    """Compare quantizers, fitted here or before, on the same held-out speech."""

    tokenizers: tuple[str, ...] = ()
    """Tokenizer folders to compare, of any SSL models."""
    quantizers: tuple[str, ...] = ()
    """Quantizers to fit and compare: NAME:K, or NAME:KxSTREAMS such as rvq:256x4; fsq:8x5x5x5 gives levels."""
    cuts: str | None = None
    """Cuts to fit on; those that are held out too are left out."""
    upstream: str | None = None
    """What to fit on: mfcc, logmel, a Hugging Face folder or id[@revision], or torchaudio:NAME[=checkpoint]."""
    layers: tuple[int, ...] = ()
    """Layers to fit on, side by side: outputs of the transformer blocks, 1-based; 0 is the input to block 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tokenizers and not self.quantizers:
            raise ConfigError("there is nothing to compare: give --quantizers, --tokenizers or both")
        if self.quantizers and not (self.cuts and self.upstream and self.layers):
            raise ConfigError("--quantizers are fitted here, which needs --cuts, --upstream and --layers")
        names = [*self.quantizers, *self.tokenizers]
        if len(set(names)) < len(names):
            raise ConfigError("give each of --quantizers and --tokenizers once")
        for name in self.quantizers:
            check_layers(quantizer_of(name, self.seed), self.layers)


def quantizer_of(name: str, seed: int) -> QuantizerConfig:
    """The options that such a name as kmeans:500, rvq:256x4 or fsq:8x5x5x5 stands for.

    Raises:
        ConfigError: another form, an unknown quantizer, or options that contradict each other.
    """
    form = re.fullmatch(r"([a-z-]+):(\d+(?:x\d+)*)", name)
    if not form:
        raise ConfigError(f"{name!r} is no quantizer: write NAME:K or NAME:KxSTREAMS, such as kmeans:500 or rvq:256x4")
    kind, numbers = form[1], [int(number) for number in form[2].split("x")]
    if kind == "fsq":
        return QuantizerConfig(quantizer=kind, vocab_size=prod(numbers), levels=tuple(numbers), seed=seed)
    if len(numbers) > 2 or (len(numbers) == 2) != (kind in STREAMED):
        streams = "KxSTREAMS" if kind in STREAMED else "K"
        QuantizerConfig(quantizer=kind, vocab_size=numbers[0], streams=1 if kind in STREAMED else None)
        raise ConfigError(f"{name!r}: write {kind}:{streams}")
    return QuantizerConfig(quantizer=kind, vocab_size=numbers[0], streams=dict(enumerate(numbers)).get(1), seed=seed)


def rate_distortion(config: RateDistortionConfig) -> list[Rate]:
    """Fit what is to be fitted, score everything, and write rates.json, rates.tsv and rates.html.

    Raises:
        ConfigError: a layer the upstream lacks, more tokens than frames, dimensions that streams cannot share.
    """
    heldout, _ = heldout_cuts(config)
    named = fit_all(config, heldout) if config.quantizers else {}
    for folder in config.tokenizers:
        named[folder] = Tokenizer.load(folder, device=config.device)
    groups: dict[str, list[Scored]] = {}
    for name, tokenizer in named.items():
        same = sha256([tokenizer.upstream.identity, str(tokenizer.config.windows)])
        groups.setdefault(same, []).append(Scored(name, tokenizer, config))
    points = [point for group in groups.values() for point in score(config, group, heldout)]
    settings = {field.name: getattr(config, field.name) for field in fields(config)}
    write_rates(points, settings, config.out, "rates")
    return points


def fit_all(config: RateDistortionConfig, heldout: Sequence[Cut]) -> dict[str, Tokenizer]:
    """A tokenizer for every quantizer, saved in a folder of its name."""
    assert config.cuts and config.upstream
    upstream = config.load(config.upstream, config.layers)
    cuts = training_cuts(config.cuts, config, {cut.id for cut in heldout})
    frames = training_frames(config, upstream, config.layers, cuts)
    tokenizers = {}
    for name in config.quantizers:
        log.info("fitting %s", name)
        codebook, health = fit_codebook(frames, quantizer_of(name, config.seed), Ranks(), pick_device(config.device))
        tokenizers[name] = Tokenizer(config.tokenizer(config.upstream, config.layers), upstream, codebook)
        folder = Path(config.out) / name.replace(":", "-")
        tokenizers[name].save(folder)
        write_json(folder / "health.json", health)
    drop_cache(config)
    return tokenizers


class Scored:
    """A tokenizer and what is counted of its tokens."""

    def __init__(self, name: str, tokenizer: Tokenizer, config: RateDistortionConfig) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.meter = StreamMeter(tokenizer.quantizer.vocab_sizes, tokenizer.frame_rate_hz, config)
        streams = len(tokenizer.quantizer.vocab_sizes)
        device = tokenizer.upstream.device
        self._prefixes = list(range(1, streams + 1)) if tokenizer.codebook.kind in RESIDUAL else [streams]
        self._counts = [ReconstructionCounts(tokenizer.quantizer, device) for _ in self._prefixes]

    def add(self, cut: Cut, features: dict[int, torch.Tensor]) -> None:
        """Count one utterance's features, {layer: (N, width)} on the device."""
        frames = self.tokenizer.joined(features)
        codes = self.tokenizer.quantizer.encode(frames)
        for streams, counts in zip(self._prefixes, self._counts, strict=True):
            counts.add(frames, codes[:, :streams])
        self.meter.add(cut, codes.cpu().numpy().astype(np.int32))

    def rates(self, pairs: EncodedPairs) -> list[Rate]:
        """The points of this tokenizer."""
        kind, device = self.tokenizer.codebook.kind, self.tokenizer.upstream.device
        errors = [counts.result(Ranks()).relative for counts in self._counts]
        return self.meter.rates(self.name, kind, self.tokenizer.quantizer, pairs, device, errors)


def score(config: RateDistortionConfig, group: Sequence[Scored], cuts: Sequence[Cut]) -> list[Rate]:
    """Encode held-out speech with tokenizers of one SSL model, computed once, and measure each."""
    highest = max(group, key=lambda scored: max(scored.tokenizer.config.layers)).tokenizer
    upstream, windows = highest.upstream, highest.config.windows
    layers = sorted({layer for scored in group for layer in scored.tokenizer.config.layers})
    extraction = ExtractConfig(windows=windows, readers=config.readers)
    with Progress("quality", sum(cut.duration for cut in cuts)) as progress:
        for cut, found in extract(cuts, upstream, layers, side_by_side(layers), extraction):
            progress.add(cut.duration)
            if isinstance(found, BadAudio):
                log.warning("not scored: %s", found)
                continue
            parts = dict(zip(layers, found.to(upstream.device).split(upstream.width, dim=1), strict=True))
            for scored in group:
                scored.add(cut, parts)

    def encode(samples: Samples) -> Codes:
        features = extract_samples(upstream, samples, layers, windows)
        parts = {layer: part.to(upstream.device) for layer, part in features.items()}
        return torch.cat([scored.tokenizer.quantize(parts) for scored in group], dim=1).cpu().numpy()

    some = [utterance.cut for utterance in group[0].meter.meters[0].drawn()[: config.ued_utterances]]
    pairs = encoded_pairs(some, upstream, encode, config.seed, lambda error: log.warning("not encoded anew: %s", error))
    points: list[Rate] = []
    first = 0
    for scored in group:
        mine = slice(first, first + len(scored.meter.meters))
        first = mine.stop
        points += scored.rates({name: [(a[:, mine], b[:, mine]) for a, b in rows] for name, rows in pairs.items()})
    return points


def main(argv: Sequence[str]) -> int:
    """The command `voxtok rate-distortion`."""
    config = parse(RateDistortionConfig, argv, "voxtok rate-distortion")
    points = rate_distortion(config)
    print(f"{len(points)} points -> {config.out}/rates.html, {config.out}/rates.tsv")
    return 0
