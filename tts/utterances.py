"""Training utterances: what is said, as numbers, beside its tokens and how long each symbol lasts in them.

Tokens stand in rows: one a frame, or one a run of equal frames (merged), with the frames that each lasts.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut
from lhotse.supervision import AlignmentItem

from voxtok.manifests.store import TokenStore
from voxtok.manifests.tokens import TokenSequence, compact, smallest_dtype
from voxtok.runtime.errors import BadAudio, BadText, ConfigError
from voxtok.runtime.files import sha256
from voxtok.tts.text import TextFrontEnd

Ints = npt.NDArray[np.int64]
Rows = Literal["frames", "merged"]
SILENCES = ("SIL", "+NSN+", "sil", "sp", "spn", "")
"""Names of aligned phones that are none."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What made the tokens: a model speaks no other's.

    Attributes:
        fingerprint: of the tokenizer.
        vocab_sizes: of every stream.
        frame_rate_hz: frames per second before merging.
        has_durations: whether the tokenizer merges runs or makes subword pieces.
        pieces: whether they are subword pieces.
    """

    fingerprint: str
    vocab_sizes: tuple[int, ...]
    frame_rate_hz: float
    has_durations: bool
    pieces: bool

    def rows(self, tokens: TokenSequence, rows: Rows) -> TokenSequence:
        """An utterance with one row a frame, or with runs of equal frames merged; pieces are rows as they are."""
        return tokens.expand() if rows == "frames" else tokens.dedup()

    def sequence(self, codes: Ints, frames: Ints | None) -> TokenSequence:
        """Tokens in the form that their tokenizer gives them, from rows (R, S) and their frames (R,) if merged."""
        small = codes.astype(smallest_dtype(max(self.vocab_sizes)))
        durations = None if frames is None else compact(frames)
        found = TokenSequence(small, self.frame_rate_hz, self.fingerprint, durations)
        if self.pieces:
            return found
        return found.expand().dedup() if self.has_durations else found.expand()

    def described(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def source_of(store: TokenStore) -> Source:
    """What made a store's tokens."""
    info = store.info
    return Source(
        fingerprint=info.fingerprint,
        vocab_sizes=info.vocab_sizes,
        frame_rate_hz=info.frame_rate_hz,
        has_durations=info.has_durations,
        pieces=info.bpe is not None,
    )


@dataclass(frozen=True, eq=False)
class Transcribed:
    """A cut with its text as numbers, (P,), and its tokens."""

    cut: Cut
    ids: Ints
    tokens: TokenSequence

    @property
    def speaker(self) -> str:
        """Who speaks, or "" where the corpus does not say."""
        return str(self.cut.supervisions[0].speaker or "")


@dataclass(frozen=True, eq=False)
class Utterance:
    """One training utterance.

    Attributes:
        ids: (P,) symbols.
        durations: (P,) rows of each symbol; a mark may have none.
        codes: (R, S) tokens.
        frames: (R,) frames of each row.
        speaker: row of the speaker table, an embedding (E,), or None.
    """

    ids: Ints
    durations: Ints
    codes: Ints
    frames: Ints
    speaker: int | npt.NDArray[np.float32] | None = None


@dataclass
class Rejected:
    """Cuts that are not trained on, each with its reason."""

    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, cut: Cut, reason: str, detail: str) -> None:
        """Note one, as `BadAudio.row` does."""
        self.rows.append(BadAudio(cut.id, reason, detail).row())


def text_of(cut: Cut, text_field: str) -> str:
    """The text of a cut: `text` of its supervisions, or a custom field of theirs such as `raw_text`; "" for none."""
    parts = [
        segment.text if text_field == "text" else (segment.custom or {}).get(text_field) for segment in cut.supervisions
    ]
    return " ".join(str(part) for part in parts if part)


def phones_of(cut: Cut) -> list[AlignmentItem]:
    """The aligned phones of a cut, silences among them; an empty list where there are none."""
    return [item for segment in cut.supervisions for item in (segment.alignment or {}).get("phone", [])]


def tokens_hash(tokens: TokenSequence) -> str:
    """SHA-256 of an utterance's rows and their durations."""
    durations = b"" if tokens.durations is None else tokens.durations.tobytes()
    return hashlib.sha256(tokens.codes.tobytes() + durations).hexdigest()


