"""From audio to text and its errors: train-asr, decode-asr and transcribe on a toy voice, heard without an error."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch

from tests.toy_voice import LETTER_S, RATE, SPACE_S, WORDS, say, sentence, voice_tokenizer, write_voice
from voxtok.asr import transcribe
from voxtok.asr.augment import AugmentConfig
from voxtok.asr.decode_asr import DecodeAsrConfig, decode_asr
from voxtok.asr.encoders import EncoderConfig
from voxtok.asr.graph import make_graph
from voxtok.asr.inputs import InputConfig, Inputs
from voxtok.asr.long_audio import LongAudio
from voxtok.asr.ngram import write_arpa
from voxtok.asr.ngram_fit import kneser_ney
from voxtok.asr.normalization import TextNormalization
from voxtok.asr.padded import Padded
from voxtok.asr.recognizer import Recognizer, RecognizerConfig
from voxtok.asr.schedule import ScheduleConfig
from voxtok.asr.search import SearchConfig, Searcher
from voxtok.asr.text import TextConfig, TextModel, train_text_model
from voxtok.asr.train_asr import TrainAsrConfig, train_asr
from voxtok.asr.transcribe import Transcriber
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.samples import resample
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError, TokenizerMismatch
from voxtok.runtime.files import read_json, read_jsonl
from voxtok.tokenize.encode import encode_corpus

pytestmark = pytest.mark.skipif(find_spec("speechbrain") is None, reason="encoders come from voxtok[speechbrain]")

PLAIN = TextNormalization(case="lower", punctuation="remove")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of 80 utterances and of the first 8 of them, and the recognizer in asr/, trained by the former."""
    folder = tmp_path_factory.mktemp("voice")
    for name, seeds in (("train", range(80)), ("dev", range(8))):
        cuts = load_cuts(write_voice(folder / name, seeds))
        encode_corpus(cuts, voice_tokenizer(), folder / f"{name}_tokens", shard_size=100)
    train_text_model(WORDS, TextConfig(kind="characters", vocab_size=None, normalization=PLAIN)).save(
        folder / "text.json"
    )
    encoder = EncoderConfig(
        kind="conformer", blocks=1, width=48, heads=2, inner=64, kernel=5, subsampling=4, dropout=0.0
    )
    schedule = ScheduleConfig(
        steps=220, batch_frames=2400, peak_lr=1e-2, warmup_steps=10, evaluate_steps=220, report_steps=220,
        checkpoint_steps=220, average_best=1, average_decay=0.0,
    )  # fmt: skip
    config = TrainAsrConfig(
        data=(str(folder / "train_tokens"),),
        dev=(str(folder / "dev_tokens"),),
        text_model=str(folder / "text.json"),
        out=str(folder / "asr"),
        model=RecognizerConfig(
            inputs=InputConfig(tokens=True, features=None, width=48), encoder=encoder, ctc_weight=1.0
        ),
        train=schedule,
        augment=AugmentConfig(probability=0.0),
        device="cpu",
    )
    train_asr(config)
    return folder


def decoding(folder: Path, out: Path) -> DecodeAsrConfig:
    return DecodeAsrConfig(
        model=str(folder / "asr"),
        data=(str(folder / "dev_tokens"),),
        out=str(out),
        search=SearchConfig(method="ctc-beam"),
        part_size=3,
        device="cpu",
    )


def results(out: Path) -> dict[str, bytes]:
    names = ("hypotheses.jsonl", "hyp.txt", "score.json", "score.txt", "alignments.txt", "rejected.jsonl")
    return {name: (out / name).read_bytes() for name in names}


def test_every_word_is_heard(folder: Path, tmp_path: Path) -> None:
    found = decode_asr(decoding(folder, tmp_path))
    assert found["score"]["wer"]["rate"] == 0.0, (tmp_path / "alignments.txt").read_text()
    assert found["utterances"] == 8 and found["rejected"] == 0
    assert found["score"]["normalization"] == {"case": "lower", "punctuation": "remove"}
    rows = {row["id"]: row for row in read_jsonl(tmp_path / "hypotheses.jsonl")}
    for seed in range(8):
        row = rows[f"utt{seed:03d}"]
        assert row["text"] == sentence(seed) and 0.3 < row["confidence"] <= 1
        times = [time for word in row["words"] for time in (word["start_s"], word["end_s"])]
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= len(say(row["text"], 0)) / RATE


