"""Recipes run as a user runs them: every stage, on miniatures."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from tests import command_server
from tests.tiny_models import save_tiny
from tests.tiny_vocoder import feature_facts, tiny_config, tiny_vocoder
from tests.toy_corpus import RATE, toy_speech, write_toy_corpus
from tests.toy_recognizer import save_toy_recognizer
from tests.toy_tokenizer import toy_tokenizer, tree
from voxtok.manifests.store import TokenStore
from voxtok.runtime.files import read_json, read_jsonl
from voxtok.tts.failures import FAILURES
from voxtok.vocoder.features import identity_fingerprint
from voxtok.vocoder.speaker import load_speaker_model
from voxtok.vocoder.vocoder import Vocoder

EGS = Path(__file__).parent.parent / "egs"


def run(script: str, *words: str, stages: str = "run.sh", **environment: str) -> str:
    """Run a recipe with a quick `voxtok` and this interpreter's commands first on the PATH."""
    path = os.pathsep.join([str(command_server.folder()), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(EGS / script / stages), *words],
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def write_mini_librispeech(folder: Path, parts: list[str]) -> None:
    """LibriSpeech as it is distributed, with toy speech in it."""
    for index, part in enumerate(parts):
        chapter = folder / part / f"{84 + index}" / "121123"
        chapter.mkdir(parents=True)
        lines = []
        for utterance in range(3):
            name = f"{84 + index}-121123-{utterance:04d}"
            sf.write(chapter / f"{name}.flac", toy_speech(1.5, seed=10 * index + utterance)[0], RATE)
            lines.append(f"{name} A TOY SENTENCE\n")
        (chapter / f"{84 + index}-121123.trans.txt").write_text("".join(lines))


def test_librispeech_in_miniature(tmp_path: Path) -> None:
    """Lhotse's manifests, a tiny HuBERT in place of WavLM Large, fit, encode and export of two parts; then again."""
    parts = ["train-clean-100", "dev-clean"]
    write_mini_librispeech(tmp_path / "LibriSpeech", parts)
    model = save_tiny("wavlm-large", tmp_path / "model")
    environment = {
        "EXP": str(tmp_path / "exp"),
        "CORPUS": str(tmp_path / "LibriSpeech"),
        "PARTS": " ".join(parts),
        "OPTIONS": f"--upstream {model} --layer 2 --vocab-size 8 --cache-gb 1",
    }
    run("librispeech", **environment)
    made = tree(tmp_path / "exp")
    name = "wavlm_large_l21_km2000"
    for part in parts:
        store = TokenStore.open(tmp_path / "exp" / "tokens" / name / part)
        assert store.summary["utterances"] == 3 and store.summary["rejected"] == 0
        text = made[f"kaldi/{name}/{part}/text"].decode().splitlines()
        assert len(text) == 3 and all(int(word) < 8 for line in text for word in line.split()[1:])
    assert read_json(tmp_path / "exp" / name / "tokenizer.json")["layers"] == [2]
    run("librispeech", **environment)
    assert tree(tmp_path / "exp") == made


def test_folder_of_ones_own_audio_with_a_bad_file(tmp_path: Path) -> None:
    audio = tmp_path / "my audio"
    (audio / "anna").mkdir(parents=True)
    for index in range(4):
        sf.write(audio / "anna" / f"take {index}.wav", toy_speech(2.0, seed=index)[0], RATE)
    sf.write(audio / "stereo 44.1.ogg", np.stack([toy_speech(2.0, seed=9)[0]] * 2, axis=1), 44100)
    (audio / "broken.wav").write_bytes(b"not audio")
    run("folder", str(audio), str(tmp_path / "exp"), OPTIONS="--vocab-size 12 --heldout 0")
    lines = (tmp_path / "exp" / "tokens.txt").read_text().splitlines()
    assert len(lines) == 5
    rejected = list(read_jsonl(tmp_path / "exp" / "corpus" / "rejected.jsonl"))
    assert len(rejected) == 1 and "broken" in rejected[0]["id"]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_mini_hubert_in_miniature(tmp_path: Path) -> None:
    """All iterations of two steps each on toy speech, and the scores; then again, and nothing is done twice."""
    pytest.importorskip("espeakng_loader")
    write_toy_corpus(tmp_path / "real", [1.5 + 0.1 * index for index in range(12)], speakers=6)
    write_toy_corpus(tmp_path / "read", [1.5 + 0.1 * index for index in range(4)], speakers=1, name="read")
    write_toy_corpus(tmp_path / "test", [1.5, 1.6], speakers=6)  # of the real ones, as it is with the sample
    environment = {
        "EXP": str(tmp_path / "exp"), "DATA": str(tmp_path), "CORPORA": "real read", "TEST": "test", "SPLIT": "real",
        "READ": "read", "VOICES": "real", "SPEAKERS": "2", "GUIDES": "1", "STEPS": "2", "K1": "8", "K2": "8", "K3": "8",
    }  # fmt: skip
    run("mini_hubert", **environment)
    exp = tmp_path / "exp"
    assert len((exp / "sweep_hubert_mini" / "sweep.tsv").read_text().splitlines()) == 7
    assert read_json(exp / "tokenizer_mini" / "tokenizer.json")["vocab_sizes"] == [8]
    kept = [*exp.glob("*/model/model.safetensors"), *exp.glob("tokenizer_*/codebook.safetensors")]
    assert len(kept) == 20  # the front and eleven iterations; seven codebooks between, and the last
    made = [path.stat().st_mtime_ns for path in kept]
    run("mini_hubert", **environment)
    assert [path.stat().st_mtime_ns for path in kept] == made


@pytest.mark.slow
def test_kathleen_in_miniature(tmp_path: Path) -> None:
    """A vocoder of two steps on toy speech, and its scores; then again, and nothing is done twice."""
    pytest.importorskip("pystoi")
    pytest.importorskip("espeakng_loader")
    for name, count in (("real", 6), ("test", 2)):
        write_toy_corpus(tmp_path / name, [2.0 + 0.1 * index for index in range(count)])
    toy_tokenizer(upstream="pooled:mini", layer=1).save(tmp_path / "tokenizer")
    environment = {
        "EXP": str(tmp_path / "exp"), "DATA": str(tmp_path), "CORPORA": "real", "TEST": "test", "STEPS": "2",
        "SPEAKERS": "1", "TOKENIZER": str(tmp_path / "tokenizer"),
    }  # fmt: skip
    run("kathleen", **environment)
    scores = read_json(tmp_path / "exp" / "quality" / "vocoder_quality.json")
    assert scores["utterances"] == 2 and scores["scores"]["unit_error_rate"] > 0
    model = tmp_path / "exp" / "vocoder" / "model" / "model.safetensors"
    made = model.stat().st_mtime_ns
    run("kathleen", **environment)
    assert model.stat().st_mtime_ns == made


TINY_TTS = (
    "--model.width 16 --model.heads 2 --model.encoder_blocks 1 --model.decoder_blocks 1 "
    "--data.aligner.steps 3 --train.steps 2 --train.warmup_steps 1 --train.checkpoint_steps 2 --train.dtype float32 "
    "--train.tensorboard false --train.workers 0"
)


@pytest.mark.slow
def test_ljspeech_in_miniature(tmp_path: Path) -> None:
    """Every stage on toy speech laid out as LJSpeech is; then again, and nothing is done twice."""
    pytest.importorskip("espeakng_loader")
    (tmp_path / "LJ" / "wavs").mkdir(parents=True)
    lines = []
    for index in range(8):
        name = f"LJ001-{index:04d}"
        sf.write(tmp_path / "LJ" / "wavs" / f"{name}.wav", toy_speech(1.5 + 0.1 * index, seed=index)[0], RATE)
        lines.append(f"{name}|A toy, No. {index}.|A toy, number {'ab'[index % 2]}.\n")
    (tmp_path / "LJ" / "metadata.csv").write_text("".join(lines))
    environment = {
        "EXP": str(tmp_path / "exp"), "CORPUS": str(tmp_path / "LJ"), "EVERY": "4", "TTS_OPTIONS": TINY_TTS,
        "ASR": str(save_toy_recognizer(tmp_path / "asr")),
        "OPTIONS": f"--upstream {save_tiny('hubert-base', tmp_path / 'model')} --layer 2 --vocab-size 8 --cache-gb 1",
        "VOCODER_OPTIONS": "--model.width 8 --model.istft.width 8 --model.istft.coarse_blocks 1 "
        "--model.istft.fine_blocks 1 --segments.batch_size 2 --segments.segment_frames 10 --losses.resolutions [256] "
        "--train.steps 2 --train.adversarial_from 2 --train.warmup_steps 1 --train.heldout 1 --train.dtype float32 "
        "--train.tensorboard false --train.workers 0",
    }  # fmt: skip
    run("ljspeech", **environment)
    exp = tmp_path / "exp"
    report = read_json(exp / "quality.json")
    assert report["sentences"] == report["compared"] == 2 and report["scores"]["mcd_db"] > 0
    assert TokenStore.open(exp / "tokens" / "train").summary["utterances"] == 4
    for heard in ("recorded", "resynthesized", "said"):  # the texts that were said have no digits
        assert "number" in (exp / "heard" / heard / "score" / "alignments.txt").read_text()
    made = [path.stat().st_mtime_ns for path in (exp / "tts" / "model.safetensors", exp / "said" / "summary.json")]
    run("ljspeech", **environment)
    again = [path.stat().st_mtime_ns for path in (exp / "tts" / "model.safetensors", exp / "said" / "summary.json")]
    assert made == again


@pytest.mark.slow
def test_speech_of_kathleen_in_miniature(tmp_path: Path) -> None:
    """Every stage of tts.sh on toy speech, by a vocoder of features that is told who speaks, in two voices."""
    write_toy_corpus(tmp_path / "real", [2.0 + 0.05 * index for index in range(16)], speakers=1)
    tokenizer = toy_tokenizer(upstream="mini", layer=1)
    tokenizer.save(tmp_path / "tokenizer")
    measure = load_speaker_model("mini")
    facts = feature_facts(
        tokenizer.upstream.width, identity_fingerprint(tokenizer.upstream.identity, (1,)), speaker_width=measure.width,
        tokenizer=tokenizer.fingerprint, vocab_sizes=tokenizer.vocab_sizes, speaker_model=measure.fingerprint,
    )  # fmt: skip
    network = tiny_vocoder(tiny_config("harmonic", speaker="embedding"), facts).model
    Vocoder(network, tokenizer.codebook).save(tmp_path / "vocoder")
    run(
        "kathleen", stages="tts.sh", EXP=str(tmp_path / "exp"), DATA=str(tmp_path), CORPUS="real", TEXT_FIELD="text",
        TOKENIZER=str(tmp_path / "tokenizer"), VOCODER=str(tmp_path / "vocoder"),
        VOICE=str(tmp_path / "real" / "audio" / "utt000.wav"),
        TTS_OPTIONS=f"{TINY_TTS} --data.text_field text --data.text.kind characters",
        ASR=str(save_toy_recognizer(tmp_path / "asr")),
    )  # fmt: skip
    report = read_json(tmp_path / "exp" / "tts" / "quality.json")
    assert report["sentences"] == report["compared"] == 2 and set(report["failures"]) == set(FAILURES)
    other = read_json(tmp_path / "exp" / "tts" / "quality_voice.json")
    assert other["sentences"] == 2 and len(other["config"]["voices"]) == 2
    for heard in ("recorded", "resynthesized", "said", "said_voice"):
        assert read_json(tmp_path / "exp" / "tts" / "heard" / heard / "text" / "score.json")["missing"] == 0
