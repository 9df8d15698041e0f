"""The vocoder that is installed with voxtok: it opens, is small, fits the installed tokenizer, and can be followed."""

from pathlib import Path

import numpy as np
import pytest

from voxtok.manifests.audio import read_audio
from voxtok.manifests.cuts import load_cuts
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.unit_edit import edits
from voxtok.tokenize.usage import dedup
from voxtok.vocoder.features import features_fingerprint
from voxtok.vocoder.intelligibility import stoi
from voxtok.vocoder.resynthesize import resynthesize
from voxtok.vocoder.vocoder import Vocoder, mini_folder
from voxtok.vocoder.voices import Voices


def test_it_is_small_and_for_the_installed_tokenizer() -> None:
    assert sum(path.stat().st_size for path in mini_folder().iterdir()) <= 12e6
    vocoder, tokenizer = Vocoder.load("mini", device="cpu"), Tokenizer.load("mini", device="cpu")
    vocoder.check_tokenizer(tokenizer.fingerprint)
    vocoder.check_features(features_fingerprint(tokenizer.upstream, tokenizer.config.layers))
    assert (vocoder.sampling_rate, vocoder.hop_samples) == (16000, 320)


def test_what_it_says_has_mostly_the_same_tokens(voxtok_data: Path) -> None:
    """Silence or noise would keep one token in twenty."""
    cut = next(cut for cut in load_cuts(voxtok_data / "sample") if cut.id.startswith("arctic"))
    samples = read_audio(cut, 16000)
    tokenizer = Tokenizer.load("mini", device="cpu")
    made = resynthesize(samples, 16000, tokenizer, Voices(Vocoder.load("mini", device="cpu"), "source", "mini"))
    before, after = (tokenizer.encode(one, 16000).codes[:, 0] for one in (samples, made))
    assert edits(before, after) / len(dedup(before)) < 0.6
    assert 0.3 < float(np.sqrt(np.mean(made**2)) / np.sqrt(np.mean(samples**2))) < 3
    pytest.importorskip("pystoi")
    assert (stoi(samples, made, 16000) or 0) > 0.5
