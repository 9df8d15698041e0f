"""`voxtok quality`: the whole way from a store to the report, and the page's promises."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lhotse import CutSet

from tests import reference_quality as reference
from tests.toy_corpus import write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer
from voxtok.manifests.codebook import kmeans_codebook
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.store import TokenStore
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError, ManifestError, TokenizerMismatch
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.extract import ExtractConfig, extract
from voxtok.tokenize.frames import ArrayFrames
from voxtok.tokenize.kmeans import fit_kmeans
from voxtok.tokenize.kmeans_state import KMeansConfig
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.meter import Meter, Scoring
from voxtok.tokenize.plots import Bar, Series, bars, heat_map, lines
from voxtok.tokenize.quality import QualityConfig, main, measure, summary
from voxtok.tokenize.report import quality_page
from voxtok.tokenize.tokenizer import Tokenizer

SECONDS = [3.0, 2.0, 4.0, 3.0, 2.5, 3.0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six toy utterances of two speakers, encoded."""
    folder = tmp_path_factory.mktemp("quality")
    cuts = load_cuts(write_toy_corpus(folder / "corpus", SECONDS))
    encode_corpus(cuts, toy_tokenizer(), folder / "store", shard_size=4)
    return folder / "store"


@pytest.fixture(scope="module")
def report(store: Path) -> dict[str, Any]:
    return measure(QualityConfig(store=str(store), out="-", silence="count", ued_utterances=2, abx_features=True))


