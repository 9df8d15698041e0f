"""`voxtok sweep` against the long way: fit, encode and measure one combination at a time."""

import json
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_models import save_tiny
from tests.toy_corpus import write_toy_corpus
from voxtok.manifests.cuts import load_cuts, save_cuts
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.tokenize.compare import training_cuts, training_frames
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.extract import extract
from voxtok.tokenize.frame_cache import cached
from voxtok.tokenize.frames import UtteranceFrames
from voxtok.tokenize.kmeans import fit_kmeans
from voxtok.tokenize.kmeans_state import KMeansConfig
from voxtok.tokenize.quality import QualityConfig, measure
from voxtok.tokenize.sweep import SweepConfig, main, sweep
from voxtok.tokenize.sweep_page import sweep_page
from voxtok.tokenize.tokenizer import Tokenizer

HELDOUT = 4


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    """Two layers of a tiny HuBERT, two sizes; seven toy utterances, of which four are held out."""
    folder = tmp_path_factory.mktemp("sweep")
    cuts = write_toy_corpus(folder / "corpus", [3.0, 2.0, 4.0, 3.0, 2.5, 3.0, 5.0])
    load_cuts(cuts).subset(first=HELDOUT).to_file(folder / "heldout.jsonl.gz")
    return SweepConfig(
        cuts=str(cuts),
        heldout_cuts=str(folder / "heldout.jsonl.gz"),
        upstream=str(save_tiny("hubert-base", folder / "hubert")),
        layers=(1, 3),
        vocab_sizes=(5, 9),
        out=str(folder / "sweep"),
        silence="count",
        ued_utterances=2,
        window_s=2.0,
        overlap_s=0.8,
        device="cpu",
    )


@pytest.fixture(scope="module")
def reports(config: SweepConfig) -> list[dict[str, Any]]:
    return sweep(config)


