"""Encoding a corpus: the same tokens whatever the batch, the ranks or the restarts, and no bad file stops it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from lhotse import CutSet, Recording
from lhotse.cut import Cut
from lhotse.shar import SharWriter

from tests.tiny_models import save_tiny
from tests.toy_corpus import RATE, toy_speech, write_toy_corpus
from tests.toy_tokenizer import saved_toy_tokenizer, toy_tokenizer, tree
from voxtok.manifests.audio import read_audio
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.store import TokenStore
from voxtok.runtime.commands import main
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import BadAudio, ConfigError, CorruptFile
from voxtok.runtime.files import read_jsonl
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.extract import ExtractConfig

DURATIONS_S = [0.5, 1.0, 0.7, 2.5, 0.9, 0.3, 1.1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_corpus(tmp_path_factory.mktemp("corpus"), DURATIONS_S)


def test_tokens_are_those_of_each_utterance_alone(corpus: Path, tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    summary = encode_corpus(load_cuts(corpus), tokenizer, tmp_path / "s", shard_size=3)
    store = TokenStore.open(tmp_path / "s")
    found = list(store)
    assert [cut.id for cut, _ in found] == [f"utt{i:03d}" for i in range(len(DURATIONS_S))]
    for cut, tokens in found:
        assert np.array_equal(tokens.codes, tokenizer.encode(read_audio(cut, RATE), RATE).codes)
        assert tokens.fingerprint == tokenizer.fingerprint
    assert summary is not None and summary["utterances"] == len(DURATIONS_S) and summary["rejected"] == 0


def test_a_finished_store_is_left_alone_and_a_changed_file_redone(corpus: Path, tmp_path: Path) -> None:
    copied = write_toy_corpus(tmp_path / "corpus", DURATIONS_S)
    encode_corpus(load_cuts(copied), toy_tokenizer(), tmp_path / "s", shard_size=3)
    marks = {path: path.stat().st_mtime_ns for path in (tmp_path / "s" / "shar").iterdir()}
    encode_corpus(load_cuts(copied), toy_tokenizer(), tmp_path / "s", shard_size=3)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s" / "shar").iterdir()} == marks
    sf.write(tmp_path / "corpus" / "audio" / "utt001.wav", toy_speech(1.0, seed=77)[0], RATE, subtype="FLOAT")
    encode_corpus(load_cuts(copied), toy_tokenizer(), tmp_path / "s", shard_size=3)
    redone = {path.name for path, when in marks.items() if path.stat().st_mtime_ns != when}
    assert redone == {"cuts.000000.jsonl.gz", "tokens.000000.tar"}


def test_another_tokenizer_redoes_every_shard(corpus: Path, tmp_path: Path) -> None:
    encode_corpus(load_cuts(corpus), toy_tokenizer(), tmp_path / "s", shard_size=3)
    encode_corpus(load_cuts(corpus), toy_tokenizer().with_dedup(True), tmp_path / "s", shard_size=4)
    encode_corpus(load_cuts(corpus), toy_tokenizer().with_dedup(True), tmp_path / "fresh", shard_size=4)
    assert tree(tmp_path / "s") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_give_the_bytes_of_one(world_size: int, corpus: Path, tmp_path: Path) -> None:
    encode_corpus(load_cuts(corpus), toy_tokenizer(), tmp_path / "one", shard_size=2)
    for rank in reversed(range(world_size)):
        ranks = Ranks(rank, world_size)
        summary = encode_corpus(load_cuts(corpus), toy_tokenizer(), tmp_path / "many", shard_size=2, ranks=ranks)
        assert (summary is None) == (rank > 0)
    assert tree(tmp_path / "many") == tree(tmp_path / "one")


def test_one_rank_of_two_does_not_finish_a_store_of_another_tokenizer(corpus: Path, tmp_path: Path) -> None:
    """The other rank's shards are marked done, but with the old tokenizer's tokens."""
    encode_corpus(load_cuts(corpus), toy_tokenizer(), tmp_path / "s", shard_size=2)
    other = toy_tokenizer(vocab_size=15)
    assert encode_corpus(load_cuts(corpus), other, tmp_path / "s", shard_size=2, ranks=Ranks(1, 2)) is None
    with pytest.raises(CorruptFile, match="has not finished"):
        TokenStore.open(tmp_path / "s")
    assert encode_corpus(load_cuts(corpus), other, tmp_path / "s", shard_size=2, ranks=Ranks(0, 2)) is not None
    encode_corpus(load_cuts(corpus), other, tmp_path / "fresh", shard_size=2)
    assert tree(tmp_path / "s") == tree(tmp_path / "fresh")


def test_a_rank_with_nothing_to_do_reopens_a_store_whose_other_cuts_changed(tmp_path: Path) -> None:
    cuts = write_toy_corpus(tmp_path / "corpus", [0.5, 0.6])
    encode_corpus(load_cuts(cuts), toy_tokenizer(), tmp_path / "s", shard_size=1)
    sf.write(tmp_path / "corpus" / "audio" / "utt000.wav", toy_speech(0.5, seed=7)[0], RATE, subtype="FLOAT")
    assert encode_corpus(load_cuts(cuts), toy_tokenizer(), tmp_path / "s", shard_size=1, ranks=Ranks(1, 2)) is None
    with pytest.raises(CorruptFile, match="has not finished"):
        TokenStore.open(tmp_path / "s")


def test_mixed_cuts_are_encoded_and_stored_without_audio(corpus: Path, tmp_path: Path) -> None:
    first, second = list(load_cuts(corpus))[:2]
    mixed = first.append(second).pad(duration=2.0).with_id("mixed")
    encode_corpus([mixed, first], toy_tokenizer(), tmp_path / "s", shard_size=2)
    found = {cut.id: (cut, tokens) for cut, tokens in TokenStore.open(tmp_path / "s")}
    cut, tokens = found["mixed"]
    assert np.array_equal(tokens.codes, toy_tokenizer().encode(read_audio(mixed, RATE), RATE).codes)
    assert not cut.has_recording and cut.duration == 2.0 and len(cut.supervisions) == 2


def test_readers_and_buffers_do_not_change_bytes(corpus: Path, tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    for name, extraction in {
        "a": ExtractConfig(windows=tokenizer.config.windows),
        "b": ExtractConfig(windows=tokenizer.config.windows, readers=4),
        "c": ExtractConfig(windows=tokenizer.config.windows, max_batch_s=1.0, buffer_s=1.5, batched=True),
    }.items():
        encode_corpus(load_cuts(corpus), tokenizer, tmp_path / name, shard_size=3, extraction=extraction)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "c")


def test_batches_give_the_tokens_of_utterances_alone(corpus: Path, tmp_path: Path) -> None:
    """What a GPU does: padded batches, planned within a shard; a group-norm model is the hard case."""
    tokenizer = toy_tokenizer(upstream=str(save_tiny("hubert-base", tmp_path / "hubert")), layer=2)
    windows = tokenizer.config.windows
    for name, batched in {"alone": False, "batched": True}.items():
        extraction = ExtractConfig(windows=windows, max_batch_s=4.0, batched=batched)
        encode_corpus(load_cuts(corpus), tokenizer, tmp_path / name, shard_size=5, extraction=extraction)
    assert tree(tmp_path / "alone") == tree(tmp_path / "batched")


def test_other_windows_than_the_tokenizers_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="windows"):
        extraction = ExtractConfig(windows=None)
        encode_corpus(load_cuts(corpus), toy_tokenizer(), tmp_path / "s", shard_size=3, extraction=extraction)


def test_dedup_keeps_durations(corpus: Path, tmp_path: Path) -> None:
    encode_corpus(load_cuts(corpus), toy_tokenizer(), tmp_path / "frames", shard_size=3)
    encode_corpus(load_cuts(corpus), toy_tokenizer(dedup=True), tmp_path / "units", shard_size=3)
    for (_, frames), (_, units) in zip(
        TokenStore.open(tmp_path / "frames"), TokenStore.open(tmp_path / "units"), strict=True
    ):
        assert np.array_equal(units.expand().codes, frames.codes) and len(units) < len(frames)


def damaged_corpus(folder: Path) -> tuple[CutSet, dict[str, str]]:
    """A corpus with one of each fault among good files, and the reason expected for each rejected id."""
    good = list(load_cuts(write_toy_corpus(folder, [0.5, 0.6])))
    audio = folder / "audio"
    samples = toy_speech(1.0, seed=1)[0]

    def recording(name: str, content: np.ndarray | bytes, rate: int = RATE, **how: str) -> Cut:
        path = audio / name
        if isinstance(content, bytes):
            sf.write(path, samples, RATE, format="WAV", subtype="FLOAT")
            made = Recording.from_file(path, recording_id=name)
            path.write_bytes(content)
        else:
            sf.write(path, content, rate, **how)
            made = Recording.from_file(path, recording_id=name)
        return made.to_cut()

    nan = samples.copy()
    nan[5000] = np.nan
    stereo = np.stack([np.repeat(samples, 3)] * 2, axis=1)
    cuts = [
        good[0],
        recording("zero.wav", b""),
        recording("text.wav", b"this is not audio at all\n" * 20),
        recording("short.wav", samples[:160]),
        recording("nan.wav", nan, subtype="FLOAT"),
        recording("48k stereo ünïcode 日本.wav", stereo, rate=48000),
        recording("compressed.mp3", samples, format="MP3"),
        recording("missing.wav", samples),
        recording("cut.flac", samples),
        good[0],
        good[1],
    ]
    (audio / "missing.wav").unlink()
    whole = (audio / "cut.flac").read_bytes()
    (audio / "cut.flac").write_bytes(whole[: len(whole) // 2])
    expected = {
        "zero.wav": "unreadable",
        "text.wav": "unreadable",
        "short.wav": "too short",
        "nan.wav": "non-finite",
        "missing.wav": "missing",
        "cut.flac": "truncated",
        good[0].id: "duplicate id",
    }
    return CutSet.from_cuts(cuts), expected


def test_bad_files_are_listed_and_the_rest_is_complete(tmp_path: Path) -> None:
    cuts, expected = damaged_corpus(tmp_path / "corpus")
    summary = encode_corpus(cuts, toy_tokenizer(), tmp_path / "s", shard_size=4)
    rows = list(read_jsonl(tmp_path / "s" / "rejected.jsonl"))
    assert {row["id"]: row["reason"] for row in rows} == expected
    assert all(row["detail"] for row in rows)
    found = [cut.id for cut, _ in TokenStore.open(tmp_path / "s")]
    assert found == ["utt000", "48k stereo ünïcode 日本.wav", "compressed.mp3", "utt001"]
    assert summary is not None and (summary["utterances"], summary["rejected"]) == (4, 7)


def test_strict_stops_at_the_first_bad_file(tmp_path: Path) -> None:
    cuts, _ = damaged_corpus(tmp_path / "corpus")
    with pytest.raises(BadAudio, match=r"zero\.wav"):
        encode_corpus(cuts, toy_tokenizer(), tmp_path / "s", shard_size=2, strict=True)
    encode_corpus(cuts, toy_tokenizer(), tmp_path / "s", shard_size=2)
    with pytest.raises(BadAudio, match=r"zero\.wav"):
        encode_corpus(cuts, toy_tokenizer(), tmp_path / "s", shard_size=2, strict=True)


def test_a_corpus_of_bad_files_only_ends_with_an_empty_store(tmp_path: Path) -> None:
    cuts, expected = damaged_corpus(tmp_path / "corpus")
    bad = [cut for cut in cuts if cut.id in expected and cut.id != "utt000"]
    summary = encode_corpus(bad, toy_tokenizer(), tmp_path / "s", shard_size=2)
    assert summary is not None and summary["utterances"] == 0 and summary["rejected"] == len(bad)
    assert list(TokenStore.open(tmp_path / "s")) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Lhotse leaves its tar open
def test_audio_inside_a_shar_folder(corpus: Path, tmp_path: Path) -> None:
    """Cuts whose audio is in memory get the same tokens, and are stored without their bytes."""
    (tmp_path / "shar").mkdir()
    with SharWriter(str(tmp_path / "shar"), fields={"recording": "wav"}, shard_size=3) as writer:
        for cut in load_cuts(corpus):
            writer.write(cut)
    encode_corpus(load_cuts(tmp_path / "shar"), toy_tokenizer(), tmp_path / "a", shard_size=3)
    encode_corpus(load_cuts(corpus), toy_tokenizer(), tmp_path / "b", shard_size=3)
    for (cut, found), (_, expected) in zip(
        TokenStore.open(tmp_path / "a"), TokenStore.open(tmp_path / "b"), strict=True
    ):
        assert np.mean(found.codes != expected.codes) < 0.01, "wav in Shar is 16-bit"
        assert cut.recording.sources[0].type == "shar"


def test_a_long_recording_in_windows_equals_the_whole_for_mfcc(corpus: Path, tmp_path: Path) -> None:
    """utt003 lasts 2.5 s, a window 2 s; MFCC frames look at their neighbourhood only."""
    tokenizer = toy_tokenizer()
    encode_corpus(load_cuts(corpus), tokenizer, tmp_path / "s", shard_size=9)
    by_id = {cut.id: (cut, tokens) for cut, tokens in TokenStore.open(tmp_path / "s")}
    cut, tokens = by_id["utt003"]
    whole = replace(tokenizer, config=replace(tokenizer.config, windows=None))
    assert len(tokens) == tokenizer.upstream.num_frames(round(2.5 * RATE)) == 248
    assert np.array_equal(tokens.codes, whole.encode(read_audio(cut, RATE), RATE).codes)


def test_the_command_writes_a_store_and_prints_files(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = str(saved_toy_tokenizer(tmp_path / "tokenizer"))
    store = str(tmp_path / "s")
    assert main(["encode", "--tokenizer", tokenizer, "--cuts", str(corpus), "--out", store, "--device", "cpu"]) == 0
    assert "7 utterances" in capsys.readouterr().out
    wav = str(corpus.parent / "audio" / "utt002.wav")
    assert main(["encode", "--tokenizer", tokenizer, "--device", "cpu", wav]) == 0
    name, *words = capsys.readouterr().out.split()
    stored = {cut.id: tokens for cut, tokens in TokenStore.open(store)}["utt002"]
    assert name == wav and [int(word) for word in words] == stored.codes[:, 0].tolist()


def test_a_bad_file_among_good_ones_on_the_command_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = str(saved_toy_tokenizer(tmp_path / "tokenizer"))
    (tmp_path / "bad.wav").write_bytes(b"text")
    good = [str(corpus.parent / "audio" / f"utt00{i}.wav") for i in (0, 1)]
    files = [good[0], str(tmp_path / "bad.wav"), str(tmp_path / "absent.wav"), good[1]]
    assert main(["encode", "--tokenizer", tokenizer, "--device", "cpu", *files]) == 1
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()] == good
    assert "bad.wav" in shown.err and "absent.wav" in shown.err
    assert main(["encode", "--tokenizer", tokenizer, "--device", "cpu", "--strict", *files]) == 2


def test_torchrun_encodes_with_two_processes(corpus: Path, tmp_path: Path) -> None:
    tokenizer = saved_toy_tokenizer(tmp_path / "tokenizer")
    encode_corpus(load_cuts(corpus), toy_tokenizer(), tmp_path / "one", shard_size=2)
    words = ["-m", "voxtok.runtime.commands", "encode", "--tokenizer", str(tokenizer), "--cuts", str(corpus)]
    words += ["--out", str(tmp_path / "two"), "--shard-size", "2", "--device", "cpu"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launcher, *words], check=True, capture_output=True, timeout=300)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
