"""The text model: words to numbers and back, by characters or by sentencepiece's subword units.

Number 0 is CTC's blank and 1 an unknown character; the last one begins and ends a sentence; pieces lie between. A piece
is written as people read it, with `▁` for the space before a word. All of it is one JSON file.
"""

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sentencepiece

from voxtok.asr.normalization import TextNormalization
from voxtok.manifests.characters import code_points
from voxtok.manifests.subwords import LONGEST_SENTENCE_BYTES
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.runtime.files import checked_description, read_json, sha256, write_json

FORMAT = "voxtok-text"
VERSION = 1
BLANK, UNKNOWN = 0, 1
SPACE = "\u2581"
FIRST, LAST = ("<blank>", "<unk>"), ("<sos/eos>",)
UNREADABLE = "\u2047"
"""How an unknown character is written, as sentencepiece does."""

Kind = Literal["characters", "bpe", "unigram"]


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How texts become numbers."""

    kind: Kind
    """characters, or subword units within words: bpe (Sennrich et al. 2016) or unigram (Kudo 2018)."""
    vocab_size: int | None
    """Number of outputs with blank, unknown and sos/eos; null for characters, whose number follows from the texts."""
    normalization: TextNormalization
    """Spelling of the texts."""

    def __post_init__(self) -> None:
        if (self.kind == "characters") != (self.vocab_size is None):
            raise ConfigError(f"text of kind {self.kind} needs a vocab_size" if self.vocab_size is None else
                              "characters take no vocab_size: it follows from the texts")  # fmt: skip


@dataclass(frozen=True, eq=False)
class TextModel:
    """Texts to numbers 0 .. vocab_size - 1 and back.

    Example:
        model = train_text_model(texts, config)
        numbers = model.encode("the cat")
        assert model.decode(numbers) == "the cat"

    Attributes:
        kind: characters, bpe or unigram.
        normalization: what `encode` does to a text first.
        pieces: (vocab_size,) what each number writes.
        proto: sentencepiece's model; None for characters.
    """

    kind: Kind
    normalization: TextNormalization
    pieces: tuple[str, ...]
    proto: bytes | None = None

    @property
    def vocab_size(self) -> int:
        """Number of outputs of a network: pieces with blank, unknown and sos/eos."""
        return len(self.pieces)

    @property
    def sos_eos(self) -> int:
        """The number that begins and ends a sentence."""
        return len(self.pieces) - 1

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that changes a number."""
        return sha256(self.described())

    def encode(self, text: str) -> list[int]:
        """Numbers of a text, without sos/eos; a character that the model does not have becomes UNKNOWN."""
        text = self.normalization.apply(text.replace(SPACE, " "))
        if self.kind == "characters":
            return [self._numbers.get(letter, UNKNOWN) for letter in text.replace(" ", SPACE)]
        found: list[int] = self._processor.encode(self._shifted(text))
        return [number + UNKNOWN for number in found]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of numbers; blanks and sos/eos write nothing.

        Raises:
            ConfigError: a number out of range.
        """
        return " ".join("".join(self.written(number) for number in numbers).replace(SPACE, " ").split())

    def written(self, number: int) -> str:
        """What one number adds to a text, `▁` for a space."""
        if not 0 <= number < self.vocab_size:
            raise ConfigError(f"{number} is not one of this text model's {self.vocab_size} numbers")
        if number in (BLANK, self.sos_eos):
            return ""
        return UNREADABLE if number == UNKNOWN else self.pieces[number]

    def words(self, numbers: Sequence[int]) -> list[tuple[str, int, int]]:
        """The words of numbers: (word, first place, one after the last); spaces alone belong to no word.

        Worked: pieces `▁the`, `▁c`, `at` are the words (the, 0, 1) and (cat, 1, 3).
        """
        words: list[tuple[str, int, int]] = []
        begins = True
        for place, number in enumerate(numbers):
            for index, part in enumerate(re.split(SPACE, self.written(number))):
                begins = begins or index > 0
                if part and begins:
                    words.append((part, place, place + 1))
                    begins = False
                elif part:
                    word, first, _ = words[-1]
                    words[-1] = (word + part, first, place + 1)
        return words

    def described(self) -> dict[str, Any]:
        """The model as a JSON value; `from_description` is the inverse."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "normalization": asdict(self.normalization),
            "pieces": list(self.pieces),
            "sentencepiece": None if self.proto is None else base64.b64encode(self.proto).decode(),
        }

    @classmethod
    def from_description(cls, described: Any, where: Path | str) -> "TextModel":
        """The model that `described` returned, once it is checked.

        Raises:
            CorruptFile: something else, or a damaged model; `where` is named.
        """
        keys = ("kind", "normalization", "pieces", "sentencepiece")
        described = checked_description(described, where, FORMAT, VERSION, keys)
        try:
            proto = described["sentencepiece"]
            proto = None if proto is None else base64.b64decode(proto, validate=True)
            normalization = TextNormalization(**described["normalization"])
            model = cls(described["kind"], normalization, tuple(described["pieces"]), proto)
            whole = proto is None or model._processor.get_piece_size() == model.vocab_size - 2
        except (TypeError, ValueError, RuntimeError) as error:
            raise CorruptFile(f"{where}: not a text model ({error})") from error
        if not whole or model.pieces[:2] != FIRST or model.pieces[-1:] != LAST:
            raise CorruptFile(f"{where}: damaged, its pieces are not those of its sentencepiece model")
        return model

    def save(self, path: Path | str) -> None:
        """Write the JSON file atomically."""
        write_json(path, self.described())

    @classmethod
    def load(cls, path: Path | str) -> "TextModel":
        """Read what `save` wrote.

        Raises:
            CorruptFile: missing, damaged, or something else.
        """
        if not Path(path).exists():
            raise CorruptFile(f"{path}: no text model here; `voxtok text-model` writes one")
        return cls.from_description(read_json(path), path)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.pieces)}

    @cached_property
    def _processor(self) -> Any:
        if not self.proto:
            raise ValueError("it has no sentencepiece model")
        return sentencepiece.SentencePieceProcessor(model_proto=self.proto)

    @cached_property
    def _stand_ins(self) -> dict[int, str]:
        """Stand-ins of characters that are not ASCII; `str.translate` takes it. Unseen ones become one unknown."""
        letters = [piece for piece in self.pieces if len(piece) == 1 and not piece.isascii() and piece != SPACE]
        return stand_ins(letters)

    def _shifted(self, text: str) -> str:
        known = self._stand_ins
        return "".join(letter if letter.isascii() else known.get(ord(letter), "\ufffd") for letter in text)


