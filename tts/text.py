"""The text front end: a sentence to numbers of characters or phones, with marks between words and at the ends.

Numbers and abbreviations become words first. Between two words stands one mark: <space>, or that of the punctuation
there; <start> and the mark of the last punctuation enclose the sentence. So every pause of the speech has a mark.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from voxtok.runtime.errors import BadText, ConfigError, CorruptFile
from voxtok.runtime.files import checked_description, read_json, sha256, write_json
from voxtok.tts.expansion import expand
from voxtok.tts.phonemizer import phonemize

FORMAT = "voxtok-text-front-end"
VERSION = 1
PAD = 0
"""The number that no symbol has: padding, and the blank of an aligner."""
START, SPACE = "<start>", "<space>"
MARKS = {",": "<comma>", ".": "<stop>", "?": "<question>", "!": "<exclamation>"}
BOUNDARIES = (START, SPACE, *MARKS.values())
SAME_MARK = str.maketrans({";": ",", ":": ",", "\u2014": ",", "\u2013": ",", "(": ",", ")": ",", "\u2026": ".",
                           "\u2019": "'", "\u02bc": "'", "\u2018": "'"})  # fmt: skip
"""What is read as another mark; other punctuation is read as a space."""

Kind = Literal["characters", "phones", "lexicon"]
Lexicon = dict[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How sentences become symbols."""

    kind: Kind
    """characters; phones, by espeak-ng (extra `synth`); or lexicon, phones of words looked up in a file."""
    language: str
    """Of numbers and of espeak-ng, such as en-us, en-gb, de."""
    lexicon: str | None = None
    """A file with lines `WORD PHONE PHONE ...`, for kind lexicon; it is kept in the front end."""

    def __post_init__(self) -> None:
        if (self.kind == "lexicon") != (self.lexicon is not None):
            raise ConfigError("text.lexicon is for text.kind lexicon, which needs it")


@dataclass(frozen=True, eq=False)
class TextFrontEnd:
    """Sentences to numbers 1 .. vocab_size - 1; 0 is padding.

    Example:
        front = TextFrontEnd.build(texts, TextConfig(kind="phones", language="en-us"))
        ids = front.encode("Hello, world!")
        assert front.written(ids) == "<start> h @ l 'oU <comma> w '3: l d <exclamation>"

    Attributes:
        kind: characters, phones or lexicon.
        language: of numbers and of espeak-ng.
        symbols: what the numbers from 1 on stand for.
        alphabet: letters in lower case (characters) or names of scripts (phones) that sentences may have.
        lexicon: phones of words, for kind lexicon; the words are in lower case.
    """

    kind: Kind
    language: str
    symbols: tuple[str, ...]
    alphabet: tuple[str, ...]
    lexicon: Lexicon

    @classmethod
    def build(cls, texts: Sequence[str], config: TextConfig) -> "TextFrontEnd":
        """A front end with the symbols that `texts` need; a text that cannot be said is passed over.

        Raises:
            ConfigError: no text that can be said; a lexicon that cannot be read; a language that is not known.
        """
        lexicon = read_lexicon(config.lexicon) if config.lexicon else {}
        letters: set[str] = set()
        for text in texts:
            with suppress(ConfigError):  # it has a number that cannot be said
                letters.update(letter for letter in spelled(text, config.language).lower() if letter.isalpha())
        alphabet: tuple[str, ...] = ()
        if config.kind != "lexicon":
            characters = config.kind == "characters"
            alphabet = tuple(sorted({letter if characters else script(letter) for letter in letters}))
        front = cls(config.kind, config.language, BOUNDARIES, alphabet, lexicon)
        every = front.symbols_of(texts)
        said = [symbols for symbols in every if not isinstance(symbols, BadText)]
        if not said:
            why = f": {every[0]}" if every else ""
            raise ConfigError(f"a text front end takes its symbols from texts, and there is none that can be said{why}")
        found = {symbol for symbols in (*said, *lexicon.values()) for symbol in symbols}
        known = (*BOUNDARIES, *sorted(found - set(BOUNDARIES)))
        return cls(config.kind, config.language, known, alphabet, lexicon)

    @property
    def vocab_size(self) -> int:
        """Number of different numbers, padding among them."""
        return len(self.symbols) + 1

    @cached_property
    def boundaries(self) -> frozenset[int]:
        """Numbers of the marks: the rest are phones or letters."""
        return frozenset(self._numbers[symbol] for symbol in BOUNDARIES)

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that changes a number."""
        return sha256(self.described())

    def encode(self, text: str) -> list[int]:
        """Numbers of one sentence.

        Raises:
            BadText: nothing to say, or a character, word or phone that this front end does not know.
        """
        found = self.encode_batch([text])[0]
        if isinstance(found, BadText):
            raise found
        return found

    def encode_batch(self, texts: Sequence[str]) -> list[list[int] | BadText]:
        """Numbers of each sentence, or what is wrong with it; much faster for phones than one by one."""
        return [self._numbered(symbols) for symbols in self.symbols_of(texts)]

    def written(self, ids: Iterable[int]) -> str:
        """The symbols of numbers, for people."""
        return " ".join(self.symbols[number - 1] for number in ids)

    def symbols_of(self, texts: Sequence[str]) -> list[list[str] | BadText]:
        """Symbols of each sentence, known or not, or what is wrong with it."""
        parted: list[list[tuple[str, str]] | BadText] = [self._clauses(text) for text in texts]
        clauses = [clause for parts in parted if not isinstance(parts, BadText) for clause, _ in parts]
        if self.kind == "phones":
            words = iter(phonemize(clauses, self.language))
        else:
            words = iter([[self._looked_up(word) for word in clause.split()] for clause in clauses])
        found: list[list[str] | BadText] = []
        for text, parts in zip(texts, parted, strict=True):
            if isinstance(parts, BadText):
                found.append(parts)
            else:
                found.append(_joined(text, [(next(words), mark) for _, mark in parts]))
        return found

    def described(self) -> dict[str, Any]:
        """The front end as a JSON value; `from_description` is the inverse."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_description(cls, described: Any, where: Path | str) -> "TextFrontEnd":
        """The front end that `described` returned, once it is checked.

        Raises:
            CorruptFile: something else; `where` is named.
        """
        keys = ("kind", "language", "symbols", "alphabet", "lexicon")
        found = checked_description(described, where, FORMAT, VERSION, keys)
        if found["kind"] not in ("characters", "phones", "lexicon") or found["symbols"][: len(BOUNDARIES)] != list(
            BOUNDARIES
        ):
            raise CorruptFile(f"{where}: a damaged text front end")
        lexicon = {word: tuple(phones) for word, phones in found["lexicon"].items()}
        return cls(found["kind"], found["language"], tuple(found["symbols"]), tuple(found["alphabet"]), lexicon)

    def save(self, path: Path | str) -> None:
        """Write one JSON file."""
        write_json(path, self.described())

    @classmethod
    def load(cls, path: Path | str) -> "TextFrontEnd":
        """Read what `save` wrote.

        Raises:
            CorruptFile: something else.
        """
        return cls.from_description(read_json(path), path)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols, start=1)}

    def _numbered(self, symbols: list[str] | BadText) -> list[int] | BadText:
        if isinstance(symbols, BadText):
            return symbols
        unknown = [symbol for symbol in symbols if symbol not in self._numbers]
        if unknown:
            return BadText(f"{unknown[0]!r} of {' '.join(symbols)!r} was in none of the training texts")
        return [self._numbers[symbol] for symbol in symbols]

    def _clauses(self, text: str) -> list[tuple[str, str]] | BadText:
        """(words between spaces, mark after them) of a sentence."""
        try:
            said = spelled(text, self.language)
        except ConfigError as error:
            return BadText(str(error))
        if self.kind != "phones":
            said = said.lower()
        wrong = self._unknown_character(said) if self.kind != "lexicon" else None
        if wrong:
            return BadText(f"{text!r} has {wrong}")
        parts = re.split(r"\s*([,.?!])[\s,.?!]*", said + ".")
        clauses = [(clause, MARKS[mark]) for clause, mark in zip(parts[::2], parts[1::2], strict=False) if clause]
        missing = [word for clause, _ in clauses for word in clause.split() if self.kind == "lexicon"]
        missing = [word for word in missing if word not in self.lexicon]
        if missing:
            return BadText(f"the lexicon has no phones for {missing[0]!r}, of {text!r}")
        return clauses or BadText(f"there is nothing to say in {text!r}")

    def _unknown_character(self, said: str) -> str | None:
        for letter in said:
            if letter.isdigit():
                return f"the digit {letter!r}, which is not part of a number"
            if not letter.isalpha():
                continue
            if self.kind == "characters" and letter not in self.alphabet:
                return f"the character {letter!r}, which was in none of the training texts"
            if self.kind == "phones" and script(letter) not in self.alphabet:
                return f"the character {letter!r} of a script ({script(letter)}) that no training text has"
        return None

    def _looked_up(self, word: str) -> list[str]:
        return list(word) if self.kind == "characters" else list(self.lexicon[word])


