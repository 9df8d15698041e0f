"""`voxtok quality`: token store -> purity, PNMI, ABX, unit edit distance, usage, bitrate, speaker leakage.

Tokens and alignments come from the store; the SSL model runs only over the utterances drawn for the unit edit distance
and, where asked, for ABX on its features. A store with several streams gets a report for each of them, and a table of
what they cost and say together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.cut import Cut

from voxtok.manifests.audio import Samples, read_audio
from voxtok.manifests.codebook import Codebook
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.store import TokenStore
from voxtok.runtime.config import parse
from voxtok.runtime.errors import BadAudio, ConfigError, ManifestError
from voxtok.runtime.progress import Progress
from voxtok.tokenize.meter import AbxResult, Codes, Meter, Scoring, Utterance
from voxtok.tokenize.metrics import LEAKAGE, PURITY, Report, value_of, written
from voxtok.tokenize.quantizer import Quantizer, open_quantizer
from voxtok.tokenize.rate_page import write_rates
from voxtok.tokenize.report import write_report
from voxtok.tokenize.stream_meter import Rate, StreamMeter, stream_pairs
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.tokenizer_folder import read_description, require_same, tokenizer_folder
from voxtok.tokenize.unit_edit import EncodedPairs, encoded_pairs, unit_edit

TOKENIZER_FIELDS = ("fingerprint", "upstream", "layer", "vocab_size", "frame_rate_hz", "dedup")


@dataclass(frozen=True, kw_only=True)
class QualityConfig(Scoring):
    """Measure the tokens of a store and write quality.json and quality.html."""

    store: str
    """Token store, of cuts with phone alignments (`supervision.alignment["phone"]`) and speakers."""
    stream: int | None = None
    """Stream to measure, from 0; null measures all, each in a folder of its own where there are several."""
    out: str
    """Folder of the report."""
    cuts: str | None = None
    """Cuts with the alignments, speakers and audio, found by id, where those of the store lack them."""
    tokenizer: str | None = None
    """Tokenizer folder; by default the copy in the store."""
    upstream: str | None = None
    """Another place of the same SSL model, if it moved since the tokenizer was fitted."""
    ued_utterances: int = 50
    """Utterances encoded anew for the unit edit distance; 0 leaves it out, and then no SSL model is loaded."""
    abx_features: bool = False
    """Also ABX of the features that were quantized: the SSL model runs over all drawn utterances."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""


def measure(config: QualityConfig) -> Report:
    """Measure one stream of a store and return the report that `write_report` writes.

    Raises:
        TokenizerMismatch: the tokenizer is not the one that made the tokens.
        ManifestError: with `cuts`, an utterance of the store is not among them.
        ConfigError: a store with several streams and no `stream`, or one of subword units.
    """
    streams = len(TokenStore.open(config.store).info.vocab_sizes)
    if streams > 1 and config.stream is None:
        raise ConfigError(f"{config.store} has {streams} streams: say which one with --stream 0 ... {streams - 1}")
    return measure_streams(config)[0][0]


def measure_streams(config: QualityConfig) -> tuple[list[Report], list[Rate]]:
    """As `measure`, for every stream of a store or for the one that `stream` says.

    Returns:
        A report a stream; and where all of several streams are measured, what the first of them cost together.
    """
    store = TokenStore.open(config.store)
    folder = tokenizer_folder(config.tokenizer or store.folder / "tokenizer")
    described = read_description(folder)
    require_same(described["fingerprint"], store.fingerprint, config.store)
    if described.get("bpe"):
        raise ConfigError(f"{config.store} holds subword units: measure the store of tokens that they are made of")
    sizes = store.info.vocab_sizes
    chosen = _chosen(config, len(sizes))
    meter = StreamMeter([sizes[stream] for stream in chosen], store.frame_rate_hz, config)
    with Progress("quality", store.summary["duration_s"]) as progress:
        for cut, codes in _utterances(store, config):
            meter.add(cut, codes[:, chosen])
            progress.add(cut.duration)
    codebook = Codebook.load(folder / "codebook.safetensors")
    quantizer = open_quantizer(codebook, torch.device("cpu"))
    features, pairs = _with_model(config, folder, meter, chosen)
    reports = []
    for i, stream in enumerate(chosen):
        one, mine = meter.meters[i], stream_pairs(pairs, i)
        abx = token_abx(one, quantizer if len(sizes) == 1 else None)
        tokenizer = _tokenizer_fields(described, sizes, stream)
        reports.append(make_report(config.store, tokenizer, one, abx + features, mine))
    together = meter.rates(config.store, codebook.kind, quantizer, pairs) if len(chosen) > 1 else []
    return reports, together


