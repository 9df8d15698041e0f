"""Subword units over tokens: BPE or unigram pieces of several tokens each, by sentencepiece.

sentencepiece works on text, so each token is written as a character (see characters). That stays here: pieces are
numbers to programs and `12-12-7` to people. Every single token is a piece, seen in training or not, so any sequence of
tokens has an exact way there and back, without an unknown piece.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import sentencepiece

from voxtok.manifests.characters import MOST_TOKENS, as_text, from_text
from voxtok.manifests.tokens import Codes, TokenSequence, compact, smallest_dtype
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.runtime.files import write_bytes

Kind = Literal["bpe", "unigram"]
Pieces = npt.NDArray[np.int64]

SENTENCE_TOKENS = 8192
"""Longer utterances are cut for training: sentencepiece's trainer has limits on a sentence. Encoding has none."""
LONGEST_SENTENCE_BYTES = 1 << 30
"""The most that sentencepiece allows; it silently drops longer sentences, by default above 4192 bytes."""
UNKNOWN = 1
"""sentencepiece insists on an unknown piece, number 0; ours are counted without it."""


@dataclass(frozen=True, eq=False)
class Subwords:
    """A trained sentencepiece model over tokens 0 .. unit_vocab_size - 1 of one stream.

    Example:
        subwords = train_subwords(sequences, unit_vocab_size=500, vocab_size=3000, kind="bpe")
        pieces = subwords.encode(codes)
        assert (subwords.decode(pieces) == codes).all()
    """

    model: bytes

    @cached_property
    def sha256(self) -> str:
        """Hash of the model: part of a tokenizer's identity."""
        return hashlib.sha256(self.model).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return len(self._starts) - 1

    @cached_property
    def unit_vocab_size(self) -> int:
        """Number of tokens that pieces are made of."""
        return int((self.lengths == 1).sum())

    @cached_property
    def lengths(self) -> Pieces:
        """(vocab_size,) tokens in each piece."""
        return np.diff(self._starts)

    def encode(self, codes: npt.ArrayLike) -> Pieces:
        """(N,) tokens to (P,) pieces.

        Raises:
            ConfigError: another shape, or a token out of range.
        """
        return self.encode_batch([codes])[0]

    def encode_batch(self, batch: Sequence[npt.ArrayLike]) -> list[Pieces]:
        """Pieces of several sequences; arguments and errors as in `encode`."""
        return self._numbers(self._processor.encode([self._text(codes) for codes in batch], num_threads=1))

    def sample_batch(self, batch: Sequence[npt.ArrayLike], *, alpha: float, seed: int) -> list[Pieces]:
        """Pieces drawn at random, for training: they decode to the same tokens, but are cut otherwise.

        BPE drops each merge with probability alpha (BPE-dropout, Provilkov et al. 2020); unigram draws from all
        segmentations, their probabilities to the power of alpha (subword regularization, Kudo 2018).
        sentencepiece's random state is one for the process: equal seeds give equal pieces from one thread at a time.

        Raises:
            ConfigError: alpha is not in (0, 1], or as in `encode`.
        """
        if not 0 < alpha <= 1:
            raise ConfigError(f"alpha must be above 0 and at most 1, not {alpha}")
        texts = [self._text(codes) for codes in batch]
        sentencepiece.set_random_generator_seed(seed)
        return self._numbers(
            self._processor.encode(texts, num_threads=1, enable_sampling=True, alpha=alpha, nbest_size=-1)
        )

    def decode(self, pieces: npt.ArrayLike) -> Codes:
        """(P,) pieces to (N,) tokens: the exact inverse of `encode` and of `sample_batch`.

        Raises:
            ConfigError: another shape, or a piece out of range.
        """
        chosen = self._checked(pieces, self.vocab_size, "piece")
        lengths = self.lengths[chosen]
        ends = np.cumsum(lengths)
        within = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
        codes: Codes = self._flat[np.repeat(self._starts[chosen], lengths) + within]
        return codes

    def durations(self, pieces: Pieces, of_tokens: npt.NDArray[Any] | None) -> Pieces:
        """(P,) frames that each piece covers, from those of its tokens; None where a token is a frame.

        Worked: pieces 12-7 and 3 of tokens that last 2, 1 and 4 frames cover 3 and 4 frames.
        """
        lengths: Pieces = self.lengths[pieces]
        if of_tokens is None:
            return lengths
        frames = np.concatenate([[0], np.cumsum(of_tokens, dtype=np.int64)])
        ends: Pieces = frames[np.concatenate([[0], np.cumsum(lengths)])]
        return np.diff(ends)

    def apply(self, tokens: TokenSequence, fingerprint: str) -> TokenSequence:
        """The same utterance in pieces, which last as many frames as their tokens.

        Args:
            tokens: of one stream, merged or one a frame.
            fingerprint: of the tokenizer with these subwords.

        Raises:
            ConfigError: several streams.
        """
        if tokens.codes.shape[1] != 1:
            raise ConfigError(f"subwords are over one stream of tokens; these have {tokens.codes.shape[1]}")
        pieces = self.encode(tokens.codes[:, 0])
        frames = self.durations(pieces, tokens.durations)
        codes = pieces[:, None].astype(smallest_dtype(self.vocab_size))
        return TokenSequence(codes, tokens.frame_rate_hz, fingerprint, compact(frames))

    def written(self, piece: int) -> str:
        """A piece as people read it: its tokens joined by hyphens, such as `12-12-7`."""
        return "-".join(map(str, self.decode([piece]).tolist()))

    def save(self, path: Path | str) -> None:
        """Write the model atomically."""
        write_bytes(path, self.model)

    @classmethod
    def load(cls, path: Path | str) -> "Subwords":
        """Read what `save` wrote.

        Raises:
            CorruptFile: missing, damaged, or a sentencepiece model of something else than tokens.
        """
        try:
            subwords = cls(Path(path).read_bytes())
            subwords._check()
        except (OSError, RuntimeError, ValueError) as error:
            raise CorruptFile(f"{path}: not a model of `voxtok bpe train` ({error})") from error
        return subwords

    def _check(self) -> None:
        """Raise ValueError unless pieces are made of tokens and every token is a piece."""
        single = np.sort(self._flat[self._starts[:-1][self.lengths == 1]])
        if not len(single) or not np.array_equal(single, np.arange(len(single))) or self._flat.max() >= len(single):
            raise ValueError("its pieces are not made of tokens")

    @cached_property
    def _processor(self) -> Any:
        if not self.model:
            raise ValueError("it is empty")
        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    @cached_property
    def _table(self) -> tuple[Codes, Pieces]:
        """All pieces' tokens end to end, and where each piece starts, (vocab_size + 1,)."""
        size = self._processor.get_piece_size()
        texts = self._processor.id_to_piece(list(range(UNKNOWN, size)))
        tokens = from_text("".join(texts))
        starts = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)])
        return tokens.astype(smallest_dtype(int(tokens.max(initial=0)) + 1)), starts

    @property
    def _flat(self) -> Codes:
        return self._table[0]

    @property
    def _starts(self) -> Pieces:
        return self._table[1]

    def _text(self, codes: npt.ArrayLike) -> str:
        return as_text(self._checked(codes, self.unit_vocab_size, "token"))

    def _numbers(self, found: list[list[int]]) -> list[Pieces]:
        return [np.array(pieces, dtype=np.int64) - UNKNOWN for pieces in found]

    @staticmethod
    def _checked(numbers: npt.ArrayLike, size: int, what: str) -> npt.NDArray[Any]:
        array = np.asarray(numbers)
        if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
            raise ConfigError(f"{what}s are one row of integers, not {array.dtype}{array.shape}")
        if len(array) and not 0 <= int(array.min()) <= int(array.max()) < size:
            wrong = int(array.max()) if int(array.max()) >= size else int(array.min())
            raise ConfigError(f"{what} {wrong} is not among these subwords' {size} {what}s")
        return array.astype(np.int64, copy=False)


