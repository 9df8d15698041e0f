"""One call from audio to text gives what token stores and decode-asr give, for every kind of input."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.toy_tokenizer import toy_tokenizer
from tests.toy_voice import RATE, WORDS, say, sentence, voice_tokenizer, write_voice
from voxtok.asr.decode_asr import DecodeAsrConfig, decode_asr
from voxtok.asr.encoders import EncoderConfig
from voxtok.asr.examples import JOINED, read_examples
from voxtok.asr.inputs import InputConfig
from voxtok.asr.long_audio import LongAudio
from voxtok.asr.normalization import TextNormalization
from voxtok.asr.recognizer import Recognizer, RecognizerConfig
from voxtok.asr.search import SearchConfig
from voxtok.asr.text import TextConfig, train_text_model
from voxtok.asr.tokenizers import copy_tokenizers
from voxtok.asr.transcribe import TranscribeConfig, Transcriber
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.subwords import train_subwords
from voxtok.runtime.errors import ConfigError, TokenizerMismatch
from voxtok.runtime.files import read_json, read_jsonl, write_json
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(find_spec("speechbrain") is None, reason="encoders come from voxtok[speechbrain]")

TEXT = TextConfig(
    kind="characters", vocab_size=None, normalization=TextNormalization(case="lower", punctuation="remove")
)
GREEDY = SearchConfig(method="ctc-greedy")


def pieces_tokenizer() -> Tokenizer:
    tokenizer = voice_tokenizer(dedup=True)
    codes = tokenizer.with_bpe(None).encode(say(sentence(0, words=30), 0), RATE).codes[:, 0]
    subwords = train_subwords([codes], unit_vocab_size=tokenizer.vocab_sizes[0], vocab_size=16, kind="bpe")
    return tokenizer.with_bpe(subwords)


KINDS: dict[str, tuple[list[Tokenizer], dict[str, Any]]] = {
    "frames": ([voice_tokenizer()], {"tokens": True, "features": None}),
    "merged": ([voice_tokenizer(dedup=True)], {"tokens": True, "features": None}),
    "pieces": ([pieces_tokenizer()], {"tokens": True, "features": None}),
    "streams": ([voice_tokenizer(), toy_tokenizer()], {"tokens": True, "features": None, "streams": "attention"}),
    "logmel": ([], {"tokens": False, "features": "logmel"}),
    "fused": ([voice_tokenizer()], {"tokens": True, "features": "logmel"}),
    "merged and fused": (
        [voice_tokenizer(dedup=True)],
        {"tokens": True, "features": "logmel", "fusion": "cross-attention"},
    ),
}


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voice(tmp_path_factory.mktemp("voice"), range(3))


def random_model(kind: str, cuts: Path, folder: Path, **changes: Any) -> tuple[Path, str]:
    """A recognizer with random weights in folder/model, and the path that decode-asr takes."""
    tokenizers, inputs = KINDS[kind]
    stores = [folder / f"tokens{place}" for place in range(len(tokenizers))]
    for tokenizer, store in zip(tokenizers, stores, strict=True):
        encode_corpus(load_cuts(cuts), tokenizer, store, shard_size=10)
    config = RecognizerConfig(
        inputs=InputConfig(**{**inputs, "width": 24, **changes}),
        encoder=EncoderConfig(kind="branchformer", blocks=1, width=24, heads=2, inner=32, kernel=3, subsampling=4),
        ctc_weight=1.0,
    )
    data = JOINED.join(map(str, stores)) or str(cuts)
    examples = read_examples(
        [data], config.inputs, expected=None, cache=folder / "cache", device=torch.device("cpu")
    )  # fmt: skip
    torch.manual_seed(2)
    recognizer = Recognizer(config, examples.source, train_text_model(WORDS, TEXT))
    assert recognizer.ctc is not None
    torch.nn.init.normal_(recognizer.ctc.weight, std=1.0)
    torch.nn.init.constant_(recognizer.ctc.bias[:1], -9.0)  # random weights should write something
    recognizer.save(folder / "model")
    copy_tokenizers([store / "tokenizer" for store in stores], folder / "model")
    return folder / "model", data


@pytest.mark.parametrize("kind", KINDS)
def test_one_call_is_the_way_over_stores(kind: str, cuts: Path, tmp_path: Path) -> None:
    model, data = random_model(kind, cuts, tmp_path)
    config = DecodeAsrConfig(model=str(model), data=(data,), out=str(tmp_path / "out"), search=GREEDY, device="cpu")
    decode_asr(config)
    transcriber = Transcriber.load(model, device="cpu", search=GREEDY)
    rows = list(read_jsonl(tmp_path / "out/hypotheses.jsonl"))
    assert any(row["text"] for row in rows)
    for cut, row in zip(load_cuts(cuts), rows, strict=True):
        found = transcriber.file(cut.recording.sources[0].source)
        assert row["id"] == cut.id and found.text == row["text"]
        assert [vars(word) for word in found.words] == row["words"]
        assert transcriber(cut.load_audio(), RATE) == found


def test_nothing_was_said_before_a_file(cuts: Path, tmp_path: Path) -> None:
    model, _ = random_model("frames", cuts, tmp_path, context=5)
    assert Transcriber.load(model, device="cpu", search=GREEDY)(say("cat", 0), RATE).duration_s > 0.4


def test_other_features_are_refused(cuts: Path, tmp_path: Path) -> None:
    model, _ = random_model("logmel", cuts, tmp_path)
    described = read_json(model / "asr.json")
    described["source"]["features"]["sampling_rate"] = 8000
    write_json(model / "asr.json", described)
    with pytest.raises(TokenizerMismatch, match="are not those of"):
        Transcriber.load(model, device="cpu", search=GREEDY)


def test_as_many_tokenizers_as_streams(cuts: Path, tmp_path: Path) -> None:
    model, _ = random_model("streams", cuts, tmp_path)
    with pytest.raises(ConfigError, match="reads tokens of 2 tokenizers, not 1"):
        Transcriber.load(model, device="cpu", tokenizers=(str(tmp_path / "tokens0/tokenizer"),))


def test_options_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="overlap-s"):
        LongAudio(window_s=10.0, overlap_s=6.0)
    with pytest.raises(ConfigError, match="at least one audio file"):
        TranscribeConfig(paths=("model",))


def test_long_audio_needs_times_of_words(cuts: Path, tmp_path: Path) -> None:
    model, _ = random_model("frames", cuts, tmp_path)
    transcriber = Transcriber.load(model, device="cpu", search=GREEDY, long=LongAudio(window_s=2.0, overlap_s=1.0))
    silent = replace(transcriber)
    silent.searcher.recognizer.ctc = None
    with pytest.raises(ConfigError, match="joined by times of words"):
        silent(np.zeros(5 * RATE), RATE)
