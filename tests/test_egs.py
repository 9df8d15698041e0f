"""Recipes run as a user runs them: every stage, on miniatures."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from tests.tiny_models import save_tiny
from tests.toy_corpus import RATE, toy_speech, write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer, tree
from voxtok.manifests.store import TokenStore
from voxtok.runtime.files import read_json, read_jsonl

EGS = Path(__file__).parent.parent / "egs"


def run(script: str, *words: str, **environment: str) -> str:
    """Run a recipe with this interpreter's commands first on the PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(EGS / script / "run.sh"), *words],
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=500,
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
def test_mini_hubert_in_miniature(tmp_path: Path) -> None:
    """All iterations of two steps each on toy speech, and the scores; then again, and nothing is done twice."""
    pytest.importorskip("espeakng_loader")
    for name, count in (("real", 12), ("test", 3)):
        write_toy_corpus(tmp_path / name, [3.0 + 0.1 * index for index in range(count)])
    environment = {
        "EXP": str(tmp_path / "exp"), "DATA": str(tmp_path), "CORPORA": "real", "TEST": "test",
        "SPEAKERS": "2", "GUIDES": "1", "STEPS": "2", "K1": "8", "K2": "8", "K3": "8",
    }  # fmt: skip
    run("mini_hubert", **environment)
    model = tmp_path / "exp" / "iter7" / "model" / "model.safetensors"
    table = (tmp_path / "exp" / "sweep_hubert_mini" / "sweep.tsv").read_text().splitlines()
    assert len(table) == 7
    made = model.stat().st_mtime_ns
    run("mini_hubert", **environment)
    assert model.stat().st_mtime_ns == made


@pytest.mark.slow
def test_kathleen_in_miniature(tmp_path: Path) -> None:
    """A vocoder of two steps on toy speech, and its scores; then again, and nothing is done twice."""
    pytest.importorskip("pystoi")
    for name, count in (("real", 6), ("test", 2)):
        write_toy_corpus(tmp_path / name, [2.0 + 0.1 * index for index in range(count)])
    toy_tokenizer(upstream="pooled:mini", layer=1).save(tmp_path / "tokenizer")
    environment = {
        "EXP": str(tmp_path / "exp"), "DATA": str(tmp_path), "CORPORA": "real", "TEST": "test", "STEPS": "2",
        "TOKENIZER": str(tmp_path / "tokenizer"),
    }  # fmt: skip
    run("kathleen", **environment)
    scores = read_json(tmp_path / "exp" / "quality" / "vocoder_quality.json")
    assert scores["utterances"] == 2 and scores["scores"]["unit_error_rate"] > 0
    model = tmp_path / "exp" / "vocoder" / "model" / "model.safetensors"
    made = model.stat().st_mtime_ns
    run("kathleen", **environment)
    assert model.stat().st_mtime_ns == made