def test_words_are_where_they_were_said(folder: Path) -> None:
    said = sentence(3).split()
    found = Transcriber.load(folder / "asr", device="cpu")(say(sentence(3), 3), RATE)
    begins, at = [], 0.0
    for word in said:
        begins.append(at)
        at += len(word) * LETTER_S + SPACE_S
    assert [word.text for word in found.words] == said
    assert [word.start_s for word in found.words] == pytest.approx(begins, abs=0.15)


def test_a_stopped_decoding_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    whole, stopped = decoding(folder, tmp_path / "whole"), decoding(folder, tmp_path / "stopped")
    decode_asr(whole)
    decode_asr(stopped)
    (tmp_path / "stopped/parts/000001.json").unlink()
    (tmp_path / "stopped/hypotheses.jsonl").unlink()
    kept = (tmp_path / "stopped/parts/000000.json").stat().st_mtime_ns
    decode_asr(stopped)
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")
    assert (tmp_path / "stopped/parts/000000.json").stat().st_mtime_ns == kept


def test_a_changed_search_is_decoded_anew(folder: Path, tmp_path: Path) -> None:
    config = decoding(folder, tmp_path)
    decode_asr(config)
    before = (tmp_path / "parts/000000.json").stat().st_mtime_ns
    decode_asr(replace(config, search=SearchConfig(method="ctc-greedy")))
    assert (tmp_path / "parts/000000.json").stat().st_mtime_ns != before


def test_a_changed_graph_is_decoded_anew(folder: Path, tmp_path: Path) -> None:
    """The same n-grams with other weights: graph.json is as it was."""
    pytest.importorskip("kaldi_decoder", reason="needs pip install 'voxtok[decode]'")
    graph = tmp_path / "graph"
    search = SearchConfig(method="graph", graph=str(graph), lm_weight=0.5)
    config = replace(decoding(folder, tmp_path / "out"), search=search)
    keys = []
    for count in (1, 9):
        said = [[word] for word in WORDS] + [["cat"]] * count
        (tmp_path / "words.arpa").write_text(write_arpa(kneser_ney(said, (), 1)))
        described = make_graph(TextModel.load(folder / "text.json"), tmp_path / "words.arpa", graph)
        decode_asr(config)
        keys.append((read_json(tmp_path / "out/parts/000000.json")["key"], described))
    assert keys[0][0] != keys[1][0] and keys[0][1] == keys[1][1]


def test_ranks_share_the_parts(folder: Path, tmp_path: Path) -> None:
    decode_asr(decoding(folder, tmp_path / "one"))
    shared = decoding(folder, tmp_path / "two")
    assert decode_asr(shared, Ranks(1, 2)) == {}
    assert sorted(path.name for path in (tmp_path / "two/parts").iterdir()) == ["000001.json"]
    decode_asr(shared, Ranks(0, 2))
    assert results(tmp_path / "two") == results(tmp_path / "one")


def test_batched_is_single(folder: Path, tmp_path: Path) -> None:
    config = decoding(folder, tmp_path / "batched")
    decode_asr(config)
    decode_asr(replace(config, out=str(tmp_path / "single"), batch_frames=1))
    assert (tmp_path / "batched/hyp.txt").read_bytes() == (tmp_path / "single/hyp.txt").read_bytes()


def test_other_tokens_are_refused(folder: Path, tmp_path: Path) -> None:
    cuts = load_cuts(folder / "dev/cuts.jsonl.gz")
    encode_corpus(cuts, voice_tokenizer(dedup=True), tmp_path / "other", shard_size=100)
    with pytest.raises(TokenizerMismatch, match="encode the corpus again"):
        decode_asr(replace(decoding(folder, tmp_path / "out"), data=(str(tmp_path / "other"),)))
    voice_tokenizer(dedup=True).save(tmp_path / "tokenizer")
    for name in (str(tmp_path / "tokenizer"), "mini"):  # the latter is the installed one
        with pytest.raises(TokenizerMismatch):
            Transcriber.load(folder / "asr", device="cpu", tokenizers=(name,))


def test_an_utterance_is_not_decoded_twice_into_one_folder(folder: Path, tmp_path: Path) -> None:
    both = (str(folder / "dev_tokens"), str(folder / "train_tokens"))
    with pytest.raises(ConfigError, match="utt000 is in several of"):
        decode_asr(replace(decoding(folder, tmp_path), data=both))