def test_codebooks_are_those_of_single_fits(config: SweepConfig, reports: list[dict[str, Any]]) -> None:
    tokenizer = Tokenizer.load(Path(config.out) / "layer3-k9", device="cpu")
    cuts = training_cuts(config.cuts, config, {cut.id for cut in load_cuts(config.heldout_cuts)})
    assert [i for i, _ in cuts] == [4, 5, 6]

    def utterances() -> Any:
        results = extract(
            [cut for _, cut in cuts], tokenizer.upstream, [3], lambda features: features[3], config.extraction
        )
        for (index, _), (_, frames) in zip(cuts, results, strict=True):
            assert not isinstance(frames, BadAudio)
            yield index, frames

    source = cached(UtteranceFrames(tokenizer.upstream.width, utterances, 0), "memory", torch.float16, 10**9)
    alone = fit_kmeans(source, KMeansConfig(vocab_size=9, seed=0), Ranks(), torch.device("cpu"))
    torch.testing.assert_close(alone.centroids, torch.from_numpy(tokenizer.codebook.centroids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("index", "name"), [(0, "layer1-k5"), (3, "layer3-k9")])
def test_scores_are_those_of_encode_and_quality(
    config: SweepConfig, reports: list[dict[str, Any]], tmp_path: Path, index: int, name: str
) -> None:
    folder = Path(config.out) / name
    encode_corpus(
        load_cuts(config.heldout_cuts), Tokenizer.load(folder, device="cpu"), tmp_path / "store", shard_size=9
    )
    measured = measure(
        QualityConfig(store=str(tmp_path / "store"), out="-", silence="count", ued_utterances=2, device="cpu")
    )
    assert measured["tokenizer"] == {name: reports[index]["tokenizer"][name] for name in measured["tokenizer"]}
    for part in ("usage", "purity", "leakage", "abx", "unit_edit", "counts", "scoring"):
        assert measured[part] == reports[index][part], part
    assert json.loads((folder / "quality.json").read_text())["purity"] == measured["purity"]


def test_tables_hold_every_combination(config: SweepConfig, reports: list[dict[str, Any]]) -> None:
    combinations = [(1, 5), (1, 9), (3, 5), (3, 9)]
    rows = json.loads((Path(config.out) / "sweep.json").read_text())["rows"]
    assert [(row["layer"], row["vocab_size"]) for row in rows] == combinations
    assert [row["pnmi"] for row in rows] == [report["purity"]["pnmi"] for report in reports]
    head, *lines = (Path(config.out) / "sweep.tsv").read_text().splitlines()
    assert head.split("\t") == list(rows[0])
    assert [tuple(map(float, line.split("\t")[:2])) for line in lines] == combinations
    assert all(len(line.split("\t")) == len(rows[0]) for line in lines)


def test_page_draws_a_line_for_every_size(config: SweepConfig, reports: list[dict[str, Any]]) -> None:
    page = (Path(config.out) / "sweep.html").read_text()
    assert page.count("<figure") == 7 and "K = 9" in page and "<script" not in page and "src=" not in page
    rows = json.loads((Path(config.out) / "sweep.json").read_text())["rows"]
    settings = {"silence": "skip", "upstream": "u", "cuts": "c", "heldout_cuts": "h"}
    one_layer = sweep_page([row for row in rows if row["layer"] == 1], settings)
    assert "vocabulary size" in one_layer and "are left out" in one_layer
    best = max(rows, key=lambda row: float(row["pnmi"]))
    assert f"<b>{best['pnmi']:.3f}</b>" in page


def test_several_codebooks_give_means_and_their_spread(config: SweepConfig, tmp_path: Path) -> None:
    one = replace(config, out=str(tmp_path / "one"), vocab_sizes=(60,), layers=(3,), ued_utterances=0)
    (alone,) = sweep(one)
    found = sweep(replace(one, out=str(tmp_path), codebooks=3))
    assert sorted(path.name for path in tmp_path.glob("layer*")) == [f"layer3-k60-seed{i}" for i in range(3)]
    assert found[0]["purity"] == alone["purity"], "the first is that of a sweep without others"
    (row,) = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    pnmi = [report["purity"]["pnmi"] for report in found]
    assert len(set(pnmi)) == 3
    assert row["pnmi"] == pytest.approx(sum(pnmi) / 3)
    assert row["pnmi_sd"] == pytest.approx(statistics.stdev(pnmi))
    assert f"{row['pnmi']:.3f}&nbsp;±&nbsp;{row['pnmi_sd']:.3f}" in (tmp_path / "sweep.html").read_text()
    assert main([*_argv(config, tmp_path / "again"), "--codebooks", "2"]) == 0


def _argv(config: SweepConfig, out: Path) -> list[str]:
    argv = ["--cuts", config.cuts, "--heldout-cuts", config.heldout_cuts, "--upstream", "mfcc", "--layers", "0"]
    return [*argv, "--vocab-sizes", "4,6", "--silence", "skip", "--ued-utterances", "0", "--out", str(out)]


def test_a_second_utterance_of_one_id_is_not_scored(config: SweepConfig, tmp_path: Path) -> None:
    """The first is; with both, the draw of a subset ended in a TypeError."""
    cuts = list(load_cuts(config.heldout_cuts))
    save_cuts(tmp_path / "twice.jsonl.gz", [*cuts, cuts[1]])
    settings = replace(config, upstream="mfcc", layers=(0,), vocab_sizes=(4,), ued_utterances=0)
    (once,) = sweep(replace(settings, out=str(tmp_path / "once")))
    (twice,) = sweep(replace(settings, out=str(tmp_path), heldout_cuts=str(tmp_path / "twice.jsonl.gz")))
    assert [(row["id"], row["reason"]) for row in twice["unusable"]] == [(cuts[1].id, "duplicate id")]
    for part in ("utterances", "usage", "counts", "abx"):
        assert twice[part] == once[part], part


def test_a_small_cache_keeps_some_frames_of_every_layer(config: SweepConfig, tmp_path: Path) -> None:
    small = replace(config, out=str(tmp_path), cache="disk", cache_gb=2e-5, layers=(2,), vocab_sizes=(4,))
    (report,) = sweep(replace(small, ued_utterances=0))
    assert report["usage"]["vocab_size"] == 4 and report["unit_edit"] == {}
    assert not (tmp_path / "cache").exists()


def test_the_cache_of_another_run_was_used(config: SweepConfig, tmp_path: Path) -> None:
    """As left by a killed run: another layer, other cuts and a changed file each have frames of their own."""
    upstream = config.load(config.upstream, [1, 2])
    cuts = [(i, cut) for i, cut in enumerate(load_cuts(config.cuts))][:3]

    def frames(name: str, layer: int, some: Any) -> torch.Tensor:
        on_disk = replace(config, out=str(tmp_path / name), cache="disk")
        chunks = training_frames(on_disk, upstream, [layer], some).chunks()
        return torch.cat([chunk.frames for chunk in chunks])

    for layer, some in ((1, cuts), (2, cuts), (2, cuts[1:])):
        expected = frames(f"fresh {layer} {len(some)}", layer, some)
        assert torch.equal(frames("same", layer, some), expected)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "same").rglob("*.safetensors")}
        assert torch.equal(frames("same", layer, some), expected)
        assert {path: path.stat().st_mtime_ns for path in before} == before, "its own cache is used again"


def test_a_subset_of_hours_is_seeded(config: SweepConfig) -> None:
    chosen = partial(training_cuts, config.cuts, heldout={"utt000"})
    some = [[i for i, _ in chosen(replace(config, hours=6 / 3600, seed=seed))] for seed in (0, 0, 1, 2)]
    assert some[0] == some[1] and len({tuple(found) for found in some}) > 1
    assert all(2 <= len(found) < 6 and 0 not in found for found in some)
    with pytest.raises(ConfigError, match="nothing is left to fit on"):
        training_cuts(config.cuts, config, {f"utt{i:03d}" for i in range(7)})


def test_bad_options_are_named(config: SweepConfig) -> None:
    with pytest.raises(ConfigError, match="layers needs at least one value, each once"):
        replace(config, layers=(3, 3))
    with pytest.raises(ConfigError, match="codebooks must be"):
        replace(config, codebooks=0)
    with pytest.raises(ConfigError, match="vocab-sizes needs"):
        replace(config, vocab_sizes=())
    with pytest.raises(ConfigError, match="max_layer is 7"):
        sweep(replace(config, layers=(7,)))


def test_command(config: SweepConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_argv(config, tmp_path)) == 0
    assert "2 combinations" in capsys.readouterr().out
    assert (tmp_path / "layer0-k6" / "quality.html").exists()
