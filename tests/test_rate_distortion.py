"""`voxtok rate-distortion` against the long way: fit, encode, decode and measure each quantizer alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_codecs import CODECS, save_codec
from tests.toy_corpus import toy_speech, write_toy_corpus
from tests.toy_tokenizer import saved_toy_tokenizer
from voxtok.manifests.cuts import load_cuts, save_cuts
from voxtok.runtime.commands import main
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.fit_codebook import QuantizerConfig
from voxtok.tokenize.import_codec import codec_tokenizer
from voxtok.tokenize.quality import QualityConfig, measure_streams
from voxtok.tokenize.rate_distortion import RateDistortionConfig, quantizer_of, rate_distortion
from voxtok.tokenize.stream_meter import Rate
from voxtok.tokenize.tokenizer import Tokenizer

QUANTIZERS = ("kmeans:12", "rvq:6x2", "pq:6x3", "random-projection:30x1")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RateDistortionConfig:
    """MFCC of seven toy utterances, of which four are held out; the toy tokenizer in other windows beside them."""
    folder = tmp_path_factory.mktemp("rates")
    cuts = write_toy_corpus(folder / "corpus", [3.0, 2.0, 2.5, 3.0, 2.5, 3.0, 4.0])
    load_cuts(cuts).subset(first=4).to_file(folder / "heldout.jsonl.gz")
    return RateDistortionConfig(
        cuts=str(cuts),
        heldout_cuts=str(folder / "heldout.jsonl.gz"),
        upstream="mfcc",
        layers=(0,),
        quantizers=QUANTIZERS,
        tokenizers=(str(saved_toy_tokenizer(folder / "toy")),),
        out=str(folder / "out"),
        silence="count",
        ued_utterances=1,
        device="cpu",
    )


@pytest.fixture(scope="module")
def points(config: RateDistortionConfig) -> list[Rate]:
    return rate_distortion(config)


def test_every_quantizer_has_its_points(config: RateDistortionConfig, points: list[Rate]) -> None:
    expected = [("kmeans:12", 1), ("rvq:6x2", 1), ("rvq:6x2", 2), ("pq:6x3", 3), ("random-projection:30x1", 1)]
    assert [(point.name, point.streams) for point in points] == [*expected, (config.tokenizers[0], 1)]
    out = Path(config.out)
    rows = json.loads((out / "rates.json").read_text())["rows"]
    assert [row["error"] for row in rows] == [point.error for point in points]
    head, *lines = (out / "rates.tsv").read_text().splitlines()
    assert all(len(line.split("\t")) == len(head.split("\t")) for line in lines) and len(lines) == 6
    page = (out / "rates.html").read_text()
    assert page.count("<svg") == 4 and "rvq:6x2" in page and "<script" not in page


@pytest.mark.parametrize("name", ["rvq:6x2", "pq:6x3"])
def test_scores_are_those_of_encode_and_quality(
    config: RateDistortionConfig, points: list[Rate], tmp_path: Path, name: str
) -> None:
    tokenizer = Tokenizer.load(Path(config.out) / name.replace(":", "-"), device="cpu")
    cuts = load_cuts(config.heldout_cuts)
    encode_corpus(cuts, tokenizer, tmp_path / "store", shard_size=9)
    settings = QualityConfig(store=str(tmp_path / "store"), out="-", silence="count", ued_utterances=1, device="cpu")
    _, alone = measure_streams(settings)
    mine = [point for point in points if point.name == name]
    frames = np.concatenate([tokenizer.features(cut.load_audio(), 16000).double() for cut in cuts])
    variance = frames.var(axis=0).sum()
    for one, other in zip(mine, alone, strict=True):
        for field in ("vocab_sizes", "perplexity", "pnmi", "ued", "abx_within", "abx_across", "bitrate_dedup_bps"):
            assert getattr(one, field) == getattr(other, field), field
        codes = np.concatenate([tokenizer.encode(cut.load_audio(), 16000).codes for cut in cuts])
        decoded = tokenizer.centroids(codes[:, : one.streams])
        assert one.error == pytest.approx(((frames - decoded) ** 2).sum(axis=1).mean() / variance, rel=1e-6)


def test_more_bits_err_less(points: list[Rate]) -> None:
    by_name: dict[Any, Rate] = {(point.name, point.streams): point for point in points}
    assert 0 < by_name["rvq:6x2", 2].error < by_name["rvq:6x2", 1].error < 1  # type: ignore[operator]
    assert by_name["rvq:6x2", 2].bitrate_bps > by_name["rvq:6x2", 1].bitrate_bps


@pytest.mark.parametrize("family", CODECS)
def test_a_codec_has_a_point_for_every_number_of_streams(
    config: RateDistortionConfig, tmp_path: Path, family: str
) -> None:
    """And its first streams stand for the vectors that a tokenizer of so many streams gives."""
    checkpoint = str(save_codec(family, tmp_path / "codec"))
    tokenizer, fewer = (codec_tokenizer(checkpoint, streams=n, dedup=False, device="cpu") for n in (3, 2))
    tokenizer.save(tmp_path / "t")
    codes = tokenizer.encode(toy_speech(0.5, seed=1)[0], 16000).codes
    assert np.array_equal(tokenizer.centroids(codes[:, :2]), fewer.centroids(codes[:, :2]))
    settings: dict[str, Any] = {"silence": "count", "ued_utterances": 0, "device": "cpu", "out": str(tmp_path / "out")}
    points = rate_distortion(
        RateDistortionConfig(heldout_cuts=config.heldout_cuts, tokenizers=(str(tmp_path / "t"),), **settings)
    )
    assert [(point.quantizer, point.streams) for point in points] == [("codec", n) for n in (1, 2, 3)]
    assert all(point.error is not None and point.error > 0 for point in points)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kmeans:500", QuantizerConfig(vocab_size=500)),
        ("rvq:256x4", QuantizerConfig(quantizer="rvq", vocab_size=256, streams=4)),
        ("random-projection:8192x1", QuantizerConfig(quantizer="random-projection", vocab_size=8192, streams=1)),
        ("fsq:8x5x5x5", QuantizerConfig(quantizer="fsq", vocab_size=1000, levels=(8, 5, 5, 5))),
        ("vq:320", QuantizerConfig(quantizer="vq", vocab_size=320)),
    ],
)
def test_names_of_quantizers(name: str, expected: QuantizerConfig) -> None:
    assert quantizer_of(name, 0) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kmeans", "write NAME:K"),
        ("kmeans:5x2", "write kmeans:K"),
        ("rvq:256", "write rvq:KxSTREAMS"),
        ("rvq:256x2x3", "write rvq:KxSTREAMS"),
        ("rqv:256x2", "did you mean rvq"),
    ],
)
def test_bad_names_are_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quantizer_of(name, 0)


def test_bad_options_are_named(config: RateDistortionConfig) -> None:
    given: dict[str, Any] = {"heldout_cuts": "h", "out": "o", "silence": "count"}
    with pytest.raises(ConfigError, match="nothing to compare"):
        RateDistortionConfig(**given)
    with pytest.raises(ConfigError, match="needs --cuts, --upstream and --layers"):
        RateDistortionConfig(**given, quantizers=("kmeans:5",))
    fitted: dict[str, Any] = {"cuts": "c", "upstream": "mfcc", "layers": (1, 3), "quantizers": ("pq:8x3",)}
    with pytest.raises(ConfigError, match="streams must be a multiple"):
        RateDistortionConfig(**given, **fitted)
    with pytest.raises(ConfigError, match="once"):
        RateDistortionConfig(**given, tokenizers=("t", "t"))


def test_a_second_utterance_of_one_id_is_not_scored(config: RateDistortionConfig, tmp_path: Path) -> None:
    cuts = list(load_cuts(config.heldout_cuts))
    save_cuts(tmp_path / "twice.jsonl.gz", [*cuts, cuts[1]])
    once = replace(config, cuts=None, upstream=None, quantizers=(), ued_utterances=0, out=str(tmp_path))
    assert rate_distortion(replace(once, heldout_cuts=str(tmp_path / "twice.jsonl.gz"))) == rate_distortion(once)


def test_command_with_tokenizers_only(
    config: RateDistortionConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["rate-distortion", "--heldout-cuts", config.heldout_cuts, "--tokenizers", config.tokenizers[0]]
    assert main([*argv, "--silence", "skip", "--ued-utterances", "0", "--out", str(tmp_path)]) == 0
    assert "1 points" in capsys.readouterr().out
    assert (tmp_path / "rates.html").exists()