def train_subwords(
    sequences: Iterable[npt.NDArray[Any]], *, unit_vocab_size: int, vocab_size: int, kind: Kind
) -> Subwords:
    """Train pieces on sequences of (N,) tokens; equal sequences in equal order give equal bytes.

    Args:
        sequences: gone through once; sentencepiece holds all of them in memory.
        unit_vocab_size: tokens are 0 .. unit_vocab_size - 1; all become pieces, seen or not.
        vocab_size: number of pieces, the single tokens among them.
        kind: bpe (Sennrich et al. 2016) or unigram (Kudo 2018).

    Raises:
        ConfigError: more pieces than the sequences have, fewer than there are tokens, or nothing to train on.
    """
    if not 1 <= unit_vocab_size <= MOST_TOKENS:
        raise ConfigError(f"subwords need a vocabulary of 1 .. {MOST_TOKENS} tokens, not {unit_vocab_size}")
    if vocab_size < unit_vocab_size:
        raise ConfigError(f"vocab_size must be at least {unit_vocab_size}, since every token is a piece of its own")
    sentences = _sentences(sequences, unit_vocab_size)
    first = next(sentences, None)
    if first is None:
        raise ConfigError("there are no tokens to train subwords on")
    model, failures = io.BytesIO(), list[Exception]()
    # Every token is also a sentence of its own: required_chars of sentencepiece leaves out those never seen.
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chain(as_text(np.arange(unit_vocab_size)), [first], _watched(sentences, failures)),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size + UNKNOWN,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            character_coverage=1.0,
            byte_fallback=False,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_by_unicode_script=False,
            split_by_whitespace=False,
            split_by_number=False,
            input_sentence_size=0,
            shuffle_input_sentence=False,
            max_sentence_length=LONGEST_SENTENCE_BYTES,
            num_threads=16,  # unigram's sums are taken by thread: another number is another model
            minloglevel=2,
        )
    except RuntimeError as error:
        if failures:
            raise failures[0] from error
        most = re.search(r"<= (\d+)", str(error))
        if most is None:
            raise ConfigError(f"sentencepiece could not train {vocab_size} pieces: {error}") from error
        raise ConfigError(
            f"vocab_size {vocab_size} is more than these tokens have pieces: at most {int(most[1]) - UNKNOWN}, "
            "or train on more tokens"
        ) from error
    return Subwords(model.getvalue())


def _sentences(sequences: Iterable[npt.NDArray[Any]], unit_vocab_size: int) -> Iterator[str]:
    for codes in sequences:
        checked = Subwords._checked(codes, unit_vocab_size, "token")
        for start in range(0, len(checked), SENTENCE_TOKENS):
            yield as_text(checked[start : start + SENTENCE_TOKENS])


def _watched(sentences: Iterator[str], failures: list[Exception]) -> Iterator[str]:
    """Keep the error that ends `sentences`: sentencepiece turns it into one of its own."""
    try:
        yield from sentences
    except Exception as error:
        failures.append(error)
        raise