class Names(HTMLParser):
    """Every tag and attribute of a page; unclosed elements are an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_scores_equal_the_loops(store: Path, report: dict[str, Any]) -> None:
    phones: list[str] = []
    codes: list[int] = []
    for cut, tokens in TokenStore.open(store):
        spans = [(a.symbol, a.start, a.end) for a in cut.supervisions[0].alignment["phone"]][1:-1]
        for i, code in enumerate(tokens.codes[:, 0].tolist()):
            label = reference.label_at(spans, (i + 0.5) / tokens.frame_rate_hz)
            if label is not None:
                phones.append(label)
                codes.append(code)
    assert report["purity"]["frames"] == len(phones) > 1000
    assert report["purity"]["phone_purity"] == pytest.approx(reference.phone_purity(phones, codes))
    assert report["purity"]["cluster_purity"] == pytest.approx(reference.cluster_purity(phones, codes))
    assert report["purity"]["pnmi"] == pytest.approx(reference.pnmi(phones, codes))
    assert report["purity"]["pnmi"] > 0.4 > 0.05 > report["purity"]["chance_pnmi"]
    assert (report["utterances"], report["unaligned"], report["usage"]["frames"]) == (
        6,
        0,
        sum(report["frames_by_code"]),
    )


def test_abx_of_tokens_centroids_and_features(report: dict[str, Any]) -> None:
    errors = {(row["frames"], row["distance"], row["speakers"]): row["score"] for row in report["abx"]}
    assert len(errors) == 8 and all(0 <= score["error"] < 0.5 for score in errors.values())
    assert len({score["triples"] for (*_, speakers), score in errors.items() if speakers == "within"}) == 1


def test_leakage_and_unit_edit_are_measured(report: dict[str, Any]) -> None:
    assert (report["leakage"]["speakers"], report["leakage"]["utterances"]) == (2, 6)
    assert set(report["unit_edit"]) == {"noise", "reverberation", "pitch_shift", "time_stretch"}
    assert all(row["utterances"] == 2 and 0 < row["ued"] < 1 for row in report["unit_edit"].values())


def test_utterances_without_audio_are_counted(store: Path, tmp_path: Path, report: dict[str, Any]) -> None:
    cuts = list(load_cuts(store.parent / "corpus"))
    cuts[1].recording.sources[0].source = str(tmp_path / "gone.wav")
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    config = QualityConfig(
        store=str(store), out="-", silence="count", cuts=str(tmp_path / "cuts.jsonl.gz"), abx_features=True
    )
    found = measure(config)
    assert [(row["id"], row["reason"]) for row in found["unusable"]] == [(cuts[1].id, "missing")]
    assert all(row["utterances"] == 5 for row in found["unit_edit"].values())
    assert found["purity"] == report["purity"]
    assert f"of 1 utterances was needed and could not be used: {cuts[1].id} (missing)" in quality_page(found)
    assert "1 utterances could not be used" in summary(found)
    assert report["unusable"] == [] and "could not be used" not in quality_page(report) + summary(report)


def test_command_writes_json_and_page(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--store", str(store), "--out", str(tmp_path), "--silence", "skip", "--ued-utterances", "0"]
    assert main(argv) == 0
    assert "PNMI 0." in capsys.readouterr().out
    found = json.loads((tmp_path / "quality.json").read_text())
    assert found["scoring"]["silence"] == "skip" and found["scoring"]["abx_max_items"] == 10
    assert found["tokenizer"]["fingerprint"] == TokenStore.open(store).fingerprint
    assert found["unit_edit"] == {}
    page = (tmp_path / "quality.html").read_text()
    assert "silence are <b>left out</b>" in page and "no audio was run through the tokenizer" in page
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(argv) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_silence_must_be_decided(store: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--store", str(store), "--out", str(tmp_path)])


def test_dedup_in_the_store_changes_no_score(store: Path, tmp_path: Path, report: dict[str, Any]) -> None:
    cuts = load_cuts(store.parent / "corpus")
    encode_corpus(cuts, toy_tokenizer(dedup=True), tmp_path / "store", shard_size=4)
    config = QualityConfig(store=str(tmp_path / "store"), out="-", silence="count", ued_utterances=0)
    found = measure(config)
    for name in ("usage", "purity", "leakage", "counts"):
        assert found[name] == report[name]
    assert found["abx"] == report["abx"][:6]


def test_alignments_from_other_cuts(store: Path, tmp_path: Path, report: dict[str, Any]) -> None:
    corpus = store.parent / "corpus"
    bare = CutSet.from_cuts(cut.drop_supervisions() for cut in load_cuts(corpus))
    encode_corpus(bare, toy_tokenizer(), tmp_path / "store", shard_size=4)
    config = QualityConfig(store=str(tmp_path / "store"), out="-", silence="count", ued_utterances=0)
    unaligned = measure(config)
    assert unaligned["unaligned"] == 6 and unaligned["purity"] is None and unaligned["leakage"] is None
    assert all(row["score"]["error"] is None for row in unaligned["abx"])
    assert "fewer than two speakers" in quality_page(unaligned)
    assert measure(replace(config, cuts=str(corpus)))["purity"] == report["purity"]
    one = tmp_path / "one.jsonl.gz"
    load_cuts(corpus).subset(first=1).to_file(one)
    with pytest.raises(ManifestError, match="has no cut utt001"):
        measure(replace(config, cuts=str(one)))


def test_tokens_of_another_tokenizer_are_refused(store: Path, tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    other = replace(tokenizer, codebook=kmeans_codebook(tokenizer.codebook.centroids + 1))
    other.save(tmp_path)
    for name in (str(tmp_path), "mini"):  # the latter is the installed one
        with pytest.raises(TokenizerMismatch):
            measure(QualityConfig(store=str(store), out="-", silence="count", tokenizer=name))


def test_bad_options_are_named() -> None:
    with pytest.raises(ConfigError, match="abx-max-items must be at least 1"):
        Scoring(silence="count", abx_max_items=0)
    with pytest.raises(ConfigError, match="leakage-folds"):
        Scoring(silence="count", leakage_folds=1)


def test_the_drawn_subset_does_not_depend_on_the_order(store: Path) -> None:
    cuts = [(cut, tokens.codes[:, 0]) for cut, tokens in TokenStore.open(store)]
    drawn = []
    for seed, order in ((0, cuts), (0, cuts[::-1]), (1, cuts)):
        meter = Meter(20, 100.0, Scoring(silence="count", probe_utterances=3, seed=seed))
        for cut, codes in order:
            meter.add(cut, codes)
        drawn.append([utterance.cut.id for utterance in meter.drawn()])
    assert drawn[0] == drawn[1] and len(drawn[0]) == 3
    assert drawn[0] != drawn[2]


def test_silence_left_out_of_purity(store: Path) -> None:
    cuts = [(cut, tokens.codes[:, 0]) for cut, tokens in TokenStore.open(store)]
    frames = []
    scorings = (
        Scoring(silence="count", silences=("a",)),
        Scoring(silence="skip", silences=("a",)),
        Scoring(silence="skip", silences=()),
    )
    for scoring in scorings:
        meter = Meter(20, 100.0, scoring)
        for cut, codes in cuts:
            meter.add(cut, codes)
        found = meter.purity()
        assert found is not None
        frames.append(found.frames)
    assert frames[0] > frames[1] and frames[2] > frames[1]


def test_page_stands_alone_and_is_well_formed(report: dict[str, Any]) -> None:
    page = quality_page(report)
    names = Names(page)
    assert not names.open
    assert not names.tags & {"script", "link", "iframe", "img", "object", "embed"}
    links = [value for name, value in names.attributes if name in ("src", "href", "xlink:href")]
    assert links and all(value.startswith("data:image/png;base64,") for value in links)
    assert "url(" not in page and "@import" not in page
    assert page.count("<svg") == 5
    assert "nan" not in re.sub(r"base64,[^\"]+", "", page).lower()


def test_page_explains_every_number_with_its_direction(report: dict[str, Any]) -> None:
    cells = r'<td class="number value">(.*?)</td>.*?<td class="better">(.*?)</td><td class="says">(.*?)</td>'
    rows = re.findall(cells, quality_page(report))
    assert len(rows) == 3 + 8 + 4 + 8 + 1
    assert all(value != "-" and len(says) > 30 for value, _, says in rows)
    assert [better for _, better, _ in rows].count("") == 1  # only segment length has no better direction


def test_page_escapes_names(report: dict[str, Any]) -> None:
    named = {**report, "store": '<b>"&', "phones": ["<i>", *report["phones"][1:]]}
    page = quality_page(named)
    assert "<i>" not in page.replace("<i style", "") and "&lt;b&gt;" in page


def test_page_of_an_empty_store() -> None:
    meter = Meter(4, 50.0, Scoring(silence="count"))
    described = {"upstream": "mfcc", "layer": 0, "vocab_size": 4, "frame_rate_hz": 50.0, "fingerprint": "f" * 64}
    abx = [result for result in meter.abx("tokens", lambda utterance: torch.from_numpy(utterance.codes), ["edit"])]
    assert [result.score.error for result in abx] == [None, None]
    scoring = {"silence": "count", "abx_unit": "triphone"}
    page = quality_page(
        {"store": "s", "tokenizer": described, "scoring": scoring, **meter.report(), "abx": [], "unit_edit": {}}
    )
    assert not Names(page).open


def test_plots_keep_inside_their_frame() -> None:
    rng = np.random.default_rng(0)
    drawn = [
        lines([Series("a", [(x, float(y)) for x, y in enumerate(rng.random(30) * 1e-5)])], "x", "y", log_y=True),
        lines([Series("a", [(6, 0.31), (9, 0.35)]), Series("b", [(6, 0.4)])], "layer", "PNMI", marks=True),
        bars([Bar("a", 0.9, "90%"), Bar("b", 0.0, "0%")], ["g"], full=0.9, line=(0.5, "chance")),
        heat_map(rng.random((3, 7)), ["A", "B", "C"], "tokens"),
    ]
    for plot in drawn:
        names = Names(plot)
        box = next(value for name, value in names.attributes if name == "viewbox").split()
        for name, value in names.attributes:
            if name in ("x", "cx", "x1", "x2"):
                assert 0 <= float(value) <= float(box[2])
            if name in ("y", "cy"):
                assert 0 <= float(value) <= float(box[3])
    assert lines([Series("a", [])], "x", "y") == ""


def test_mfcc_of_real_speech_scores_as_published(voxtok_data: Path, tmp_path: Path) -> None:
    """Libri-light (Kahn et al. 2020) gives MFCC an ABX error of 10.95 % within and 20.94 % across speakers, dev-clean.

    On six minutes of mixed corpora by 21 speakers the same features must be near, and tokens of them worse.
    """
    upstream = load_upstream("mfcc", device="cpu", max_layer=0)
    cuts = load_cuts(voxtok_data / "sample")
    config = ExtractConfig(windows=None)
    found = [frames for _, frames in extract(cuts, upstream, [0], lambda features: features[0], config)]
    frames = torch.cat([part for part in found if isinstance(part, torch.Tensor)])
    source = ArrayFrames(frames, seed=0)
    fitted = fit_kmeans(source, KMeansConfig(vocab_size=100), Ranks(), torch.device("cpu"))
    settings = replace(toy_tokenizer().config, windows=None)
    tokenizer = Tokenizer(settings, upstream, kmeans_codebook(fitted.centroids.numpy()))
    encode_corpus(cuts, tokenizer, tmp_path / "store", shard_size=100)
    report = measure(
        QualityConfig(
            store=str(tmp_path / "store"), out="-", silence="count", ued_utterances=3, abx_features=True, device="cpu"
        )
    )
    abx = {(row["frames"], row["distance"], row["speakers"]): row["score"]["error"] for row in report["abx"]}
    assert 0.06 < abx["features", "angular", "within"] < 0.15
    assert 0.15 < abx["features", "angular", "across"] < 0.26
    for speakers in ("within", "across"):
        errors = [error for (*_, other), error in abx.items() if other == speakers]
        assert min(errors) == abx["features", "angular", speakers] and max(errors) < 0.42
    assert 0.25 < report["purity"]["pnmi"] < 0.45 and 0.3 < report["purity"]["phone_purity"] < 0.5
    edited = {name: row["ued"] for name, row in report["unit_edit"].items()}
    assert 0 < edited["time_stretch"] == min(edited.values()) and max(edited.values()) < 0.6
    assert report["leakage"]["speakers"] == 9 and report["leakage"]["accuracy"] > 0.5