def test_one_folder_is_enough_for_transcribing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "asr/model", tmp_path / "elsewhere")
    files = [str(folder / f"dev/utt{seed:03d}.flac") for seed in (0, 1)]
    assert transcribe.main([str(tmp_path / "elsewhere"), *files, "--device", "cpu"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == [sentence(0), sentence(1)]
    assert [row["file"] for row in rows] == files
    shutil.rmtree(tmp_path / "elsewhere/tokenizers")
    with pytest.raises(ConfigError, match="--tokenizers"):
        Transcriber.load(tmp_path / "elsewhere", device="cpu")
    given = (str(folder / "dev_tokens/tokenizer"),)
    assert Transcriber.load(tmp_path / "elsewhere", device="cpu", tokenizers=given).file(files[0]).text == sentence(0)


def test_bad_files_are_named_and_the_others_transcribed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, dtype=np.float32), RATE)
    soundfile.write(tmp_path / "short.wav", np.zeros(50, dtype=np.float32), RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE, dtype=np.float32), RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan, dtype=np.float32), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "huge.wav", np.full(RATE, 1e30, dtype=np.float32), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "good.wav", np.stack([say(sentence(1), 1)] * 2, axis=1), RATE)
    (tmp_path / "noise.wav").write_bytes(b"no audio")
    names = ("empty", "short", "nan", "noise", "missing", "huge", "silent", "good")
    files = [str(tmp_path / f"{name}.wav") for name in names]
    assert transcribe.main([str(folder / "asr"), *files, "--device", "cpu", "--out", str(tmp_path / "out.jsonl")]) == 1
    rows = dict(zip(names, read_jsonl(tmp_path / "out.jsonl"), strict=True))
    assert {name: row["reason"] for name, row in rows.items() if "reason" in row} == {
        "empty": "empty", "short": "too short", "nan": "non-finite", "noise": "unreadable", "missing": "missing",
        "huge": "not transcribed",
    }  # fmt: skip
    assert rows["good"]["text"] == sentence(1)
    assert rows["silent"]["text"] == "" and rows["silent"]["words"] == [] and rows["silent"]["confidence"] is None
    assert "too short" in capsys.readouterr().err


def test_windows_of_long_audio_give_the_words_of_the_whole(folder: Path, tmp_path: Path) -> None:
    said = " ".join(sentence(seed) for seed in range(12))
    samples = say(said, 5)
    whole = Transcriber.load(folder / "asr", device="cpu", long=LongAudio(window_s=60.0))(samples, RATE)
    windows = Transcriber.load(folder / "asr", device="cpu", long=LongAudio(window_s=5.0, overlap_s=2.0, batch=2))
    found = windows(samples, RATE)
    assert whole.text == found.text == said
    assert [word.start_s for word in found.words] == pytest.approx([word.start_s for word in whole.words], abs=0.2)
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="FLOAT")
    spans: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> npt.NDArray[np.float32]:
        spans.append((start, stop))
        return samples[start:stop]

    assert windows.transcribe(read, len(samples)) == found
    assert len(spans) > 5 and max(stop - start for start, stop in spans) == 5 * RATE  # so memory is bounded
    assert windows.file(tmp_path / "long.wav") == found


def test_windows_that_memory_does_not_hold_are_decoded_by_fewer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = say(" ".join(sentence(seed) for seed in range(6)), 5)
    transcriber = Transcriber.load(folder / "asr", device="cpu", long=LongAudio(window_s=5.0, overlap_s=2.0))
    found, encode = transcriber(samples, RATE), Recognizer.encode

    def full(recognizer: Recognizer, inputs: Inputs) -> Padded:
        if inputs.tokens is not None and len(inputs.tokens.lengths) > 1:
            raise torch.OutOfMemoryError
        return encode(recognizer, inputs)

    monkeypatch.setattr(Recognizer, "encode", full)
    assert transcriber(samples, RATE) == found


def test_windows_without_a_path_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a graph's search leaves them whose beam is narrow."""
    transcriber = Transcriber.load(folder / "asr", device="cpu", long=LongAudio(window_s=5.0, overlap_s=2.0, batch=2))
    samples = say(" ".join(sentence(seed) for seed in range(6)), 5)[: 8 * RATE]
    assert transcriber(samples, RATE).no_path == ()
    search = Searcher.search
    monkeypatch.setattr(Searcher, "search", lambda self, encoded: [search(self, encoded)[0], []])
    found = transcriber(samples, RATE)
    assert found.no_path == ((3.0, 8.0),) and found.text
    assert max(word.end_s or 0.0 for word in found.words) < 5.0


def test_other_rates_are_resampled(folder: Path) -> None:
    transcriber = Transcriber.load(folder / "asr", device="cpu")
    twice = resample(say(sentence(0), 0), RATE, 2 * RATE)
    assert transcriber(twice, 2 * RATE).text == sentence(0)
    with pytest.raises(ConfigError, match="too short"):
        transcriber(np.zeros(10), RATE)
