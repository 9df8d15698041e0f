"""Quality of several streams: rates equal loops, a stream equals a store of it alone, the command writes all."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.toy_corpus import write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer
from voxtok.manifests.codebook import Codebook, kmeans_codebook
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.quality import QualityConfig, main, measure, measure_streams
from voxtok.tokenize.rate_page import rate_page
from voxtok.tokenize.stream_meter import PrefixCounts, Rate, stream_ued
from voxtok.tokenize.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizers() -> tuple[Tokenizer, Tokenizer]:
    """A residual tokenizer of two stages, and one of its first stage."""
    first = toy_tokenizer(vocab_size=10)
    centroids = first.codebook.centroids
    rest = (centroids - centroids.mean(axis=0)) / 4
    stages = np.stack([centroids, rest[::-1]])
    return replace(first, codebook=Codebook("rvq", {}, {"centroids": stages})), first


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizers: tuple[Tokenizer, Tokenizer]) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    cuts = load_cuts(write_toy_corpus(folder / "corpus", [2.0, 2.5, 2.0, 3.0]))
    for name, tokenizer in zip(("both", "first"), tokenizers, strict=True):
        encode_corpus(cuts, tokenizer, folder / name, shard_size=4)
    return folder


def config(folder: Path, name: str, **options: Any) -> QualityConfig:
    options = {"silence": "count", "ued_utterances": 1, "device": "cpu", **options}
    return QualityConfig(store=str(folder / name), out="-", **options)


@pytest.fixture(scope="module")
def measured(folder: Path) -> tuple[list[dict[str, Any]], list[Rate]]:
    return measure_streams(config(folder, "both"))


def entropy_of(values: list[int]) -> float:
    return -sum(n / len(values) * math.log2(n / len(values)) for n in Counter(values).values())


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_rates_equal_loops(streams: int) -> None:
    rng = np.random.default_rng(0)
    utterances = [rng.integers(0, 3, (n, 3)).repeat(2, axis=0) for n in (20, 1, 33)]
    counts = PrefixCounts((3, 3, 3)[:streams])
    frames: list[list[int]] = []
    merged: list[list[int]] = []
    for codes in utterances:
        counts.add(codes)
        before: list[int] | None = None
        for row in codes[:, :streams].tolist():
            frames.append(row)
            if row != before:
                merged.append(row)
            before = row
    found = counts.rates(50.0)
    assert found["tokens_per_s"] == pytest.approx(50 * len(merged) / len(frames))
    assert found["bitrate_bps"] == pytest.approx(50 * sum(entropy_of([r[s] for r in frames]) for s in range(streams)))
    after = sum(entropy_of([row[s] for row in merged]) for s in range(streams))
    assert found["bitrate_dedup_bps"] == pytest.approx(found["tokens_per_s"] * after)
    assert found["bitrate_log2k_bps"] == pytest.approx(50 * streams * math.log2(3))


def test_worked_example() -> None:
    counts = PrefixCounts((2, 2))
    counts.add(np.array([[0, 0], [0, 1], [1, 1], [1, 1]]))
    found = counts.rates(50.0)
    assert found == pytest.approx(
        {"bitrate_bps": 90.564, "bitrate_log2k_bps": 100, "tokens_per_s": 37.5, "bitrate_dedup_bps": 68.872}, abs=1e-3
    )


def test_the_first_stage_is_measured_as_a_store_of_it_alone(folder: Path, measured: Any) -> None:
    reports, points = measured
    alone = measure(config(folder, "first"))
    for part in ("usage", "purity", "leakage", "counts", "unit_edit"):
        assert reports[0][part] == alone[part], part
    assert reports[0]["abx"] == alone["abx"][:4]
    centroids = {row["speakers"]: row["score"]["error"] for row in alone["abx"] if row["frames"] == "centroids"}
    assert (points[0].abx_within, points[0].abx_across) == (centroids["within"], centroids["across"])
    assert points[0].bitrate_bps == pytest.approx(alone["usage"]["bitrate_bps"])
    assert points[0].bitrate_dedup_bps == pytest.approx(alone["usage"]["bitrate_dedup_bps"])
    assert points[0].pnmi == [alone["purity"]["pnmi"]]


def test_streams_together(measured: Any) -> None:
    reports, points = measured
    assert [point.streams for point in points] == [1, 2]
    assert points[1].pnmi == [report["purity"]["pnmi"] for report in reports]
    assert points[1].perplexity == [report["usage"]["perplexity"] for report in reports]
    assert points[1].ued == pytest.approx(
        [np.mean([row["ued"] for row in report["unit_edit"].values()]) for report in reports]
    )
    bitrates = [report["usage"]["bitrate_bps"] for report in reports]
    assert points[1].bitrate_bps == pytest.approx(sum(bitrates)) and points[1].tokens_per_s >= points[0].tokens_per_s
    assert [report["tokenizer"]["stream"] for report in reports] == [0, 1]


def test_one_stream_of_several(folder: Path, measured: Any) -> None:
    assert measure(config(folder, "both", stream=1)) == measured[0][1]
    with pytest.raises(ConfigError, match=r"has 2 streams: say which one with --stream 0 \.\.\. 1"):
        measure(config(folder, "both"))
    with pytest.raises(ConfigError, match="has no stream 2"):
        measure(config(folder, "both", stream=2))


def test_the_command_writes_a_report_a_stream_and_a_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--store", str(folder / "both"), "--silence", "count", "--ued-utterances", "0", "--out", str(tmp_path)]
    assert main(argv) == 0
    assert "2 streams" in capsys.readouterr().out
    assert "stream 1, 10 tokens" in (tmp_path / "stream1" / "quality.html").read_text()
    rows = json.loads((tmp_path / "streams.json").read_text())["rows"]
    assert [row["streams"] for row in rows] == [1, 2] and rows[1]["ued"] is None
    head, *lines = (tmp_path / "streams.tsv").read_text().splitlines()
    assert all(len(line.split("\t")) == len(head.split("\t")) for line in lines) and len(lines) == 2
    assert main([*argv, "--stream", "0"]) == 0
    assert (tmp_path / "quality.json").exists()


def test_page_stands_alone(measured: Any) -> None:
    page = rate_page(measured[1], {"store": "<s>"})
    assert "&lt;s&gt;" in page and page.count("<svg") == 3 and "<script" not in page and "src=" not in page


def test_unit_edit_of_streams() -> None:
    """The second stream changes one of its two tokens over four frames, the first none."""
    clean, changed = np.array([[1, 5], [1, 5], [1, 6], [1, 6]]), np.array([[1, 5], [1, 5], [1, 7], [1, 7]])
    assert stream_ued({"noise": [(clean, changed)]}, 2) == [0.0, 0.25]
    assert stream_ued({"noise": []}, 2) == []


def test_vectors_of_one_stream_are_those_of_kmeans(tokenizers: tuple[Tokenizer, Tokenizer]) -> None:
    both, first = tokenizers
    codes = np.array([[3, 1], [9, 0]], dtype=np.uint8)
    assert np.array_equal(both.centroids(codes[:, :1]), first.centroids(codes[:, :1]))
    with pytest.raises(ConfigError, match=r"codes are \(frames, 2\)"):
        both.centroids(np.zeros((2, 3), dtype=np.uint8))
    assert kmeans_codebook(both.codebook.arrays["centroids"][0]).sha256 == first.codebook.sha256
    assert torch.equal(both.quantizer.decode(torch.tensor([[3]])), first.quantizer.decode(torch.tensor([[3]])))
