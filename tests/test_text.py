"""Text normalisation and the text model."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtok.asr.normalization import Case, Punctuation, TextNormalization
from voxtok.asr.text import BLANK, UNKNOWN, Kind, TextConfig, TextModel, train_text_model
from voxtok.runtime.errors import ConfigError, CorruptFile

PLAIN = TextNormalization(case="lower", punctuation="remove")
TEXTS = ["the cat sat on the mat", "the dog's log", "a cat and a dog"] * 5
SIZES: dict[Kind, int | None] = {"characters": None, "bpe": 40, "unigram": 20}


def model_of(kind: Kind, texts: list[str] = TEXTS, vocab_size: int | None = None) -> TextModel:
    config = TextConfig(kind=kind, vocab_size=vocab_size or SIZES[kind], normalization=PLAIN)
    return train_text_model(texts, config)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("It's  well-known: “no”!", "it's well known no"),
        ("DON\u2019T 'quote' dogs'", "don't quote dogs"),
        ("\uff21\ufb01 a\u00a0b", "afi a b"),
        (" \t\n", ""),
    ],
)
def test_normalization(text: str, spelled: str) -> None:
    assert PLAIN.apply(text) == spelled


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=20), st.sampled_from(["lower", "keep"]), st.sampled_from(["remove", "keep"]))
def test_normalizing_twice_changes_nothing(text: str, case: Case, punctuation: Punctuation) -> None:
    normalization = TextNormalization(case=case, punctuation=punctuation)
    assert normalization.apply(normalization.apply(text)) == normalization.apply(text)


@pytest.mark.parametrize("kind", SIZES)
def test_texts_come_back(kind: Kind) -> None:
    model = model_of(kind)
    assert model.vocab_size == (SIZES[kind] or model.vocab_size)
    for text in TEXTS:
        numbers = model.encode(text)
        assert model.decode(numbers) == text
        assert all(UNKNOWN < number < model.sos_eos for number in numbers)
    assert model.decode([BLANK, *model.encode("the  CAT!"), model.sos_eos]) == "the cat"
    assert model.encode("") == []


@pytest.mark.parametrize("kind", SIZES)
def test_unseen_characters_are_unknown_not_an_error(kind: Kind) -> None:
    model = model_of(kind)
    assert UNKNOWN in model.encode("the zebra щ") and "⁇" in model.decode(model.encode("z"))
    assert model.decode(model.encode("the cat щ")).startswith("the cat ")


@pytest.mark.parametrize("kind", SIZES)
def test_words_are_those_of_the_text(kind: Kind) -> None:
    model = model_of(kind)
    numbers = model.encode("the cat's mat")
    words = model.words(numbers)
    assert [word for word, _, _ in words] == ["the", "cat's", "mat"]
    for word, first, last in words:
        assert model.decode(numbers[first:last]) == word


@pytest.mark.parametrize("kind", SIZES)
def test_a_saved_model_is_the_same(kind: Kind, tmp_path: Path) -> None:
    model = model_of(kind)
    model.save(tmp_path / "text.json")
    loaded = TextModel.load(tmp_path / "text.json")
    assert loaded.sha256 == model.sha256 == model_of(kind).sha256
    assert loaded.encode("a dog sat") == model.encode("a dog sat")


def test_unigram_finds_pieces_of_an_alphabet_with_few_first_bytes() -> None:
    """sentencepiece 0.2.3 finds next to none when the letters are given as they are."""
    drawn = random.Random(0)
    words = ["".join(drawn.choice("бвгджзклмнабвгд") for _ in range(drawn.randint(2, 6))) for _ in range(60)]
    texts = [" ".join(drawn.choice(words) for _ in range(8)) for _ in range(400)]
    model = model_of("unigram", texts, vocab_size=70)
    assert sum(len(piece) > 2 for piece in model.pieces) > 40
    assert model.decode(model.encode(texts[0])) == texts[0]
    assert len(model.encode(texts[0])) < 0.6 * len(texts[0])


def test_impossible_vocabularies_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most"):
        model_of("unigram", vocab_size=4000)
    with pytest.raises(ConfigError, match="at least 17"):
        model_of("bpe", vocab_size=4)
    with pytest.raises(ConfigError, match="no vocab_size"):
        TextConfig(kind="characters", vocab_size=3, normalization=PLAIN)
    with pytest.raises(ConfigError, match="needs a vocab_size"):
        TextConfig(kind="bpe", vocab_size=None, normalization=PLAIN)
    with pytest.raises(ConfigError, match="no texts"):
        model_of("characters", [" ", "..."])
    with pytest.raises(ConfigError, match="not one of"):
        model_of("characters").decode([999])


@pytest.mark.parametrize("change", ["pieces", "sentencepiece", "format", "normalization"])
def test_a_damaged_file_is_a_named_error(change: str, tmp_path: Path) -> None:
    described = model_of("bpe").described()
    described[change] = {"pieces": ["a"], "sentencepiece": "AAAA", "format": "x", "normalization": {"case": "lower"}}[
        change
    ]
    (tmp_path / "text.json").write_text(json.dumps(described))
    with pytest.raises(CorruptFile, match=r"text\.json"):
        TextModel.load(tmp_path / "text.json")
    with pytest.raises(CorruptFile, match="no text model"):
        TextModel.load(tmp_path / "none.json")
