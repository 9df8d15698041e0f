"""`voxtok bpe`: subwords in the tokenizer folder, in its identity, and in token stores."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.toy_corpus import RATE, toy_speech, write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer, tree
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.export import export, load_flat
from voxtok.manifests.store import TokenStore
from voxtok.manifests.subwords import train_subwords
from voxtok.runtime.commands import main
from voxtok.runtime.errors import ConfigError, CorruptFile, TokenizerMismatch
from voxtok.tokenize.bpe import TrainConfig, decode_store, encode_store, read_subwords, train_bpe
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.quality import QualityConfig, measure
from voxtok.tokenize.tokenizer import Tokenizer

SAMPLES = toy_speech(1.5, seed=5)[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_corpus(tmp_path_factory.mktemp("corpus"), [1.0 + 0.2 * i for i in range(8)])


@pytest.fixture(scope="module")
def work(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of merged tokens and of frames, each with a tokenizer that has subwords trained on it."""
    folder = tmp_path_factory.mktemp("bpe")
    for name, dedup in {"merged": True, "frames": False}.items():
        encode_corpus(load_cuts(corpus), toy_tokenizer(dedup=dedup), folder / name, shard_size=3)
        assert main(train_words(folder / name, folder / f"{name}-bpe")) == 0
    return folder


def train_words(store: Path, out: Path, vocab_size: int = 40, kind: str = "bpe") -> list[str]:
    return ["bpe", "train", "--stores", str(store), "--vocab-size", str(vocab_size), "--kind", kind, "--out", str(out)]


