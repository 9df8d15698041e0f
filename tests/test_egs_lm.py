"""The recipe of unit language models as a user runs it, on a miniature."""

from pathlib import Path

import pytest
import soundfile as sf

from tests.test_egs import run
from tests.tiny_vocoder import tiny_config, tiny_vocoder, token_facts
from tests.toy_corpus import write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer
from voxtok.runtime.files import read_jsonl


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
