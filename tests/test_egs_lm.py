"""The recipe of unit language models as a user runs it, on a miniature."""

import os
import subprocess
from pathlib import Path

import pytest
import soundfile as sf

from tests.test_egs import EGS, run
from tests.tiny_vocoder import tiny_config, tiny_vocoder, token_facts
from tests.toy_corpus import write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer
from voxtok.runtime.files import read_jsonl


def test_the_prompt_is_the_first_of_many_recordings(tmp_path: Path) -> None:
    """With a `voxtok` that says what it is told."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "voxtok").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "bin" / "voxtok").chmod(0o755)
    (tmp_path / "exp" / "lm").mkdir(parents=True)
    (tmp_path / "exp" / "lm" / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "sample").mkdir()
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "DATA": str(tmp_path)}

    def recipe() -> subprocess.CompletedProcess[str]:
        script, told = EGS / "unit_lm" / "run.sh", {**environment, "EXP": str(tmp_path / "exp")}
        return subprocess.run([str(script)], env=told, capture_output=True, text=True)

    nothing = recipe()
    assert nothing.returncode == 1 and "there is no .wav or .flac" in nothing.stderr and not nothing.stdout
    for number in range(1000):
        (tmp_path / "sample" / f"{number:0200}.wav").touch()
    done = recipe()
    assert done.returncode == 0 and f"{0:0200}.wav --vocoder mini" in done.stdout


@pytest.mark.slow
def test_unit_lm_in_miniature(tmp_path: Path) -> None:
    """Two steps of training, and three continuations; then again, and the model is left as it is."""
    for name, count in (("real", 6), ("test", 2)):
        write_toy_corpus(tmp_path / name, [3.0 + 0.1 * index for index in range(count)])
    tokenizer = toy_tokenizer()
    tokenizer.save(tmp_path / "tokenizer")
    facts = token_facts(tokenizer.vocab_sizes, tokenizer.fingerprint, hop_samples=160)
    tiny_vocoder(tiny_config("phases"), facts).save(tmp_path / "vocoder")
    environment = {
        "EXP": str(tmp_path / "exp"), "DATA": str(tmp_path), "CORPORA": "real", "TEST": "test",
        "TOKENIZER": str(tmp_path / "tokenizer"), "VOCODER": str(tmp_path / "vocoder"),
        "OPTIONS": "--train.steps 2 --train.warmup-steps 1 --device cpu",
        "CONTINUE": "--device cpu --stop.max-s 0.5",
    }  # fmt: skip
    run("unit_lm", **environment)
    rows = list(read_jsonl(tmp_path / "exp" / "lm" / "metrics.jsonl"))
    assert rows[-1]["valid_perplexity"] > 1
    assert all(sf.info(tmp_path / "exp" / f"continued-{i}.wav").duration > 3 for i in (1, 2, 3))
    made = (tmp_path / "exp" / "lm" / "model.safetensors").stat().st_mtime_ns
    run("unit_lm", **environment)
    assert (tmp_path / "exp" / "lm" / "model.safetensors").stat().st_mtime_ns == made
