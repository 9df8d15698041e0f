"""`voxtok convert`: speech -> the same words in another voice: one file, or a corpus as a folder and its manifest."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lhotse.cut import Cut

from voxtok.manifests.audio import AUDIO_SUFFIXES
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.identity import inputs_of
from voxtok.manifests.store import TokenStore
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, ranks_from_environment
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.files import sha256
from voxtok.runtime.progress import Progress
from voxtok.tokenize.extract import ExtractConfig
from voxtok.tokenize.upstream import Dtype, Normalization
from voxtok.tokenize.weights import hash_weights
from voxtok.tokenize.windows import WindowConfig, windows_of
from voxtok.vocoder.audio_folder import AudioFolder, Order, write_wav
from voxtok.vocoder.centroids import Centroids
from voxtok.vocoder.conversion import Blend, Converter, Search
from voxtok.vocoder.features import FeatureConfig, Features
from voxtok.vocoder.make_pool import pool_of
from voxtok.vocoder.matching import Weighting
from voxtok.vocoder.pool import Pool, is_pool
from voxtok.vocoder.reference import reference_cuts
from voxtok.vocoder.speaker import load_speaker_model
from voxtok.vocoder.vocoder import Vocoder


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Convert a recording, a corpus or a token store to the voice of a reference (kNN-VC)."""

    reference: str
    """The target's voice: a pool that `voxtok pool` wrote, an audio file, a folder of audio files, or Lhotse cuts."""
    vocoder: str
    """Vocoder folder, trained on the features of the pool."""
    out: str
    """A .wav file for one source file, else a folder to write; run again to go on where a killed job stopped."""
    source: str | None = None
    """An audio file, a folder of audio files, or Lhotse cuts."""
    tokens: str | None = None
    """A token store in place of --source: the centroids of its tokens are converted."""
    upstream: str | None = None
    """SSL model of the features, needed where no reference is a pool; beside a pool, another place of its model."""
    layer: int | None = None
    """Its layer, 1-based; needed where no reference is a pool."""
    normalization: Normalization | None = None
    """Its waveform normalisation: checkpoint, utterance or none (kNN-VC); needed where no reference is a pool."""
    dtype: Dtype = "float32"
    """Number format that it computes in, where no reference is a pool."""
    k: int = 4
    """Frames of the reference whose mean takes the place of a source frame."""
    weighting: Weighting = "uniform"
    """uniform, or distance: nearer frames weigh more."""
    keep_source: float = 0.0
    """0 is the target's voice, 1 the source's own; between them features are interpolated."""
    second_reference: str | None = None
    """Another voice, for --second."""
    second: float = 0.0
    """0 is the voice of --reference, 1 that of --second-reference."""
    speaker_model: str | None = None
    """What measures the target where the vocoder is told who speaks and no pool has it: mini, or a folder."""
    name: str | None = None
    """The target's name, for the manifest."""
    trim: bool = False
    """Leave out silence before and after the speech of each reference recording; a pool has been trimmed or not."""
    window_s: float | None = 60.0
    """Recordings longer than this are computed in windows of it; null computes every recording whole."""
    overlap_s: float = 4.0
    """Overlap of windows, of which each side's half is discarded."""
    search: Search = field(default_factory=Search)
    """How neighbours are found."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    strict: bool = False
    """Stop at the first bad recording instead of listing it in rejected.jsonl."""

    def __post_init__(self) -> None:
        if bool(self.source) == bool(self.tokens):
            raise ConfigError("give either --source or --tokens")
        if (self.second_reference is None) != (self.second == 0):
            raise ConfigError("--second-reference and its share --second are given together")
        if self.is_one_file and Path(self.out).suffix.lower() != ".wav":
            raise ConfigError(f"--out {self.out}: one source file becomes one .wav file")

    @property
    def is_one_file(self) -> bool:
        """Whether one recording is converted, to a file."""
        return self.source is not None and Path(self.source).suffix.lower() in AUDIO_SUFFIXES

    @property
    def blend(self) -> Blend:
        """Neighbours and interpolation."""
        return Blend(k=self.k, weighting=self.weighting, keep_source=self.keep_source, second=self.second)

    @property
    def windows(self) -> WindowConfig | None:
        """The windows of long recordings."""
        return windows_of(self.window_s, self.overlap_s)


def open_converter(config: ConvertConfig) -> tuple[Converter, Features | None]:
    """The converter and the SSL model, which is left out where pools and tokens need none.

    Raises:
        ConfigError: no pool is given, and not which SSL model to make one with.
        TokenizerMismatch: pools or vocoder of different features.
        ManifestError: no recording of a reference can be used.
    """
    references = [path for path in (config.reference, config.second_reference) if path is not None]
    pools: dict[str, Pool] = {path: Pool.load(path) for path in references if is_pool(path)}
    features = None
    if config.source is not None or len(pools) < len(references):
        features = _open_features(config, next(iter(pools.values()), None))
    for path in references:
        if path not in pools:
            assert features is not None
            pools[path] = _pool_of(path, features, config)
    converter = Converter(
        Vocoder.load(config.vocoder, device=config.device),
        pools[config.reference],
        config.blend,
        second=pools[config.second_reference] if config.second_reference else None,
        search=config.search,
    )
    return converter, features


def _pool_of(path: str, features: Features, config: ConvertConfig) -> Pool:
    speaker_model = None
    if config.speaker_model is not None:
        speaker_model = load_speaker_model(config.speaker_model, device=config.device)
    pool, _ = pool_of(
        reference_cuts(path),
        features,
        windows=config.windows,
        trim=config.trim,
        speaker_model=speaker_model,
        strict=config.strict,
    )
    return pool


def _open_features(config: ConvertConfig, pool: Pool | None) -> Features:
    if pool is not None:
        described = pool.features if config.upstream is None else {**pool.features, "upstream": config.upstream}
        return Features.reopen(described, device=config.device)
    if config.upstream is None or config.layer is None or config.normalization is None:
        raise ConfigError(
            "give the vocoder's SSL model with --upstream, --layer and --normalization, or a pool as --reference"
        )
    wanted = FeatureConfig(
        upstream=config.upstream, layer=config.layer, normalization=config.normalization, dtype=config.dtype
    )
    return Features.open(wanted, device=config.device)


def convert_file(config: ConvertConfig) -> float:
    """Convert one recording to a .wav file; returns its seconds.

    Raises:
        BadAudio: the recording cannot be used.
    """
    assert config.source is not None
    converter, features = open_converter(config)
    ((_, frames),) = _of_audio(load_cuts(config.source), features, config)
    if isinstance(frames, BadAudio):
        raise frames
    samples = converter.convert_frames(frames)
    write_wav(config.out, samples, converter.vocoder.sampling_rate)
    return len(samples) / converter.vocoder.sampling_rate


def convert_corpus(config: ConvertConfig, ranks: Ranks | None = None) -> dict[str, int] | None:
    """Convert a corpus or a token store to a folder, or complete one that was begun.

    Returns:
        Counts of utterances and rejected ones, or None while other ranks still have some to do.

    Raises:
        BadAudio: with `strict`, the first bad recording.
        TokenizerMismatch: tokens of other features than the pool's.
    """
    converter, features = open_converter(config)
    store = None if config.tokens is None else TokenStore.open(config.tokens)
    sources = reference_cuts(config.source) if config.source is not None else [cut for cut, _ in store or ()]
    refused = [source for source in sources if isinstance(source, BadAudio)]
    if refused and config.strict:
        raise refused[0]
    search = [config.search.index, config.search.probes]
    tokenizer = None if store is None else store.fingerprint
    settings = [_identity(converter), search, config.window_s, config.overlap_s, tokenizer]
    orders = [
        Order(source, sha256([settings, inputs_of(source)]), config.name)
        for source in sources
        if not isinstance(source, BadAudio)
    ]
    folder = AudioFolder(config.out, orders, refused, ranks or Ranks())
    todo = folder.open_orders()
    found: Iterator[tuple[Cut, torch.Tensor | BadAudio]]
    if store is not None:
        found = _of_tokens(store, {order.source.id for order in todo}, converter)
    else:
        found = _of_audio([order.source for order in todo], features, config)
    with Progress("convert", sum(order.source.duration for order in todo)) as progress:
        for order, (_, frames) in zip(todo, found, strict=True):
            progress.add(order.source.duration)
            if isinstance(frames, BadAudio) and config.strict:
                raise frames
            made = frames if isinstance(frames, BadAudio) else converter.convert_frames(frames)
            folder.add(order, made, converter.vocoder.sampling_rate)
    return folder.finish()


def _of_audio(
    cuts: Iterable[Cut], features: Features | None, config: ConvertConfig
) -> Iterator[tuple[Cut, torch.Tensor | BadAudio]]:
    assert features is not None
    return features.of_cuts(cuts, ExtractConfig(windows=config.windows))


def _of_tokens(
    store: TokenStore, wanted: set[str], converter: Converter
) -> Iterator[tuple[Cut, torch.Tensor | BadAudio]]:
    """The centroids of the wanted utterances, in the order of the store."""
    centroids = Centroids.open(store)
    converter.vocoder.check_features(centroids.features)
    for cut, tokens in store:
        if cut.id in wanted:
            yield cut, centroids.frames(tokens)


def _identity(converter: Converter) -> list[Any]:
    """What decides a conversion, the source aside."""
    vocoder = converter.vocoder
    weights = {name: tensor.cpu() for name, tensor in vocoder.model.state_dict().items()}
    shape = [asdict(vocoder.model.config), asdict(vocoder.facts)]
    speaker = None if converter.speaker is None else converter.speaker.tolist()
    return [asdict(converter.blend), converter.pools_sha256, speaker, hash_weights(weights), shape]


def main(argv: Sequence[str]) -> int:
    """The command `voxtok convert`."""
    config = parse(ConvertConfig, argv, "voxtok convert")
    if config.is_one_file:
        print(f"{convert_file(config):.2f} s -> {config.out}")
        return 0
    summary = convert_corpus(config, ranks_from_environment())
    if summary is None:
        print("this rank's share is done; the folder is complete once the other ranks' are")
        return 0
    listed = f" (see {config.out}/rejected.jsonl)" if summary["rejected"] else ""
    print(f"{summary['utterances']} utterances -> {config.out}; {summary['rejected']} rejected{listed}")
    return 1 if summary["rejected"] and not summary["utterances"] else 0