def content_of(store: TokenStore, text_field: str, *, aligned: bool = False) -> str:
    """Hash of what is said in a store's utterances and by whom, of the tokens, and where `aligned` of the phones."""
    rows = [
        [cut.id, text_of(cut, text_field), [segment.speaker for segment in cut.supervisions], tokens_hash(tokens)]
        + ([phones_of(cut)] if aligned else [])
        for cut, tokens in store
    ]
    return sha256(rows)


def transcribed(store: TokenStore, front: TextFrontEnd, text_field: str, rejected: Rejected) -> list[Transcribed]:
    """The store's utterances that have a text which can be said, and tokens.

    Raises:
        ConfigError: there is none.
    """
    every = list(store)
    texts = [text_of(cut, text_field) for cut, _ in every]
    found = []
    for (cut, tokens), ids in zip(every, front.encode_batch(texts), strict=True):
        if isinstance(ids, BadText):
            rejected.add(cut, "text", str(ids))
        elif not len(tokens):
            rejected.add(cut, "tokens", "no tokens")
        else:
            found.append(Transcribed(cut, np.array(ids, dtype=np.int64), tokens))
    if not found:
        why = rejected.rows[0]["detail"] if rejected.rows else "the store is empty"
        raise ConfigError(f"{store.folder} has no utterance with a text that can be said: {why}")
    return found


def rowed(
    one: Transcribed, durations: Ints, source: Source, rows: Rows, speaker: int | npt.NDArray[np.float32] | None
) -> Utterance:
    """A training utterance from durations (P,) in frames that add up to the utterance's.

    A merged row belongs to the symbol that its middle frame is of.

    Worked: symbols of 2, 0 and 3 frames over rows of 3 and 2 frames, whose middles are at 1.5 and 4: 1, 0 and 1 rows.
    """
    found = source.rows(one.tokens, rows)
    spans = found.spans()
    owner = np.searchsorted(np.cumsum(durations), spans.mean(axis=1), side="right")
    counts = np.bincount(np.minimum(owner, len(durations) - 1), minlength=len(durations))
    return Utterance(one.ids, counts, found.codes.astype(np.int64), spans[:, 1] - spans[:, 0], speaker)


def aligned_durations(one: Transcribed, front: TextFrontEnd) -> Ints | str:
    """Durations (P,) in frames from the cut's phone alignment, or what does not fit.

    Phones are compared without marks of stress. Time between two of them goes to the mark there, else half to either.
    """
    phones = [item for item in phones_of(one.cut) if item.symbol not in SILENCES]
    places = [place for place, symbol in enumerate(one.ids.tolist()) if symbol not in front.boundaries]
    wanted = [_unstressed(front.symbols[one.ids[place] - 1]) for place in places]
    said = [_unstressed(item.symbol) for item in phones]
    if said != wanted:
        where = next((i for i, pair in enumerate(zip(said, wanted, strict=False)) if pair[0] != pair[1]), None)
        detail = f"{len(said)} for {len(wanted)}" if where is None else f"{said[where]} for {wanted[where]}"
        return f"the aligned phones are not those of the text: {detail}"
    rate, total = one.tokens.frame_rate_hz, one.tokens.num_frames
    edges = np.array([[item.start, item.start + item.duration] for item in phones])
    limits = np.clip(np.round(edges * rate), 0, total).astype(np.int64)  # (phones, 2)
    if len(limits) == 0 or (limits[1:, 0] < limits[:-1, 1]).any():
        return "the aligned phones overlap, or there are none"
    return fill_gaps(limits, places, len(one.ids), total)


def fill_gaps(limits: Ints, places: Sequence[int], size: int, total: int) -> Ints:
    """Durations (size,) of all symbols from the first and last frames of those at `places`, in order.

    Gaps go to the mark between two symbols where there is one, else half to either.

    Worked: limits 1-3 and 5-6 of symbols 1 and 2 of 4, in 10 frames: 1, 3, 2 and 4.
    """
    durations = np.zeros(size, dtype=np.int64)
    durations[list(places)] = limits[:, 1] - limits[:, 0]
    gaps = [*limits[:, 0].tolist(), total] - np.array([0, *limits[:, 1].tolist()])
    for left, right, gap in zip([-1, *places], [*places, size], gaps.tolist(), strict=True):
        if right - left > 1:
            durations[left + 1] += gap
        else:
            durations[left] += gap // 2
            durations[right] += gap - gap // 2
    return durations


def _unstressed(symbol: str) -> str:
    return re.sub(r"^'|\d+$", "", symbol)
