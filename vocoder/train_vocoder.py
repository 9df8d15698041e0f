"""`voxtok train-vocoder`: tokens or features of speech -> a vocoder that turns them back into it.

What goes in decides what comes out:

--store TOKENS                     tokens, which the vocoder embeds itself; several streams are joined
--cuts CUTS --tokenizer FOLDER     the tokenizer's features, and the features that its tokens stand for: one vocoder
                                   then takes both
--cuts CUTS --features.upstream X --features.layer L --features.normalization N    features of an SSL model
--frames FOLDER                    features that were made before, such as prematched ones; with --tokenizer also tokens
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from lhotse.cut import Cut

from voxtok.manifests.codebook import Codebook
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.identity import inputs_of
from voxtok.manifests.store import TokenStore
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, connected_ranks, pick_device
from voxtok.runtime.errors import ConfigError, TokenizerMismatch
from voxtok.runtime.files import sha256, weights_hash
from voxtok.tokenize.extract import ExtractConfig, Reduce, extract
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.upstream import Upstream
from voxtok.vocoder.discriminators import DiscriminatorConfig, Discriminators
from voxtok.vocoder.features import FeatureConfig, Features, features_fingerprint
from voxtok.vocoder.frame_store import FrameInfo, FrameStore, is_made, require_files, write_frames
from voxtok.vocoder.inputs import FeatureInput
from voxtok.vocoder.loop_config import LoopConfig
from voxtok.vocoder.losses import LossConfig
from voxtok.vocoder.model import VocoderModel
from voxtok.vocoder.model_config import Facts, ModelConfig
from voxtok.vocoder.segments import SegmentConfig
from voxtok.vocoder.speaker import SpeakerModel, load_speaker_model
from voxtok.vocoder.speech import Content, Measures, Speech, read_frames, read_speech, read_tokens
from voxtok.vocoder.train import Trainee, train
from voxtok.vocoder.vocoder import Vocoder

PART_CUTS = 500
"""Cuts whose features are computed together, and are not computed again after a kill."""
STATISTICS_UTTERANCES = 200
"""Utterances that the mean and deviation of features are measured on."""
IRRELEVANT = {"out": "", "device": "", "memory_gb": 0}
"""Options that do not change the model, for the identity of a run."""


@dataclass(frozen=True, kw_only=True)
class TrainVocoderConfig:
    """Train a vocoder on tokens or features of speech."""

    out: str
    """Folder to write; the vocoder is in out/model."""
    hop_samples: int
    """Samples of a frame, 320 for HuBERT and WavLM: must agree with the frame rate of what goes in."""
    model: ModelConfig
    """Shape of the vocoder."""
    train: LoopConfig
    """Steps, learning rates, reports, checkpoints."""
    store: str | None = None
    """Token store of one corpus, with its audio."""
    cuts: str | None = None
    """Lhotse cuts or recordings, with audio files, to compute features of."""
    tokenizer: str | None = None
    """Tokenizer folder: whose features, with --cuts; whose tokens the vocoder shall take too, with --frames."""
    features: FeatureConfig | None = None
    """Features to compute of --cuts, where there is no tokenizer."""
    frames: str | None = None
    """Store of frames, as `voxtok prematch` makes it."""
    segments: SegmentConfig = field(default_factory=SegmentConfig)
    """How batches are drawn."""
    losses: LossConfig = field(default_factory=LossConfig)
    """Weights of the terms."""
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """Which discriminators are trained against the generator."""
    init: str | None = None
    """A vocoder folder of the same shape that the weights come from; null begins at random."""
    speaker_model: str | None = None
    """What measures speakers where model.speaker is embedding: mini, or a folder (see voxtok.vocoder.speaker)."""
    memory_gb: float = 16.0
    """Audio kept in memory (115 MB an hour); the rest is read from disk for every segment."""
    seed: int = 0
    """Of weights and batches."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.store, self.cuts, self.frames)) != 1:
            raise ConfigError("give one of --store, --cuts and --frames")
        if self.cuts and (self.tokenizer is None) == (self.features is None):
            raise ConfigError("--cuts needs either --tokenizer or --features.upstream, .layer and .normalization")
        if self.store and self.tokenizer:
            raise ConfigError("--store has its own tokenizer: leave out --tokenizer")
        if self.features and not self.cuts:
            raise ConfigError("--features are computed of --cuts")
        if (self.model.speaker == "embedding") != (self.speaker_model is not None):
            raise ConfigError("model.speaker embedding and --speaker-model go together")


