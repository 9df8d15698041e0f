"""Recognizers of log-mel and of SSL features, alone and fused with tokens, on audio."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lhotse import CutSet
from lhotse.cut import Cut

from tests.test_train_asr import config, losses
from tests.tiny_models import save_tiny
from tests.toy_corpus import write_toy_corpus
from tests.toy_recognizer import toy_recognizer
from tests.toy_tokenizer import toy_tokenizer
from voxtok.asr.examples import collate, read_examples
from voxtok.asr.features import open_extractor
from voxtok.asr.inputs import InputConfig
from voxtok.asr.train_asr import train_asr
from voxtok.manifests.audio import read_audio
from voxtok.manifests.cuts import load_cuts, save_cuts
from voxtok.runtime.errors import ConfigError, TokenizerMismatch
from voxtok.tokenize.encode import encode_corpus

CPU = torch.device("cpu")
LOGMEL = InputConfig(tokens=False, features="logmel", width=16)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cuts of five short utterances, and a store of their MFCC tokens with 100 frames a second."""
    folder = tmp_path_factory.mktemp("features")
    cuts = write_toy_corpus(folder, [1.0, 1.2, 0.9, 1.1, 1.3])
    encode_corpus(load_cuts(cuts), toy_tokenizer(), folder / "store", shard_size=10)
    return folder


def read(corpus: Path, inputs: InputConfig, path: str, cache: Path, **options: Any) -> Any:
    return read_examples([str(corpus / path)], inputs, cache=cache, device=CPU, **{"expected": None, **options})


def test_features_are_computed_once_and_mapped(corpus: Path, tmp_path: Path) -> None:
    found = read(corpus, LOGMEL, "cuts.jsonl.gz", tmp_path)
    assert found.source.feature_shape == (1, 80) and found.source.feature_rate_hz == 100.0
    extractor = open_extractor(LOGMEL, CPU)
    assert extractor is not None
    for cut, item in zip(load_cuts(corpus / "cuts.jsonl.gz"), found.items, strict=True):
        alone = extractor.of_samples(read_audio(cut, 16000))
        assert (np.asarray(item.features) == alone.numpy()).all()
    file = tmp_path / "features_0" / "features.f16"
    assert file.stat().st_size == sum(item.num_frames for item in found.items) * 80 * 2
    made = file.stat().st_mtime_ns
    read(corpus, LOGMEL, "cuts.jsonl.gz", tmp_path)
    assert file.stat().st_mtime_ns == made
    other = read(corpus, replace(LOGMEL, features="logmel-cmn", layers=(0,)), "cuts.jsonl.gz", tmp_path)
    assert file.stat().st_mtime_ns != made and other.features != found.features


def test_a_bad_recording_is_listed_and_the_others_are_read(corpus: Path, tmp_path: Path) -> None:
    cuts = list(load_cuts(corpus / "cuts.jsonl.gz"))
    (tmp_path / "broken.wav").write_bytes(b"not audio")
    cuts[1].recording.sources[0].source = str(tmp_path / "broken.wav")
    found = read_examples([saved(tmp_path, cuts)], LOGMEL, expected=None, cache=tmp_path, device=CPU)
    assert [row["id"] for row in found.rejected] == ["utt001"]
    assert [item.id for item in found.items] == ["utt000", "utt002", "utt003", "utt004"]


def saved(folder: Path, cuts: list[Cut]) -> str:
    save_cuts(folder / "cuts.jsonl.gz", CutSet.from_cuts(cuts))
    return str(folder / "cuts.jsonl.gz")


def test_of_two_cuts_with_one_id_the_first_is_read(corpus: Path, tmp_path: Path) -> None:
    """Its text is not trained on with the other's audio."""
    first, second, third = list(load_cuts(corpus / "cuts.jsonl.gz"))[:3]
    second.id = first.id
    path = saved(tmp_path, [first, second, third])
    found = read_examples([path], LOGMEL, expected=None, cache=tmp_path, device=CPU)
    assert [item.id for item in found.items] == ["utt000", "utt002"]
    assert [(row["id"], row["reason"]) for row in found.rejected] == [("utt000", "duplicate id")]
    alone = read(corpus, LOGMEL, "cuts.jsonl.gz", tmp_path / "alone").items[0]
    assert found.items[0].text == alone.text and (found.items[0].features == alone.features).all()