def _with_model(
    config: QualityConfig, folder: Path, meter: StreamMeter, chosen: Sequence[int]
) -> tuple[list[AbxResult], EncodedPairs]:
    """What the SSL model is needed for: ABX of features, and tokens of changed audio."""
    if not config.ued_utterances and not config.abx_features:
        return [], {}
    tokenizer = Tokenizer.load(folder, device=config.device, upstream=config.upstream)
    first, rate = meter.meters[0], tokenizer.upstream.sampling_rate
    abx: list[AbxResult] = []
    if config.abx_features:
        features = partial(_features, tokenizer=tokenizer, reject=meter.reject)
        abx = first.abx("features", features, ["angular"], tokenizer.upstream.device)

    def encode(samples: Samples) -> Codes:
        return tokenizer.encode(samples, rate).expand().codes[:, chosen]

    some = [utterance.cut for utterance in first.drawn()[: config.ued_utterances]]
    return abx, encoded_pairs(some, tokenizer.upstream, encode, config.seed, meter.reject)


def _tokenizer_fields(described: dict[str, Any], sizes: Sequence[int], stream: int) -> dict[str, Any]:
    """The TOKENIZER_FIELDS of one stream."""
    layer = described["layers"][0] if len(described["layers"]) == 1 else "+".join(map(str, described["layers"]))
    known = {**described, "layer": layer, "vocab_size": sizes[stream]}
    found = {name: known[name] for name in TOKENIZER_FIELDS}
    return found | ({"stream": stream} if len(sizes) > 1 else {})


def _chosen(config: QualityConfig, streams: int) -> list[int]:
    """The streams to measure."""
    if config.stream is None:
        return list(range(streams))
    if not 0 <= config.stream < streams:
        raise ConfigError(f"{config.store} has no stream {config.stream}: there are 0 ... {streams - 1}")
    return [config.stream]


def token_abx(meter: Meter, quantizer: Quantizer | None, device: torch.device | str = "cpu") -> list[AbxResult]:
    """ABX of token numbers, and of the vectors they stand for where the quantizer has this stream only."""
    found = meter.abx("tokens", _tokens, ["edit", "identical"])
    if quantizer is None:
        return found

    def vectors(utterance: Utterance) -> torch.Tensor:
        return quantizer.decode(_tokens(utterance)[:, None].to(device)).cpu()

    return found + meter.abx("centroids", vectors, ["angular"])


def make_report(
    store: str, tokenizer: dict[str, Any], meter: Meter, abx: Sequence[AbxResult], pairs: EncodedPairs
) -> Report:
    """Everything that was measured, as JSON; `tokenizer` has the TOKENIZER_FIELDS."""
    return {
        "format": "voxtok-quality",
        "version": 1,
        "store": store,
        "tokenizer": tokenizer,
        "scoring": {field.name: getattr(meter.scoring, field.name) for field in fields(Scoring)},
        **meter.report(),
        "abx": [asdict(result) for result in abx],
        "unit_edit": {name: asdict(score) for name, found in pairs.items() if (score := unit_edit(found))},
    }


def _utterances(store: TokenStore, config: QualityConfig) -> Iterator[tuple[Cut, Codes]]:
    """Every utterance's cut, of `config.cuts` where given, and its (frames, streams) tokens before dedup."""
    known = {cut.id: cut for cut in load_cuts(config.cuts)} if config.cuts else None
    for cut, tokens in store:
        if known is not None and cut.id not in known:
            raise ManifestError(f"{config.cuts} has no cut {cut.id}, which {config.store} has tokens of")
        yield known[cut.id] if known is not None else cut, tokens.expand().codes


def _tokens(utterance: Utterance) -> torch.Tensor:
    return torch.from_numpy(utterance.codes.astype(np.int64))


def _features(utterance: Utterance, tokenizer: Tokenizer, reject: Callable[[BadAudio], None]) -> torch.Tensor:
    """(frames, D) features; none where the audio cannot be used, so that the utterance is left out."""
    rate = tokenizer.upstream.sampling_rate
    try:
        return tokenizer.features(read_audio(utterance.cut, rate), rate)
    except BadAudio as error:
        reject(error)
    except ConfigError as error:
        reject(BadAudio(utterance.cut.id, "too short", str(error)))
    return torch.zeros(0, tokenizer.upstream.width * len(tokenizer.config.layers))


def main(argv: Sequence[str]) -> int:
    """The command `voxtok quality`."""
    config = parse(QualityConfig, argv, "voxtok quality")
    reports, together = measure_streams(config)
    for stream, report in enumerate(reports):
        folder = Path(config.out) / f"stream{stream}" if len(reports) > 1 else Path(config.out)
        write_report(report, folder)
        print(summary(report), f"-> {folder}/quality.html")
    if together:
        write_rates(together, {"store": config.store}, config.out, "streams")
        print(f"{len(reports)} streams, {together[-1].bitrate_bps:.0f} bit/s together -> {config.out}/streams.html")
    return 0


def summary(report: Report) -> str:
    """One line for the terminal."""
    found = [
        f"{metric.title} {written(metric.form, value_of(report, metric.path))}" for metric in (*PURITY[:2], *LEAKAGE)
    ]
    found += [f"ABX {row['speakers']} {written('{:.1%}', row['score']['error'])}" for row in report["abx"][:2]]
    if report["unusable"]:
        found.append(f"{len(report['unusable'])} utterances could not be used (listed in quality.json)")
    return ", ".join(found)
