"""The text front end: spoken forms, symbols and what is refused."""

from pathlib import Path

import pytest

from voxtok.runtime.errors import BadText, ConfigError, CorruptFile
from voxtok.tts.expansion import expand
from voxtok.tts.phonemizer import phonemize
from voxtok.tts.text import TextConfig, TextFrontEnd, spelled

LETTERS = TextConfig(kind="characters", language="en-us")
PHONES = TextConfig(kind="phones", language="en-us")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Dr. Lee paid $3.50 in 1999.", "doctor Lee paid three dollars, fifty cents in nineteen ninety-nine."),
        ("The 21st of 1,250 at 5%", "The twenty-first of one thousand, two hundred and fifty at five percent"),
        ("Steels, etc.", "Steels, et cetera."),
        ("Steels, etc. and more", "Steels, et cetera and more"),
        ("No. 5 of no. Yes", "number five of no. Yes"),
        ("no digits here", "no digits here"),
        ("$5, or £1 and €20.", "five dollars, or one pound and twenty euros."),
        ("$20, $30,", "twenty dollars, thirty dollars,"),
        ("$1,200,000", "one million, two hundred thousand dollars"),
        ("£1.01 or $0.50 or $7.00", "one pound, one penny or fifty cents or seven dollars"),
        ("$2.5 million, $2.005", "two point five million dollars, two point zero zero five dollars"),
        ("2,3rd of 1,2345", "two,third of one,two thousand, three hundred and forty-five"),
    ],
)  # fmt: skip
def test_numbers_and_abbreviations_become_words(text: str, said: str) -> None:
    pytest.importorskip("num2words")
    assert " ".join(expand(text, "en-us").replace(" .", ".").split()) == said


def test_numbers_of_other_languages() -> None:
    pytest.importorskip("num2words")
    assert expand("5 Katzen", "de") == "fünf Katzen"
    assert expand("1.500 und 1,5 und 1.234.567,25.", "de").split(" und ") == [
        "eintausendfünfhundert",
        "eins Komma fünf",
        "eine Million zweihundertvierunddreißigtausendfünfhundertsiebenundsechzig Komma zwei fünf.",
    ]
    assert expand("1.5, 4,5,6", "de") == "eins Komma fünf, vier,fünf,sechs"
    assert expand("1.500 e 1,5", "it") == "millecinquecento e uno virgola cinque"
    assert expand("1,500", "es-mx") == expand("1.500", "es") == "mil quinientos"
    with pytest.raises(ConfigError, match="cannot say the numbers of '5' in language 'xx'"):
        expand("5", "xx")


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 5000 + "th", "$" + "9" * 5000, "9" * 5000 + ".5"])
@pytest.mark.parametrize("language", ["en-us", "de", "ja", "ru"])
def test_numbers_too_long_to_say_are_named(number: str, language: str) -> None:
    pytest.importorskip("num2words")
    with pytest.raises(ConfigError, match="write them as words"):
        expand(number, language)


def test_texts_with_numbers_that_cannot_be_said_are_passed_over() -> None:
    """num2words has no Norwegian Bokmål."""
    pytest.importorskip("num2words")
    config = TextConfig(kind="characters", language="nb")
    front = TextFrontEnd.build(["en zebra 5", "en ku"], config)
    assert front.alphabet == ("e", "k", "n", "u")
    assert [isinstance(one, BadText) for one in front.encode_batch(["en 5", "en ku"])] == [True, False]
    with pytest.raises(ConfigError, match="none that can be said: num2words cannot say"):
        TextFrontEnd.build(["en 5"], config)


def test_spelling_keeps_apostrophes_within_words_alone() -> None:
    pytest.importorskip("num2words")
    assert spelled("It\u2019s \u2018well\u2014known\u2019 (no) B52", "en-us") == "It's well,known ,no, B fifty two"
    assert spelled("THE WHOLE SENTENCE", "en-us") == "the whole sentence"


def test_characters_worked() -> None:
    """`Hi, Ann` has a pause at the comma and one at the end; a full stop is understood."""
    front = TextFrontEnd.build(["Hi, Ann!"], LETTERS)
    assert front.symbols == (
        "<start>",
        "<space>",
        "<comma>",
        "<stop>",
        "<question>",
        "<exclamation>",
        "a",
        "h",
        "i",
        "n",
    )
    assert front.encode("Hi, Ann") == [1, 8, 9, 3, 7, 10, 10, 4]
    assert front.written(front.encode("ann hi?")) == "<start> a n n <space> h i <question>"
    assert front.vocab_size == 11


def test_what_cannot_be_said_is_named() -> None:
    front = TextFrontEnd.build(["a cab"], LETTERS)
    for text, wrong in [("a dab", "character 'd'"), ("...", "nothing to say"), ("", "nothing to say")]:
        with pytest.raises(BadText, match=wrong):
            front.encode(text)
    found = front.encode_batch(["a cab", "a dab", "cab"])
    assert [isinstance(one, BadText) for one in found] == [False, True, False]
    with pytest.raises(ConfigError, match="none that can be said"):
        TextFrontEnd.build([], LETTERS)


def test_phones_and_script() -> None:
    pytest.importorskip("espeakng_loader")
    front = TextFrontEnd.build(["Hello, world!", "a big box of the old hats"], PHONES)
    assert front.written(front.encode("Hello, world")) == "<start> h @ l 'oU <comma> w '3: l d <stop>"
    with pytest.raises(BadText, match="CYRILLIC"):
        front.encode("Hello мир")
    with pytest.raises(BadText, match="in none of the training texts"):
        front.encode("the measure")


def test_phones_do_not_depend_on_their_neighbours() -> None:
    pytest.importorskip("espeakng_loader")
    clauses = ["the boy", "read a book", "in the U S A", "naïve façade"]
    together = phonemize(clauses, "en-us")
    assert together[::-1] == phonemize(clauses[::-1], "en-us")
    assert together == [phonemize([clause], "en-us")[0] for clause in clauses]
    with pytest.raises(ConfigError, match="does not speak"):
        phonemize(["x"], "klingon")


def test_lexicon_is_kept_in_the_front_end(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(";;; CMU\nTHE DH AH0\nTHE(2) DH IY0\ncat K AE1 T\n")
    config = TextConfig(kind="lexicon", language="en-us", lexicon=str(tmp_path / "words.txt"))
    front = TextFrontEnd.build(["the cat"], config)
    front.save(tmp_path / "text.json")
    again = TextFrontEnd.load(tmp_path / "text.json")
    assert again.described() == front.described() and again.sha256 == front.sha256
    assert again.written(again.encode("The cat!")) == "<start> DH AH0 <space> K AE1 T <exclamation>"
    with pytest.raises(BadText, match="no phones for 'dog'"):
        again.encode("the dog")
    with pytest.raises(ConfigError, match=r"text\.lexicon"):
        TextConfig(kind="lexicon", language="en-us")


def test_damaged_front_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text('{"format": "voxtok-text-front-end", "version": 1}')
    with pytest.raises(CorruptFile, match="does not say"):
        TextFrontEnd.load(tmp_path / "text.json")
