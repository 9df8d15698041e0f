"""Subword units: exact there and back for any tokens, as the loops say, and nothing dropped on the way."""

from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference_subwords
from voxtok.manifests.characters import BLOCKS, MOST_TOKENS, as_text, code_points, from_text
from voxtok.manifests.subwords import Kind, Subwords, train_subwords
from voxtok.manifests.tokens import Codes, TokenSequence
from voxtok.runtime.errors import ConfigError, CorruptFile

UNITS = 60
SEEN = 40
KINDS: tuple[Kind, ...] = ("bpe", "unigram")


def toy_tokens(count: int, seed: int) -> list[Codes]:
    """Sequences of recurring words of 1-5 tokens below SEEN; the tokens up to UNITS never occur."""
    rng = np.random.default_rng(seed)
    words = [np.random.default_rng(i).integers(0, SEEN, 1 + i % 5) for i in range(30)]
    chosen = [rng.integers(0, len(words), rng.integers(20, 60)) for _ in range(count)]
    return [np.concatenate([words[i] for i in row]).astype(np.uint16) for row in chosen]


CORPUS = toy_tokens(200, seed=0)


@pytest.fixture(scope="module")
def trained() -> dict[Kind, Subwords]:
    return {kind: train_subwords(CORPUS, unit_vocab_size=UNITS, vocab_size=120, kind=kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_any_tokens_come_back(kind: Kind, trained: dict[Kind, Subwords]) -> None:
    subwords = trained[kind]

    @settings(deadline=None)
    @given(st.lists(st.integers(0, UNITS - 1), max_size=80), st.floats(0.05, 1.0), st.integers(0, 2**31))
    def check(codes: list[int], alpha: float, seed: int) -> None:
        assert subwords.decode(subwords.encode(codes)).tolist() == codes
        assert subwords.decode(subwords.sample_batch([codes], alpha=alpha, seed=seed)[0]).tolist() == codes

    check()


def test_bpe_is_as_the_loops_say(trained: dict[Kind, Subwords]) -> None:
    subwords = trained["bpe"]
    pieces = [tuple(subwords.decode([piece]).tolist()) for piece in range(subwords.vocab_size)]
    assert len(set(pieces)) == 120 and {piece for piece in pieces if len(piece) == 1} == {(i,) for i in range(UNITS)}
    for codes in [*toy_tokens(20, seed=1), np.random.default_rng(0).integers(0, SEEN, 300)]:
        assert subwords.encode(codes).tolist() == reference_subwords.encode(codes.tolist(), pieces)


def test_a_merge_by_hand() -> None:
    """In 1 2 3 1 2 4 1 2, only the pair 1 2 repeats: the one piece beyond the tokens is `1-2`."""
    subwords = train_subwords([np.array([1, 2, 3, 1, 2, 4, 1, 2])], unit_vocab_size=5, vocab_size=6, kind="bpe")
    assert [subwords.written(piece) for piece in subwords.encode([1, 2, 0, 2, 1, 2])] == ["1-2", "0", "2", "1-2"]
    assert sorted(map(subwords.written, range(6))) == ["0", "1", "1-2", "2", "3", "4"]


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_longer_than_tokens(kind: Kind, trained: dict[Kind, Subwords]) -> None:
    codes = np.concatenate(toy_tokens(20, seed=2))
    assert len(trained[kind].encode(codes)) < 0.5 * len(codes)


def test_a_batch_is_each_alone(trained: dict[Kind, Subwords]) -> None:
    for subwords in trained.values():
        batch = [*CORPUS[:5], np.zeros(0, dtype=np.uint8)]
        for together, codes in zip(subwords.encode_batch(batch), batch, strict=True):
            assert np.array_equal(together, subwords.encode(codes))


@pytest.mark.parametrize("kind", KINDS)
def test_training_repeats(kind: Kind, trained: dict[Kind, Subwords]) -> None:
    again = train_subwords(iter(CORPUS), unit_vocab_size=UNITS, vocab_size=120, kind=kind)
    assert again.model == trained[kind].model and again.sha256 == trained[kind].sha256


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_varies_and_repeats_by_seed(kind: Kind, trained: dict[Kind, Subwords]) -> None:
    def drawn(alpha: float, seed: int) -> list[list[int]]:
        return [pieces.tolist() for pieces in trained[kind].sample_batch(CORPUS[:4], alpha=alpha, seed=seed)]

    plain = [pieces.tolist() for pieces in trained[kind].encode_batch(CORPUS[:4])]
    alpha = {"bpe": 0.3, "unigram": 0.02}[kind]
    assert drawn(alpha, 7) == drawn(alpha, 7) != drawn(alpha, 8)
    assert drawn(alpha, 7) != plain
    if kind == "bpe":  # every merge dropped
        assert drawn(1.0, 7) == [trained[kind].encode_batch([[c] for c in codes]) for codes in CORPUS[:4]]
    with pytest.raises(ConfigError, match="alpha"):
        drawn(0.0, 7)


def test_no_utterance_is_too_long_to_learn_from() -> None:
    """sentencepiece drops lines above 4192 bytes by default, and some releases count positions with 16 bits."""
    rng = np.random.default_rng(0)
    for kind, size in {"bpe": 70_000, "unigram": 9_000}.items():
        long = np.concatenate([rng.integers(0, 6, size), np.tile([8, 9, 7], 1000)])
        subwords = train_subwords([long], unit_vocab_size=10, vocab_size=60, kind=cast(Kind, kind))
        assert len(subwords.encode(np.tile([8, 9, 7], 40))) < 40
        assert np.array_equal(subwords.decode(subwords.encode(long)), long)


def test_unigram_finds_the_words_of_long_utterances() -> None:
    """sentencepiece 0.2.3 finds next to no pieces where all characters begin with the same byte of UTF-8.

    30 words, 1000 a sentence: with them as pieces a word takes one, and most of the time it should.
    """
    words = [np.random.default_rng(i).integers(0, SEEN, 2 + i % 4) for i in range(30)]
    chosen = np.random.default_rng(0).integers(0, 30, (3, 1000))
    corpus = [np.concatenate([words[i] for i in row]) for row in chosen]
    subwords = train_subwords(corpus, unit_vocab_size=SEEN, vocab_size=100, kind="unigram")
    assert sum(len(pieces) for pieces in subwords.encode_batch(corpus)) < 1.2 * chosen.size


@pytest.mark.parametrize("units", [500, 66_000])
def test_large_vocabularies(units: int) -> None:
    codes = np.arange(units)
    subwords = train_subwords([np.tile([units - 1, 5], 10)], unit_vocab_size=units, vocab_size=units + 1, kind="bpe")
    assert subwords.unit_vocab_size == units and np.array_equal(subwords.decode(subwords.encode(codes)), codes)
    assert subwords.encode([units - 1, 5]).shape == (1,)


def test_the_characters_behind_tokens_are_distinct_and_harmless() -> None:
    points = code_points()
    assert len(points) == MOST_TOKENS == len(set(points.tolist())) and MOST_TOKENS > 2**16
    characters = "".join(map(chr, points))  # chr and encode refuse what is no character
    assert not any(map(str.isspace, characters)) and len(characters.encode().decode()) == MOST_TOKENS
    assert not set(characters) & {"\u2581", "\u2585", "\u2047", "\ufffd", "\ufeff", "\t", "\n", "\0"}
    assert np.array_equal(from_text(as_text(np.arange(MOST_TOKENS))), np.arange(MOST_TOKENS))
    first_bytes = [chr(point).encode()[0] for point in points[: len(BLOCKS)]]
    assert len(set(first_bytes)) == len(BLOCKS)


def durations_of(values: list[int]) -> npt.NDArray[np.unsignedinteger]:
    return np.array(values, dtype=np.uint8)


def test_pieces_last_as_long_as_their_tokens() -> None:
    """12-7 and 3, of tokens lasting 2, 1 and 4 frames, cover frames 0-3 and 3-7."""
    subwords = train_subwords([np.tile([12, 7, 3, 3], 9)], unit_vocab_size=13, vocab_size=14, kind="bpe")
    tokens = TokenSequence(np.array([[12], [7], [0]], dtype=np.uint8), 50.0, "f", durations_of([2, 1, 4]))
    pieces = subwords.apply(tokens, "g")
    assert [subwords.written(piece) for piece in pieces.codes[:, 0]] in (["12-7", "0"], ["12", "7", "0"])
    assert pieces.spans()[-1].tolist() == [3, 7] and pieces.fingerprint == "g"
    assert pieces.num_frames == tokens.num_frames and pieces.duration_s == tokens.duration_s


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("merged", [False, True])
def test_spans_are_those_of_the_first_and_last_token(kind: Kind, merged: bool, trained: dict[Kind, Subwords]) -> None:
    frames = TokenSequence(np.repeat(CORPUS[0], 3)[:, None], 50.0, "f")
    tokens = frames.dedup() if merged else frames
    pieces = trained[kind].apply(tokens, "g")
    spans, token = tokens.spans(), 0
    for piece, (start, stop) in zip(pieces.codes[:, 0], pieces.spans(), strict=True):
        length = len(trained[kind].decode([piece]))
        assert (spans[token, 0], spans[token + length - 1, 1]) == (start, stop)
        token += length
    assert token == len(tokens)


def test_an_empty_utterance_has_no_pieces(trained: dict[Kind, Subwords]) -> None:
    empty = TokenSequence(np.zeros((0, 1), dtype=np.uint8), 50.0, "f")
    pieces = trained["bpe"].apply(empty, "g")
    assert len(pieces) == 0 and pieces.num_frames == 0


def test_saved_subwords_are_the_same(trained: dict[Kind, Subwords], tmp_path: Path) -> None:
    for kind, subwords in trained.items():
        subwords.save(tmp_path / kind)
        loaded = Subwords.load(tmp_path / kind)
        assert loaded.sha256 == subwords.sha256 and loaded.vocab_size == 120
        assert np.array_equal(loaded.encode(CORPUS[0]), subwords.encode(CORPUS[0]))


@pytest.mark.parametrize("damage", ["empty", "rubbish", "cut", "text", "missing"])
def test_a_damaged_or_foreign_model_is_a_named_error(
    damage: str, trained: dict[Kind, Subwords], tmp_path: Path
) -> None:
    path = tmp_path / "bpe.model"
    if damage == "text":
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["the cat sat", "the mat"]),
            model_prefix=str(tmp_path / "bpe"), vocab_size=16, hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
    elif damage != "missing":
        model = trained["bpe"].model
        path.write_bytes({"empty": b"", "rubbish": b"rubbish", "cut": model[: len(model) // 2]}[damage])
    with pytest.raises(CorruptFile, match="not a model of `voxtok bpe train`"):
        Subwords.load(path)


def test_out_of_range_is_a_named_error(trained: dict[Kind, Subwords]) -> None:
    subwords = trained["bpe"]
    with pytest.raises(ConfigError, match="token 60 is not among these subwords' 60 tokens"):
        subwords.encode([0, UNITS])
    with pytest.raises(ConfigError, match="token -1 "):
        subwords.encode([0, -1])
    with pytest.raises(ConfigError, match="piece 120 is not among these subwords' 120 pieces"):
        subwords.decode([120])
    for wrong in ([[1, 2]], [0.5]):
        with pytest.raises(ConfigError, match="one row of integers"):
            subwords.encode(wrong)
    with pytest.raises(ConfigError, match="these have 2"):
        subwords.apply(TokenSequence(np.zeros((3, 2), dtype=np.uint8), 50.0, "f"), "g")


@pytest.mark.parametrize("kind", KINDS)
def test_impossible_training_is_a_named_error(kind: Kind) -> None:
    with pytest.raises(ConfigError, match=r"vocab_size 100000 is more than these tokens have pieces: at most \d+"):
        train_subwords(CORPUS[:3], unit_vocab_size=UNITS, vocab_size=100_000, kind=kind)
    with pytest.raises(ConfigError, match="vocab_size must be at least 60"):
        train_subwords(CORPUS, unit_vocab_size=UNITS, vocab_size=59, kind=kind)
    with pytest.raises(ConfigError, match="there are no tokens"):
        train_subwords([np.zeros(0, dtype=np.uint8)], unit_vocab_size=UNITS, vocab_size=80, kind=kind)
    with pytest.raises(ConfigError, match=r"^token 39 is not among"):
        train_subwords([np.arange(9), *CORPUS], unit_vocab_size=39, vocab_size=80, kind=kind)
    with pytest.raises(ConfigError, match="a vocabulary of"):
        train_subwords(CORPUS, unit_vocab_size=MOST_TOKENS + 1, vocab_size=2 * MOST_TOKENS, kind=kind)
