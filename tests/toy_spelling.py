"""A store whose tokens spell its texts: every letter is a token of its own and lasts as long as its place says."""

from pathlib import Path

import numpy as np
from lhotse import SupervisionSegment
from lhotse.cut import Cut, MonoCut
from lhotse.supervision import AlignmentItem

from voxtok.manifests.store import StoreInfo, TokenStore
from voxtok.manifests.tokens import TokenSequence

WORDS = ("cat", "dog", "sat", "ate", "god", "act", "data", "code", "sea", "edge")
LETTERS = sorted(set("".join(WORDS)))
SILENCE = len(LETTERS)
RATE_HZ = 50.0
PAUSE_FRAMES, EDGE_FRAMES = 4, 3


def letter_frames(letter: str) -> int:
    """2, 3 or 4."""
    return 2 + LETTERS.index(letter) % 3


def sentence(seed: int) -> str:
    """Two to four words."""
    rng = np.random.default_rng([seed, 5])
    return " ".join(rng.choice(WORDS, size=int(rng.integers(2, 5))).tolist())


def spelled(text: str, fingerprint: str = "spelling" * 8) -> TokenSequence:
    """The tokens of a text: silence, letters, silence for every space, silence."""
    codes = [SILENCE] * EDGE_FRAMES
    for letter in text:
        codes += [SILENCE] * PAUSE_FRAMES if letter == " " else [LETTERS.index(letter)] * letter_frames(letter)
    codes += [SILENCE] * EDGE_FRAMES
    return TokenSequence(np.array(codes, dtype=np.uint8)[:, None], RATE_HZ, fingerprint)


def alignment(text: str) -> list[AlignmentItem]:
    """When each letter is said."""
    items, at = [], EDGE_FRAMES
    for letter in text:
        frames = PAUSE_FRAMES if letter == " " else letter_frames(letter)
        if letter != " ":
            items.append(AlignmentItem(letter, at / RATE_HZ, frames / RATE_HZ))
        at += frames
    return items


def write_lexicon(path: Path) -> Path:
    """Words as their letters."""
    path.write_text("".join(f"{word} {' '.join(word)}\n" for word in WORDS))
    return path


def write_spelling(folder: Path, count: int, *, dedup: bool = False) -> Path:
    """A finished store of so many sentences, with the times of their letters."""
    info = StoreInfo(
        fingerprint="spelling" * 8, frame_rate_hz=RATE_HZ, vocab_sizes=(SILENCE + 1,), dedup=dedup, shard_size=count
    )
    store = TokenStore.create(folder, info)
    rows = []
    for seed in range(count):
        name, tokens = f"utt{seed:03d}", spelled(sentence(seed))
        said = SupervisionSegment(name, name, 0, tokens.duration_s, text=sentence(seed))
        said = said.with_alignment("phone", alignment(sentence(seed)))
        cut: Cut = MonoCut(name, 0, tokens.duration_s, 0, supervisions=[said])
        rows.append((cut, tokens.dedup() if dedup else tokens))
    store.write_shard(0, rows, [], "x")
    store.finish(["x"])
    return folder