def test_a_corpus_without_a_usable_recording_says_why(corpus: Path, tmp_path: Path) -> None:
    cuts = list(load_cuts(corpus / "cuts.jsonl.gz"))[:2]
    for cut in cuts:
        cut.recording.sources[0].source = str(tmp_path / "gone.wav")
    with pytest.raises(ConfigError, match=r"2 are rejected, the first, utt000: .*gone\.wav"):
        read_examples([saved(tmp_path, cuts)], LOGMEL, expected=None, cache=tmp_path, device=CPU)


def test_features_of_a_killed_computation_are_not_taken_for_those_before(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the new array and its index, then run on the data of before."""
    cuts = list(load_cuts(corpus / "cuts.jsonl.gz"))
    before, other = (saved(tmp_path / name, part) for name, part in (("a", cuts[:3]), ("b", cuts[3:])))
    found = read_examples([before], LOGMEL, expected=None, cache=tmp_path, device=CPU)
    kept = [np.array(item.features) for item in found.items]
    with monkeypatch.context() as patch:
        patch.setattr("voxtok.asr.features.write_json", _killed)
        with pytest.raises(KeyboardInterrupt):
            read_examples([other], LOGMEL, expected=None, cache=tmp_path, device=CPU)
    again = read_examples([before], LOGMEL, expected=None, cache=tmp_path, device=CPU)
    assert all(np.array_equal(np.array(item.features), was) for item, was in zip(again.items, kept, strict=True))


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_features_of_another_model_are_refused(corpus: Path, tmp_path: Path) -> None:
    logmel = read(corpus, LOGMEL, "cuts.jsonl.gz", tmp_path).source
    other = replace(LOGMEL, features="mfcc-cmn", layers=(0,))
    with pytest.raises(TokenizerMismatch, match="features of"):
        read(corpus, other, "cuts.jsonl.gz", tmp_path, expected=logmel)


@pytest.mark.parametrize("kind", ["logmel", "layers", "fused", "fused by attention"])
def test_training_on_features(corpus: Path, tmp_path: Path, kind: str) -> None:
    """The same command and network for all of them; features are normalised by the training data's statistics."""
    ssl = {"features": str(save_tiny("hubert-base", tmp_path / "model")), "layers": (1, 2)}
    options: dict[str, Any] = {
        "logmel": {"tokens": False, "features": "logmel"},
        "layers": {"tokens": False, "layer_mix": "convolution", **ssl},
        "fused": {"tokens": True, "features": "logmel"},
        "fused by attention": {"tokens": True, "fusion": "cross-attention", **ssl},
    }[kind]
    inputs = InputConfig(width=16, **options)
    path = str(corpus / ("store" if inputs.tokens else "cuts.jsonl.gz"))
    text = corpus / "text.json"
    toy_recognizer().text.save(text)
    base = config(corpus, tmp_path / "out", steps=3)
    shape = replace(base.model.encoder, subsampling=1)
    made = replace(
        base, data=(path,), dev=(path,), text_model=str(text), model=replace(base.model, inputs=inputs, encoder=shape)
    )
    folder = train_asr(made)
    assert len(losses(tmp_path / "out")) == 3 and np.isfinite(losses(tmp_path / "out")).all()
    from voxtok.asr.recognizer import Recognizer

    recognizer = Recognizer.load(folder, device="cpu")
    found = read_examples([path], inputs, expected=recognizer.source, cache=tmp_path, device=CPU)
    assert recognizer.front.features is not None
    frames = torch.cat([torch.from_numpy(np.array(item.features, dtype=np.float32)) for item in found.items])
    torch.testing.assert_close(recognizer.front.features.mean, frames.mean(dim=0), rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        encoded = recognizer.encode(collate(found.items[:2]))
    assert encoded.lengths.tolist() == [item.num_frames for item in found.items[:2]]
