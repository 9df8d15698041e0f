"""`voxtok synthesize`: token store -> waveforms and their manifest.

A killed job run again goes on where it was; ranks take every n-th utterance and never talk to each other.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lhotse.cut import Cut

from voxtok.manifests.identity import bare
from voxtok.manifests.store import TokenStore
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, ranks_from_environment
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.files import sha256
from voxtok.runtime.progress import Progress
from voxtok.tokenize.weights import hash_weights
from voxtok.vocoder.audio_folder import AudioFolder, Order
from voxtok.vocoder.conditions import Speaker
from voxtok.vocoder.vocoder import Samples, Vocoder
from voxtok.vocoder.voices import SOURCE, Voices, check_streams


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig:
    """Turn a token store into speech."""

    store: str
    """Token store."""
    vocoder: str
    """Vocoder folder for these tokens, or mini."""
    out: str
    """Folder to write; run again to go on where a killed job stopped."""
    speaker: str = SOURCE
    """Who speaks, where the vocoder is told: source (each cut's own speaker), a name that it knows, or a recording, a
    folder or cuts of a speaker."""
    speaker_model: str = "mini"
    """What measures speakers, where the vocoder takes embeddings: the one that it was trained with."""
    streams: tuple[int, ...] = ()
    """Token streams to use; empty uses all."""
    predict_durations: bool = False
    """Tokens are merged, and how long they last is predicted; durations in the store are not used."""
    batch_size: int = 1
    """Utterances computed at once: on a GPU more are faster, and differ from those alone by rounding."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    strict: bool = False
    """Stop at the first utterance that cannot be made instead of listing it in rejected.jsonl."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError("--batch-size must be at least 1")


def synthesize(config: SynthesizeConfig, ranks: Ranks | None = None) -> dict[str, int] | None:
    """Synthesize a store, or complete what was begun.

    Returns:
        Numbers of utterances and of rejected ones, or None while other ranks still have some to do.

    Raises:
        TokenizerMismatch: the store holds tokens of another tokenizer than the vocoder's.
        ConfigError: the vocoder takes no tokens, or the speaker is unknown.
    """
    ranks = ranks or Ranks()
    store, vocoder = TokenStore.open(config.store), Vocoder.load(config.vocoder, device=config.device)
    vocoder.check_tokenizer(store.fingerprint)
    voices = Voices(vocoder, config.speaker, config.speaker_model)
    key = [weights_hash(vocoder), voices.identity, list(config.streams), config.predict_durations]
    pairs = {cut.id: (cut, tokens) for cut, tokens in store}
    named = config.speaker if voices.kind == "table" and config.speaker != SOURCE else None
    orders = [Order(cut, _inputs(cut, tokens, key), named or _speaker(cut)) for cut, tokens in pairs.values()]
    folder = AudioFolder(config.out, orders, [], ranks)
    waiting = folder.open_orders()
    with Progress("synthesize", sum(order.source.duration for order in waiting)) as progress:
        for start in range(0, len(waiting), config.batch_size):
            batch = waiting[start : start + config.batch_size]
            made = _made([pairs[order.source.id] for order in batch], vocoder, voices, config)
            for order, result in zip(batch, made, strict=True):
                if config.strict and isinstance(result, BadAudio):
                    raise result
                folder.add(order, result, vocoder.sampling_rate)
                progress.add(order.source.duration)
    return folder.finish()


def _made(
    pairs: Sequence[tuple[Cut, TokenSequence]], vocoder: Vocoder, voices: Voices, config: SynthesizeConfig
) -> list[Samples | BadAudio]:
    """The waveform of each utterance of a batch, or why there is none."""
    told: list[Speaker | BadAudio | None] = []
    for cut, tokens in pairs:
        try:
            told.append(voices.of_cut(cut) if len(tokens) else BadAudio(cut.id, "empty", "no tokens"))
        except BadAudio as error:
            told.append(error)
    sequences = [tokens for (_, tokens), one in zip(pairs, told, strict=True) if not isinstance(one, BadAudio)]
    if config.predict_durations:
        sequences = [tokens.dedup() for tokens in sequences]
    found = vocoder.from_tokens_batch(
        sequences,
        speakers=[one for one in told if not isinstance(one, BadAudio)],
        streams=check_streams(vocoder, config.streams),
        predict_durations=config.predict_durations,
    )
    waveforms = iter(found)
    return [one if isinstance(one, BadAudio) else next(waveforms) for one in told]


def weights_hash(vocoder: Vocoder) -> str:
    """Hash of everything that decides what a vocoder makes of tokens."""
    codebook = None if vocoder.codebook is None else vocoder.codebook.sha256
    described = [asdict(vocoder.facts), asdict(vocoder.model.config)]
    weights = {name: tensor.cpu() for name, tensor in vocoder.model.state_dict().items()}
    return sha256([hash_weights(weights), codebook, described])


def _inputs(cut: Cut, tokens: TokenSequence, key: object) -> str:
    durations = None if tokens.durations is None else tokens.durations.tolist()
    return sha256([bare(cut).to_dict(), tokens.codes.tolist(), durations, key])


def _speaker(cut: Cut) -> str | None:
    return cut.supervisions[0].speaker if cut.supervisions else None


def main(argv: Sequence[str]) -> int:
    """`voxtok synthesize --store STORE --vocoder VOCODER --out FOLDER`."""
    config = parse(SynthesizeConfig, argv, "voxtok synthesize")
    summary = synthesize(config, ranks_from_environment())
    if summary is None:
        print("this rank's utterances are done; the folder is complete once the other ranks' are")
        return 0
    print(f"{summary['utterances']} utterances -> {config.out}; {summary['rejected']} rejected")
    return 1 if summary["rejected"] and not summary["utterances"] else 0
