"""`voxtok train-tts-lm`: token store with transcripts -> language model that speaks (decoder-only token TTS).

out/lm.json, model.safetensors, tokenizer/, text.json, tts_lm.json    the model, see tts_lm.py
out/rejected.jsonl                utterances that are not trained on, and why
out/training.pt, metrics.jsonl    as `voxtok train-lm` writes them
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from voxtok.manifests.store import TokenStore
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, connected_ranks, pick_device
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import sha256, sha256_file, write_jsonl
from voxtok.runtime.training import find_checkpoint, is_finished
from voxtok.tokenize.patterns import PatternName
from voxtok.tokenize.tokenizer_folder import require_same
from voxtok.tokenize.train import IRRELEVANT, TrainConfig
from voxtok.tts.layout import IGNORED, Layout, Rows, Steps
from voxtok.tts.lm import LmShape, UnitLm
from voxtok.tts.lm_data import Documents
from voxtok.tts.text import TextConfig, TextFrontEnd
from voxtok.tts.train_lm import keep_tokenizer, train
from voxtok.tts.tts_lm import Conditions, LmSynthesizer, Voice, VoiceInput, given, voice_steps
from voxtok.tts.utterances import Rejected, Transcribed, content_of, text_of, transcribed


@dataclass(frozen=True, kw_only=True)
class TrainTtsLmConfig:
    """Train a decoder-only text-to-token model on the tokens of one store and their transcripts."""

    store: str
    """Token store whose cuts have texts."""
    valid: str | None = None
    """Token store of the same tokenizer, of speech to measure the perplexity on at every checkpoint."""
    out: str
    """Folder to write."""
    text: TextConfig
    """How sentences become symbols."""
    text_field: str = "text"
    """text, or the custom field of the supervisions that has the text as it is written, such as raw_text."""
    rows: Rows
    """frames: a step a frame. merged: runs of equal frames, and subword pieces, without durations. timed: with them."""
    pattern: PatternName
    """How several streams, durations among them, become steps: parallel, flattened or delayed."""
    max_duration_frames: int = 0
    """Longest duration of a row; rows timed need it."""
    voice: VoiceInput
    """none; table: a symbol for each training speaker; prompt: the beginning of another utterance of the speaker."""
    prompt_s: float = 3.0
    """Seconds of that beginning."""
    model: LmShape
    """Shape of the model."""
    batch_steps: int
    """Steps in a batch, over all ranks; text counts."""
    train: TrainConfig
    """Steps, learning rate, reports, checkpoints."""
    seed: int = 0
    """Of weights, dropout, order and prompts."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError("seed must be at least 0")
        if self.batch_steps < self.model.context_steps:
            raise ConfigError("batch-steps must be at least model.context-steps: a batch has whole rows")
        if self.prompt_s <= 0:
            raise ConfigError("prompt-s must be positive")


def train_tts_lm(config: TrainTtsLmConfig, ranks: Ranks | None = None) -> Path:
    """Train a model and write its folder, or go on where a killed run stopped; a finished one is left as it is.

    Returns:
        The folder.

    Raises:
        ConfigError: no utterance has a text that can be said, the rows or the pattern do not suit the tokens, or `out`
            holds a run of another configuration.
        TokenizerMismatch: `valid` has tokens of another tokenizer.
    """
    out, ranks = Path(config.out), ranks or Ranks()
    store = TokenStore.open(config.store)
    front = TextFrontEnd.build([text_of(cut, config.text_field) for cut, _ in store], config.text)
    lexicon = sha256_file(config.text.lexicon) if config.text.lexicon else None
    stores = [TokenStore.open(folder) for folder in (config.store, config.valid) if folder is not None]
    contents = [[one.fingerprint, content_of(one, config.text_field)] for one in stores]
    identity = asdict(config) | {"contents": contents, "lexicon": lexicon, "text": front.sha256, **IRRELEVANT}
    key = sha256(identity)
    if is_finished(out, key):
        return out
    find_checkpoint(out, key)  # another configuration's folder is refused before anything in it changes
    rejected = Rejected()
    said = transcribed(store, front, config.text_field, rejected)
    layout = layout_of(store, said, config)
    conditions = conditions_of(said, front, config)
    documents = tts_documents(said, layout, front, conditions, config, rejected)
    valid = None
    if config.valid:
        held_out = TokenStore.open(config.valid)
        require_same(store.fingerprint, held_out.fingerprint, config.valid)
        others = transcribed(held_out, front, config.text_field, rejected)
        valid = tts_documents(others, layout, front, conditions, config, rejected)
    torch.manual_seed(config.seed)
    lm = UnitLm(config.model, layout, conditions.num_symbols(front)).to(pick_device(config.device))
    if ranks.is_first:
        write_jsonl(out / "rejected.jsonl", rejected.rows)
        keep_tokenizer([config.store], out, store.fingerprint)
        LmSynthesizer(lm, front, conditions).save_conditions(out)
    train(lm, documents, valid, out, key, config.batch_steps, config.train, config.seed, ranks)
    return out


