"""A token store whose tokens spell its texts: every letter is a run of a few equal tokens, so that minutes teach it."""

from pathlib import Path

import numpy as np
from lhotse import SupervisionSegment
from lhotse.cut import Cut, MonoCut

from voxtok.asr.normalization import TextNormalization
from voxtok.asr.text import TextConfig, TextModel, train_text_model
from voxtok.manifests.store import StoreInfo, TokenStore
from voxtok.manifests.tokens import TokenSequence

WORDS = ("cat", "dog", "sat", "ate", "god", "act", "toga", "data")
LETTERS = [*sorted(set("".join(WORDS))), " "]
VOCAB = 20
RATE_HZ = 50.0


def toy_store(
    folder: Path, count: int, seed: int, *, streams: int = 1, fingerprint: str = "toy", dedup: bool = False
) -> Path:
    """Write a finished store of `count` utterances of two to four words by two speakers."""
    info = StoreInfo(
        fingerprint=fingerprint,
        frame_rate_hz=RATE_HZ,
        vocab_sizes=(VOCAB,) * streams,
        dedup=dedup,
        shard_size=count,
    )
    store = TokenStore.create(folder, info)
    rng = np.random.default_rng(seed)
    store.write_shard(0, [_utterance(index, rng, streams, fingerprint, dedup) for index in range(count)], [], "toy")
    store.finish(["toy"])
    return folder


def toy_parts(folder: Path) -> Path:
    """Stores of 40 utterances, `train`, and 8 others, `dev`, and the text model."""
    toy_store(folder / "train", 40, seed=0)
    toy_store(folder / "dev", 8, seed=1)
    toy_text_model(folder / "text.json")
    return folder


def toy_text_model(path: Path) -> TextModel:
    """Characters of the toy words, saved at `path` too."""
    normalization = TextNormalization(case="lower", punctuation="remove")
    model = train_text_model(WORDS, TextConfig(kind="characters", vocab_size=None, normalization=normalization))
    model.save(path)
    return model


def spelled(text: str, rng: np.random.Generator) -> list[int]:
    """Tokens of a text: one of two for each letter, for three to five frames."""
    tokens: list[int] = []
    for letter in text:
        tokens += [2 * LETTERS.index(letter) + int(rng.integers(2))] * int(rng.integers(3, 6))
    return tokens


def _utterance(
    index: int, rng: np.random.Generator, streams: int, fingerprint: str, dedup: bool
) -> tuple[Cut, TokenSequence]:
    text = " ".join(rng.choice(WORDS, size=int(rng.integers(2, 5))).tolist())
    codes = np.stack([np.array(spelled(text, rng), dtype=np.uint8)] * streams, axis=1)
    tokens = TokenSequence(codes, RATE_HZ, fingerprint)
    name = f"utt{index:04d}"
    segment = SupervisionSegment(name, name, 0, tokens.duration_s, text=text, speaker=f"s{index % 2}")
    cut = MonoCut(name, 0, tokens.duration_s, 0, supervisions=[segment])
    return cut, tokens.dedup() if dedup else tokens
