"""The shipped tokenizer: found by its name from anywhere, and fitted on the shipped model."""

from pathlib import Path

import numpy as np
import pytest

from tests.toy_corpus import toy_speech
from tests.toy_tokenizer import toy_tokenizer
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.tokenizer_folder import tokenizer_folder


def test_its_name_means_the_installed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a folder of that name lies beside; "./mini" is that one."""
    monkeypatch.chdir(tmp_path)
    toy_tokenizer(12).save("mini")
    assert tokenizer_folder("mini").parent.name == "models"
    shipped = Tokenizer.load("mini", device="cpu")
    assert (shipped.vocab_sizes, shipped.frame_rate_hz, shipped.config.upstream) == ((500,), 50.0, "mini")
    assert Tokenizer.load("./mini", device="cpu").vocab_sizes == (12,)
    shipped.save("copy")
    assert Tokenizer.load("copy", device="cpu").fingerprint == shipped.fingerprint


def test_it_encodes() -> None:
    tokens = Tokenizer.load("mini", device="cpu").encode(toy_speech(2.0, seed=1)[0], 16000)
    assert tokens.codes.shape == (99, 1)
    assert len(np.unique(tokens.codes)) > 5
