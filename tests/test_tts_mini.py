"""The text-to-speech model that is installed with voxtok: it opens, is small, and fits the other installed models."""

import wave
from pathlib import Path

import pytest

from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.tokenizer_folder import read_description
from voxtok.tts.say import main
from voxtok.tts.synthesizer import Synthesizer, tts_folder
from voxtok.vocoder.vocoder import Vocoder


def test_it_is_small_and_of_the_installed_tokens() -> None:
    folder = tts_folder("mini")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 12e6
    model = Synthesizer.load("mini", device="cpu")
    assert model.fingerprint == Tokenizer.load("mini", device="cpu").fingerprint
    assert model.fingerprint == read_description(folder / "tokenizer")["fingerprint"]
    Vocoder.load("mini", device="cpu").check_tokenizer(model.fingerprint)


def test_it_speaks(tmp_path: Path) -> None:
    """In the one voice of its training, as nobody says in whose."""
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("num2words")
    out = tmp_path / "a.wav"
    assert main(["mini", "Dr. Lee paid $3.50 in 1999.", "--out", str(out), "--device", "cpu"]) == 0
    with wave.open(str(out)) as found:
        assert found.getframerate() == 16000 and found.getnframes() > 16000