@pytest.mark.parametrize("name", ["merged", "frames"])
def test_train_encode_decode(name: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From tokens to pieces and back to the very tokens; frames are kept count of on the way."""
    store, tokenizer = work / name, work / f"{name}-bpe"
    words = ["bpe", "encode", "--store", str(store), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "pieces")]
    assert main(words) == 0
    assert main(["bpe", "decode", "--store", str(tmp_path / "pieces"), "--out", str(tmp_path / "tokens.txt")]) == 0
    export(TokenStore.open(store), "text", tmp_path / "wanted.txt")
    assert (tmp_path / "tokens.txt").read_text() == (tmp_path / "wanted.txt").read_text()
    tokens, pieces = TokenStore.open(store), TokenStore.open(tmp_path / "pieces")
    assert pieces.summary["tokens"] < tokens.summary["tokens"] and pieces.vocab_size == 40
    assert pieces.summary["frames"] == tokens.summary["frames"]
    subwords = read_subwords(tokenizer)
    assert pieces.info.bpe == subwords.sha256 and tokens.info.bpe is None
    assert pieces.fingerprint == json.loads((tokenizer / "tokenizer.json").read_text())["fingerprint"]
    assert "8 utterances" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["merged", "frames"])
def test_a_tokenizer_with_subwords_gives_pieces(name: str, corpus: Path, work: Path, tmp_path: Path) -> None:
    """Audio encoded at once has the pieces of tokens encoded before; `--bpe false` has the tokens."""
    encode_store(TokenStore.open(work / name), work / f"{name}-bpe", tmp_path / "pieces")
    words = ["encode", "--tokenizer", str(work / f"{name}-bpe"), "--cuts", str(corpus), "--shard-size", "3"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "at-once")]) == 0
    for folder in ("shar", "tokenizer"):
        assert tree(tmp_path / "at-once" / folder) == tree(tmp_path / "pieces" / folder)
    assert (tmp_path / "at-once" / "store.json").read_bytes() == (tmp_path / "pieces" / "store.json").read_bytes()
    assert main([*words, "--device", "cpu", "--bpe", "false", "--out", str(tmp_path / "tokens")]) == 0
    assert tree(tmp_path / "tokens") == tree(work / name)


def test_the_store_is_exported_with_durations(work: Path, tmp_path: Path) -> None:
    encode_store(TokenStore.open(work / "frames"), work / "frames-bpe", tmp_path / "pieces")
    store = TokenStore.open(tmp_path / "pieces")
    export(store, "flat", tmp_path / "flat")
    assert len(load_flat(tmp_path / "flat")) == 8
    assert np.load(tmp_path / "flat" / "durations.npy").sum() == store.summary["frames"]


def test_a_finished_piece_store_is_left_alone_and_a_changed_one_redone(work: Path, tmp_path: Path) -> None:
    store = TokenStore.open(shutil.copytree(work / "merged", tmp_path / "store"))
    encode_store(store, work / "merged-bpe", tmp_path / "pieces")
    before, when = tree(tmp_path / "pieces"), (tmp_path / "pieces" / "shar" / "tokens.000001.tar").stat().st_mtime_ns
    (tmp_path / "pieces" / "done" / "000002.json").unlink()
    (tmp_path / "pieces" / "summary.json").unlink()
    encode_store(store, work / "merged-bpe", tmp_path / "pieces")
    assert tree(tmp_path / "pieces") == before
    assert (tmp_path / "pieces" / "shar" / "tokens.000001.tar").stat().st_mtime_ns == when
    mark = tmp_path / "store" / "done" / "000001.json"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "inputs": "changed"}))
    encode_store(store, work / "merged-bpe", tmp_path / "pieces")
    assert (tmp_path / "pieces" / "shar" / "tokens.000001.tar").stat().st_mtime_ns != when


def test_a_store_is_not_overwritten_by_its_pieces(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = shutil.copytree(work / "merged", tmp_path / "store")
    before = tree(store)
    monkeypatch.chdir(tmp_path)
    encode = ["bpe", "encode", "--store", str(store), "--tokenizer", str(work / "merged-bpe"), "--out"]
    for words in ([*encode, "../" + tmp_path.name + "/store"], train_words(store, store / "tokenizer")):
        assert main(words) == 2
        assert "give another folder" in capsys.readouterr().err
        assert tree(store) == before


def test_subwords_are_part_of_the_identity(work: Path, tmp_path: Path) -> None:
    assert main(train_words(work / "merged", tmp_path / "more", vocab_size=50)) == 0
    assert main(train_words(work / "merged", tmp_path / "unigram", kind="unigram", vocab_size=30)) == 0
    folders = [work / "merged-bpe", work / "merged" / "tokenizer", tmp_path / "more", tmp_path / "unigram"]
    tokenizers = [Tokenizer.load(folder, device="cpu") for folder in folders]
    assert len({tokenizer.fingerprint for tokenizer in tokenizers}) == len(folders)
    assert tokenizers[0].with_bpe(None).fingerprint == tokenizers[1].fingerprint
    assert [tokenizer.vocab_sizes for tokenizer in tokenizers] == [(40,), (20,), (50,), (30,)]
    pieces, tokens = (tokenizer.encode(SAMPLES, RATE) for tokenizer in tokenizers[:2])
    assert pieces.num_frames == tokens.num_frames and len(pieces) < len(tokens)
    assert tokenizers[0].subwords is not None
    codes = tokenizers[0].subwords.decode(pieces.codes[:, 0])
    assert np.array_equal(codes, tokens.codes[:, 0])
    assert np.array_equal(tokenizers[0].centroids(codes[:, None]), tokenizers[1].centroids(tokens.codes))


def test_training_repeats_and_draws_by_seed(work: Path, tmp_path: Path) -> None:
    assert main(train_words(work / "merged", tmp_path / "again")) == 0
    assert tree(tmp_path / "again") == tree(work / "merged-bpe")
    store = TokenStore.open(work / "frames")

    def model(max_tokens: int, seed: int) -> bytes:
        options = TrainConfig(stores=("s",), vocab_size=24, kind="bpe", out="o", max_tokens=max_tokens, seed=seed)
        return train_bpe([store], options).model

    half = store.summary["tokens"] // 2
    assert model(half, seed=1) == model(half, seed=1) != model(half, seed=2)
    assert model(10**9, seed=1) == model(10**9, seed=2)


def test_pieces_are_printed_as_tokens(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bpe", "pieces", "--tokenizer", str(work / "frames-bpe")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [int(number) for number, _ in rows] == list(range(40))
    assert {int(piece) for _, piece in rows if "-" not in piece} == set(range(20))
    assert all(0 <= int(token) < 20 for _, piece in rows for token in piece.split("-"))


def test_train_says_what_came_out_in_tokens(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(train_words(work / "frames", tmp_path / "t")) == 0
    said = capsys.readouterr().out
    assert "40 pieces of " in said and "-" in said and said.isascii()


def test_stores_that_do_not_fit_are_refused(work: Path, tmp_path: Path) -> None:
    merged, frames = TokenStore.open(work / "merged"), TokenStore.open(work / "frames")
    with pytest.raises(TokenizerMismatch):
        encode_store(merged, work / "frames-bpe", tmp_path / "x")
    options = TrainConfig(stores=("s",), vocab_size=40, kind="bpe", out="o")
    with pytest.raises(TokenizerMismatch):
        train_bpe([merged, frames], options)
    encode_store(merged, work / "merged-bpe", tmp_path / "pieces")
    pieces = TokenStore.open(tmp_path / "pieces")
    for refused in (lambda: train_bpe([pieces], options), lambda: encode_store(pieces, work / "merged-bpe", "x")):
        with pytest.raises(ConfigError, match="has subword units already"):
            refused()
    with pytest.raises(ConfigError, match="nothing to decode"):
        decode_store(merged, tmp_path / "x.txt")
    with pytest.raises(ConfigError, match="has no subwords"):
        encode_store(merged, work / "merged" / "tokenizer", tmp_path / "x")
    with pytest.raises(ConfigError, match="subword units"):
        measure(QualityConfig(store=str(tmp_path / "pieces"), out=str(tmp_path / "q"), silence="count"))


def test_a_swapped_missing_or_stray_model_is_refused(work: Path, tmp_path: Path) -> None:
    swapped = shutil.copytree(work / "merged-bpe", tmp_path / "swapped")
    shutil.copy(work / "frames-bpe" / "bpe.model", swapped / "bpe.model")
    with pytest.raises(CorruptFile, match=r"bpe\.model is not the one"):
        Tokenizer.load(swapped, device="cpu")
    (swapped / "bpe.model").unlink()
    with pytest.raises(CorruptFile, match="not a model of"):
        Tokenizer.load(swapped, device="cpu")
    stray = shutil.copytree(work / "merged" / "tokenizer", tmp_path / "stray")
    shutil.copy(work / "merged-bpe" / "bpe.model", stray / "bpe.model")
    with pytest.raises(CorruptFile, match="is not part of this tokenizer"):
        Tokenizer.load(stray, device="cpu")


def test_saving_without_subwords_leaves_none_behind(work: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(work / "merged-bpe", device="cpu")
    tokenizer.save(tmp_path)
    tokenizer.with_bpe(None).save(tmp_path)
    assert Tokenizer.load(tmp_path, device="cpu").subwords is None


def test_subwords_of_another_vocabulary_are_refused() -> None:
    subwords = train_subwords([np.tile([1, 2], 9)], unit_vocab_size=21, vocab_size=22, kind="bpe")
    with pytest.raises(ConfigError, match=r"one stream of 21 tokens, this tokenizer's streams have \[20\]"):
        toy_tokenizer().with_bpe(subwords)


def test_the_command_says_what_it_takes(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bpe", "--help"]) == 0 and main(["bpe"]) == 2 and main(["bpe", "learn"]) == 2
    assert capsys.readouterr().err.count("train, encode, decode or pieces") == 2
    words = ["encode", "--tokenizer", str(work / "frames" / "tokenizer"), "--bpe", "true", "--device", "cpu", "a.wav"]
    assert main(words) == 2
    assert "has no subwords" in capsys.readouterr().err