def spelled(text: str, language: str) -> str:
    """What is said of a text: letters, apostrophes within words, marks and single spaces; text in capitals alone is
    lowered, since espeak-ng would spell some of its words.
    """
    said = expand(unicodedata.normalize("NFKC", text).translate(SAME_MARK), language)
    said = unicodedata.normalize("NFC", said).translate(SAME_MARK)
    said = "".join(letter if letter.isalnum() or letter in "',.?!" or _joins(letter) else " " for letter in said)
    said = re.sub(r"(?<!\w)'|'(?!\w)", " ", said)
    return " ".join((said.lower() if said.isupper() else said).split())


def _joins(letter: str) -> bool:
    """Whether a character is part of the letter before it, as vowel signs are."""
    return unicodedata.category(letter)[0] == "M"


def script(letter: str) -> str:
    """First word of a letter's Unicode name: LATIN, GREEK, CYRILLIC, CJK, ..."""
    return unicodedata.name(letter, "UNNAMED").split()[0]


def read_lexicon(path: str) -> Lexicon:
    """Words in lower case with the first of their pronunciations; `WORD(2)` is another of them.

    Raises:
        ConfigError: it cannot be read, or has a line without phones.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"lexicon {path}: {error}") from error
    lexicon: Lexicon = {}
    for number, line in enumerate(lines, start=1):
        word, *phones = line.split() or [""]
        if not word or word.startswith((";;;", "#")):
            continue
        if not phones:
            raise ConfigError(f"lexicon {path}, line {number}: {word!r} has no phones")
        lexicon.setdefault(re.sub(r"\(\d+\)$", "", word).lower(), tuple(phones))
    if not lexicon:
        raise ConfigError(f"lexicon {path} is empty")
    return lexicon


def _joined(text: str, clauses: Sequence[tuple[list[list[str]], str]]) -> list[str] | BadText:
    """Symbols of a sentence from the phones of its words and the marks after its clauses."""
    symbols: list[str] = []
    for words, mark in clauses:
        for index, word in enumerate(words):
            symbols += [SPACE, *word] if index else word
        if words:
            symbols.append(mark)
    return [START, *symbols] if symbols else BadText(f"there is nothing to say in {text!r}")