def train_text_model(texts: Iterable[str], config: TextConfig) -> TextModel:
    """A text model of the texts, which are in memory; equal texts in equal order give an equal model.

    Raises:
        ConfigError: no text, or a vocabulary that is too small or too large for these texts.
    """
    spelled = [config.normalization.apply(text.replace(SPACE, " ")) for text in texts]
    spelled = [text for text in spelled if text]
    if not spelled:
        raise ConfigError("there are no texts to make a text model of")
    letters = sorted(set().union(*spelled) - {" "})
    if config.kind == "characters":
        return TextModel(config.kind, config.normalization, (*FIRST, SPACE, *letters, *LAST))
    least = len(letters) + 4
    if config.vocab_size is not None and config.vocab_size < least:
        raise ConfigError(f"vocab_size must be at least {least}: blank, unknown, sos/eos, space and every character")
    table = stand_ins([letter for letter in letters if not letter.isascii()])
    proto = _train(config, [text.translate(table) for text in spelled])
    back = {ord(stand_in): chr(letter) for letter, stand_in in table.items()}
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
    pieces = processor.id_to_piece(list(range(1, processor.get_piece_size())))
    return TextModel(config.kind, config.normalization, (*FIRST, *(p.translate(back) for p in pieces), *LAST), proto)


def stand_ins(letters: Sequence[str]) -> dict[int, str]:
    """Another character for each that is not ASCII, no two in a row with the same first byte of UTF-8.

    sentencepiece 0.2.3 finds unigram's first substrings among bytes, and next to none where all letters share their
    first byte, as those of most alphabets do.
    """
    points: Sequence[int] = code_points()[: len(letters)].astype(np.int64).tolist()
    return {ord(letter): chr(point) for letter, point in zip(sorted(letters), points, strict=True)}


def _train(config: TextConfig, texts: Sequence[str]) -> bytes:
    assert config.vocab_size is not None
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type=config.kind,
            vocab_size=config.vocab_size - 2,  # it counts its own unknown, but neither blank nor sos/eos
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            character_coverage=1.0,
            normalization_rule_name="identity",
            split_by_unicode_script=False,
            split_digits=False,
            input_sentence_size=0,
            shuffle_input_sentence=False,
            max_sentence_length=LONGEST_SENTENCE_BYTES,
            num_threads=16,  # unigram's sums are taken by thread: another number is another model
            minloglevel=2,
        )
    except RuntimeError as error:
        most = re.search(r"<= (\d+)", str(error))
        if most is None:
            raise ConfigError(f"sentencepiece could not train {config.vocab_size} numbers: {error}") from error
        raise ConfigError(
            f"vocab_size {config.vocab_size} does not fit these texts: it must be at most {int(most[1]) + 2}"
        ) from error
    return model.getvalue()