@dataclass(frozen=True, eq=False)
class Corpus:
    """What goes in: where its frames come from, and what is true of them."""

    read: Callable[[], Iterable[tuple[Cut, Content, Content | None]]]
    facts: Facts
    codebook: Codebook | None


def open_corpus(config: TrainVocoderConfig, ranks: Ranks) -> Corpus:
    """The tokens or features that the configuration names; features of cuts are computed by the first rank.

    Raises:
        ConfigError: hop_samples is not that of the frames.
        TokenizerMismatch: --frames holds features of another model than the tokenizer's.
    """
    if config.store:
        return _of_store(TokenStore.open(config.store), config.hop_samples)
    tokenizer = Tokenizer.load(config.tokenizer, device=config.device) if config.tokenizer else None
    store = FrameStore.open(config.frames) if config.frames else _computed(config, tokenizer, ranks)
    check_hop_samples(config.hop_samples, store.info.sampling_rate, store.info.hop_samples, str(store.folder))
    if tokenizer is None:
        codebook, facts = None, _feature_facts(store, None, ())
    else:
        _check_features(store, tokenizer)
        # Runs of equal tokens are the vocoder's own business: its tokens have durations or one frame each.
        codebook, facts = tokenizer.codebook, _feature_facts(store, tokenizer.fingerprint, tokenizer.vocab_sizes)
    return Corpus(lambda: read_frames(store, codebook), facts, codebook)


def check_hop_samples(wanted: int, sampling_rate: int, found: float, where: str) -> None:
    """Check the configured hop against that of the frames.

    Raises:
        ConfigError: they differ; names both.
    """
    if wanted != found:
        raise ConfigError(
            f"--hop-samples is {wanted}, but {where} has {sampling_rate / found:g} frames a second, "
            f"{found:g} samples each at {sampling_rate} Hz"
        )


def _of_store(store: TokenStore, hop_samples: int) -> Corpus:
    from voxtok.tokenize.tokenizer_folder import read_description

    sampling_rate = int(read_description(store.folder / "tokenizer")["identity"].get("sampling_rate", 16000))
    check_hop_samples(hop_samples, sampling_rate, sampling_rate / store.frame_rate_hz, str(store.folder))
    facts = Facts(
        sampling_rate=sampling_rate,
        hop_samples=hop_samples,
        inputs="tokens",
        vocab_sizes=store.info.vocab_sizes,
        tokenizer=store.fingerprint,
    )
    return Corpus(lambda: read_tokens(store), facts, None)


def _feature_facts(store: FrameStore, tokenizer: str | None, vocab_sizes: tuple[int, ...]) -> Facts:
    return Facts(
        sampling_rate=store.info.sampling_rate,
        hop_samples=store.info.hop_samples,
        inputs="features",
        feature_width=store.info.width,
        features=store.info.features,
        tokenizer=tokenizer,
        vocab_sizes=vocab_sizes,
    )


def _check_features(store: FrameStore, tokenizer: Tokenizer) -> None:
    if tokenizer.subwords is not None:
        raise ConfigError("a vocoder takes tokens of frames, not subwords: give the tokenizer without bpe.model")
    wanted = features_fingerprint(tokenizer.upstream, tokenizer.config.layers)
    if store.info.features != wanted:
        raise TokenizerMismatch(
            f"{store.folder} holds features {store.info.features[:12]}, the tokenizer quantizes {wanted[:12]}: "
            "they must be of the same SSL model and layer"
        )


def _computed(config: TrainVocoderConfig, tokenizer: Tokenizer | None, ranks: Ranks) -> FrameStore:
    """The features of --cuts in out/frames, computed unless they are there already."""
    assert config.cuts is not None
    folder = Path(config.out) / "frames"
    if ranks.is_first:
        upstream, layers, reduce, extraction = _extraction(config, tokenizer)
        cuts = list(load_cuts(config.cuts))
        require_files(cuts)
        info = FrameInfo(
            features=features_fingerprint(upstream, layers),
            width=upstream.width * len(layers),
            sampling_rate=upstream.sampling_rate,
            hop_samples=upstream.hop_samples,
            made_of=sha256([[inputs_of(cut) for cut in cuts], asdict(extraction)]),
        )
        if not is_made(folder, info):
            if (folder / "frames.json").exists() and (folder.parent / "training.pt").exists():
                raise ConfigError(f"{folder} belongs to a training of other cuts or features: give another --out")
            parts = [cuts[start : start + PART_CUTS] for start in range(0, len(cuts), PART_CUTS)]
            compute = partial(extract, upstream=upstream, layers=layers, reduce=reduce, config=extraction)
            write_frames(folder, info, [partial(compute, part) for part in parts])
    ranks.barrier()
    return FrameStore.open(folder)