def layout_of(store: TokenStore, said: Sequence[Transcribed], config: TrainTtsLmConfig) -> Layout:
    """How the store's tokens become steps."""
    merged = [one.tokens.dedup() for one in said] if config.rows == "merged" else []
    return Layout(
        rows=config.rows,
        pattern=config.pattern,
        max_duration_frames=config.max_duration_frames,
        vocab_sizes=store.info.vocab_sizes,
        frame_rate_hz=store.frame_rate_hz,
        fingerprint=store.fingerprint,
        has_durations=store.info.has_durations,
        pieces=store.info.bpe is not None,
        mean_frames=sum(one.num_frames for one in merged) / max(sum(map(len, merged)), 1) if merged else 1.0,
    )


def conditions_of(said: Sequence[Transcribed], front: TextFrontEnd, config: TrainTtsLmConfig) -> Conditions:
    """Who speaks in the training utterances, and how fast."""
    pace = np.quantile([one.tokens.num_frames / len(one.ids) for one in said], [0.01, 0.99])
    return Conditions(
        voice=config.voice,
        names=tuple(sorted({one.speaker for one in said})) if config.voice == "table" else (),
        prompt_s=config.prompt_s,
        frames_per_symbol=(float(pace[0]), float(pace[1])),
        text=front.sha256,
    )


def tts_documents(
    said: Sequence[Transcribed],
    layout: Layout,
    front: TextFrontEnd,
    conditions: Conditions,
    config: TrainTtsLmConfig,
    rejected: Rejected,
) -> Documents:
    """Utterances as a language model reads them, what they are conditioned on first; that is not to be predicted.

    Raises:
        ConfigError: no utterance fits into the model's context.
    """
    of_speaker: dict[str, list[int]] = {}
    for i, one in enumerate(said):
        of_speaker.setdefault(one.speaker, []).append(i)

    def document(place: int) -> tuple[Steps, Steps]:
        one = said[place]
        voice = voice_steps(layout, front, conditions, _voice_of(place, said, of_speaker, conditions, config.seed))
        before = given(layout, one.ids.tolist(), voice)
        inputs, targets = layout.document(one.tokens)
        unasked = np.full((len(before) - 1, layout.columns), IGNORED, dtype=np.int64)
        return np.concatenate([before[:-1], inputs]), np.concatenate([unasked, targets])

    lengths = np.array([len(document(place)[0]) for place in range(len(said))])
    fits = lengths <= config.model.context_steps
    for place in np.flatnonzero(~fits).tolist():
        rejected.add(said[place].cut, "too long", f"{lengths[place]} steps, model.context-steps is fewer")
    kept = np.flatnonzero(fits)
    if not len(kept):
        raise ConfigError(f"no utterance is as short as the model's {config.model.context_steps} steps")
    durations_s = np.array([said[place].tokens.duration_s for place in kept.tolist()])
    return Documents(lengths[kept], durations_s, lambda number: document(int(kept[number])), divisible=False)


def _voice_of(
    place: int, said: Sequence[Transcribed], of_speaker: dict[str, list[int]], conditions: Conditions, seed: int
) -> Voice | None:
    """The speaker's name, or another utterance of theirs; their only one where there is no other."""
    if conditions.voice != "prompt":
        return said[place].speaker if conditions.voice == "table" else None
    others = [other for other in of_speaker[said[place].speaker] if other != place] or [place]
    chosen = int(np.random.default_rng([seed, place]).integers(len(others)))
    return said[others[chosen]].tokens


def main(argv: Sequence[str]) -> int:
    """`voxtok train-tts-lm --config FILE --store STORE --out FOLDER`."""
    with connected_ranks() as ranks:
        print(train_tts_lm(parse(TrainTtsLmConfig, argv, "voxtok train-tts-lm"), ranks))
    return 0
