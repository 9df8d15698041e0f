"""Small recognizers with random weights."""

from pathlib import Path
from typing import Any

import torch

from tests.toy_tokenizer import toy_tokenizer
from voxtok.asr.encoders import EncoderConfig
from voxtok.asr.inputs import InputConfig, Source
from voxtok.asr.normalization import TextNormalization
from voxtok.asr.recognizer import Recognizer, RecognizerConfig
from voxtok.asr.text import TextConfig, train_text_model

TOKENS = Source(tokenizers=("toy",), vocab_sizes=(12,), token_rate_hz=50.0)


def toy_recognizer(source: Source = TOKENS, **changes: Any) -> Recognizer:
    """A recognizer of characters a to e in evaluation mode; `changes` replace parts of its config."""
    normalization = TextNormalization(case="lower", punctuation="remove")
    text = train_text_model(
        ["abcde", "a b"], TextConfig(kind="characters", vocab_size=None, normalization=normalization)
    )
    parts: dict[str, Any] = {
        "inputs": InputConfig(tokens=True, features=None, width=24),
        "encoder": EncoderConfig(
            kind="conformer", blocks=2, width=32, heads=4, inner=64, kernel=7, subsampling=2, dropout=0.1
        ),
        "ctc_weight": 1.0,
    }
    torch.manual_seed(0)
    return Recognizer(RecognizerConfig(**{**parts, **changes}), source, text).eval()


def save_toy_recognizer(folder: Path) -> Path:
    """A recognizer of the toy tokenizer's frames, with that tokenizer, as `voxtok train-asr` writes it."""
    tokenizer = toy_tokenizer()
    source = Source(
        tokenizers=(tokenizer.fingerprint,), vocab_sizes=tokenizer.vocab_sizes, token_rate_hz=tokenizer.frame_rate_hz
    )
    toy_recognizer(source).save(folder)
    tokenizer.save(folder / "tokenizers" / "0")
    return folder