def _extraction(
    config: TrainVocoderConfig, tokenizer: Tokenizer | None
) -> tuple[Upstream, Sequence[int], Reduce, ExtractConfig]:
    if tokenizer is not None:
        extraction = ExtractConfig(windows=tokenizer.config.windows)
        return tokenizer.upstream, tokenizer.config.layers, tokenizer.joined, extraction
    assert config.features is not None
    features = Features.open(config.features, device=config.device)
    return features.upstream, [config.features.layer], features.of_layer, ExtractConfig(windows=None)


def build(config: TrainVocoderConfig, corpus: Corpus, speech: Speech, speaker_model: SpeakerModel | None) -> Trainee:
    """The network with its first weights, and its opponents; the seed decides the weights.

    Raises:
        ConfigError: `init` is of another shape.
    """
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    facts = corpus.facts
    if config.model.speaker == "table":
        facts = replace(facts, speakers=speech.speakers)
    elif speaker_model is not None:
        facts = replace(facts, speaker_width=speaker_model.width, speaker_model=speaker_model.fingerprint)
    model = VocoderModel(config.model, facts)
    if isinstance(model.inputs.content, FeatureInput):
        mean, scale = feature_statistics(speech)
        model.inputs.content.mean.copy_(mean)
        model.inputs.content.scale.copy_(scale)
    if config.init is not None:
        _begin_at(model, Vocoder.load(config.init, device="cpu").model, config.init)
    return Trainee.of(model.to(device), Discriminators(config.discriminators).to(device), corpus.codebook)


def feature_statistics(speech: Speech) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (D,) and inverse standard deviation (D,) of the first utterances' features."""
    some = [utterance.content for utterance in islice(speech.utterances, STATISTICS_UTTERANCES)]
    frames = np.concatenate(some).astype(np.float32)
    return torch.from_numpy(frames.mean(axis=0)), torch.from_numpy(1 / np.maximum(frames.std(axis=0), 1e-4))


def _begin_at(model: VocoderModel, first: VocoderModel, name: str) -> None:
    try:
        model.load_state_dict(first.state_dict())
    except RuntimeError as error:
        raise ConfigError(f"--init {name} is a vocoder of another shape or for other inputs") from error


def train_vocoder(config: TrainVocoderConfig, ranks: Ranks | None = None) -> Path:
    """Train a vocoder and write its folder, or go on where a killed run stopped; a finished one is left as it is.

    Returns:
        The vocoder's folder, out/model.

    Raises:
        ConfigError: options contradict each other or the frames, or `out` holds a run of another configuration.
    """
    ranks = ranks or Ranks()
    corpus = open_corpus(config, ranks)
    speaker_model = None
    if config.speaker_model is not None:
        speaker_model = load_speaker_model(config.speaker_model, device=config.device)
    measures = Measures(
        sampling_rate=corpus.facts.sampling_rate,
        hop_samples=config.hop_samples,
        memory_gb=config.memory_gb,
        speaker_model=speaker_model,
    )
    speech = read_speech(corpus.read(), measures, Path(config.out) / f"measured.{ranks.rank}.safetensors")
    trainee = build(config, corpus, speech, speaker_model)
    places = {"store": "", "cuts": "", "frames": "", "tokenizer": corpus.facts.tokenizer}
    made_of = {"speech": speech.identity, "frames_of": corpus.facts.features, "init": weights_hash(config.init)}
    identity = asdict(config) | IRRELEVANT | places | made_of
    out, loop = Path(config.out), config.train
    return train(trainee, speech, out, identity, config.segments, config.losses, loop, config.seed, ranks)


def main(argv: Sequence[str]) -> int:
    """`voxtok train-vocoder --config FILE --store STORE --out FOLDER`."""
    with connected_ranks() as ranks:
        print(train_vocoder(parse(TrainVocoderConfig, argv, "voxtok train-vocoder"), ranks))
    return 0
