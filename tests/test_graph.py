"""Decoding with graphs against every sequence of words."""

import importlib.util
import itertools
import math
from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.reference_asr import Numbers, arpa_score, best_alignment, collapse
from tests.test_ctc_search import random_log_probs
from voxtok.asr import graph as graphs
from voxtok.asr.graph import Graph, ctc_labels, main, make_graph
from voxtok.asr.lattice import on_device
from voxtok.asr.ngram import read_arpa, write_arpa
from voxtok.asr.ngram_fit import kneser_ney
from voxtok.asr.normalization import TextNormalization
from voxtok.asr.padded import pad
from voxtok.asr.text import TextConfig, TextModel, train_text_model
from voxtok.runtime.errors import ConfigError, CorruptFile, MissingPart

pytest.importorskip("kaldifst", reason="needs pip install 'voxtok[decode]'")
HAS_K2 = importlib.util.find_spec("k2") is not None

PLAIN = TextNormalization(case="lower", punctuation="remove")
WORDS = ("a", "b", "ab", "AB", "aab")


def text_model(kind: Literal["characters", "bpe"]) -> TextModel:
    texts = ["a b ab aab"] * 5
    size = None if kind == "characters" else 9
    return train_text_model(texts, TextConfig(kind=kind, vocab_size=size, normalization=PLAIN))


def written_graph(folder: Path, text: TextModel) -> Graph:
    said = [["ab", "a"], ["a", "b", "a"], ["AB"], ["b"], ["aab"], ["ötz"]]
    (folder / "words.arpa").write_text(write_arpa(kneser_ney(said, (), 2)))
    text.save(folder / "text.json")
    words = ["--text-model", f"{folder}/text.json", "--arpa", f"{folder}/words.arpa", "--out", f"{folder}/graph"]
    assert main(words) == 0
    return Graph.load(folder / "graph", text)


def best_words(log_probs: torch.Tensor, text: TextModel, folder: Path, lm_weight: float) -> tuple[float, str]:
    """The best path's score and text, of all sequences of words that fit into the frames."""
    grams = {
        words: (score / math.log(10), backoff / math.log(10))
        for words, (score, backoff) in read_arpa(folder / "words.arpa").items()
    }
    every = []
    fits = {collapse(labels) for labels in itertools.product(range(text.vocab_size), repeat=len(log_probs))}
    for count in range(len(log_probs) + 1):
        for words in itertools.product(WORDS, repeat=count):
            numbers: Numbers = tuple(text.encode(" ".join(words)))
            if numbers in fits:
                lm = math.log(10) * arpa_score(grams, [*words, "</s>"])
                every.append((best_alignment(log_probs.tolist(), numbers) + lm_weight * lm, " ".join(words).lower()))
    return max(every)


@pytest.mark.parametrize("kind", ["characters", "bpe"])
@pytest.mark.parametrize("lm_weight", [0.5, 1.0])
def test_the_best_path_is_the_best_of_all(kind: Literal["characters", "bpe"], lm_weight: float, tmp_path: Path) -> None:
    text = text_model(kind)
    graph = written_graph(tmp_path, text)
    rows = [random_log_probs(frames, text.vocab_size, seed=frames) for frames in (4, 3, 1)]
    found = graph.search(pad(rows), lm_weight=lm_weight, beam=100.0, max_active=10000)
    for row, (best,) in zip(rows, found, strict=True):
        score, said = best_words(row, text, tmp_path, lm_weight)
        assert best.score == pytest.approx(score, abs=5e-3)
        assert text.decode(best.numbers) == said
        assert best.frames is not None and list(best.frames) == sorted(best.frames)


def test_no_frames_are_an_empty_text(tmp_path: Path) -> None:
    text = text_model("characters")
    graph = written_graph(tmp_path, text)
    ((found,),) = graph.search(pad([torch.zeros(0, text.vocab_size)]), lm_weight=1.0, beam=10.0, max_active=100)
    assert found.numbers == ()


def test_beyond_a_bound_the_graph_is_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the compact topology has fewer arcs, and what is said with a blank between is found as before."""
    text = text_model("characters")
    labels = [text.pieces.index(letter) if letter else 0 for letter in ("a", "", "a", "b", "")]
    log_probs = torch.full((5, text.vocab_size), -9.0)
    log_probs[torch.arange(5), torch.tensor(labels)] = 0.0
    exact = written_graph(tmp_path, text)
    ((found,),) = exact.search(pad([log_probs]), lm_weight=0.1, beam=50.0, max_active=1000)
    assert text.decode(found.numbers) == "aab"
    monkeypatch.setattr(graphs, "MOST_EXACT", 1)
    compact = written_graph(tmp_path, text)
    ((found,),) = compact.search(pad([log_probs]), lm_weight=0.1, beam=50.0, max_active=1000)
    assert text.decode(found.numbers) == "aab"
    assert len(str(compact.fst).splitlines()) < len(str(exact.fst).splitlines())


def test_graphs_are_for_one_text_model(tmp_path: Path) -> None:
    written_graph(tmp_path, text_model("characters"))
    with pytest.raises(ConfigError, match="another text model"):
        Graph.load(tmp_path / "graph", text_model("bpe"))
    with pytest.raises(CorruptFile, match="not a decoding graph"):
        Graph.load(tmp_path / "none", text_model("bpe"))


def test_damaged_files_are_named_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.arpa").write_text("nothing")
    with pytest.raises(CorruptFile, match="not an ARPA file"):
        make_graph(text_model("bpe"), tmp_path / "bad.arpa", tmp_path / "graph")
    (tmp_path / "foreign.arpa").write_text(write_arpa(kneser_ney([["ö"]], (), 1)))
    with pytest.raises(ConfigError, match="spell none"):
        make_graph(text_model("bpe"), tmp_path / "foreign.arpa", tmp_path / "graph")


def test_labels_pass_helpers_without_a_frame() -> None:
    labels = ctc_labels([3, 4], [9], exact=True)
    assert labels.num_states == 3 and str(labels).count("9") == 3


@pytest.mark.skipif(HAS_K2, reason="k2 is installed")
def test_without_k2_the_error_says_where_it_is(tmp_path: Path) -> None:
    graph = written_graph(tmp_path, text_model("characters"))
    with pytest.raises(MissingPart, match=r"k2-fsa\.github\.io"):
        on_device(graph, torch.device("cpu"))


@pytest.mark.skipif(not HAS_K2, reason="k2 is not installed")
@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_k2_finds_the_same_paths(kind: Literal["characters", "bpe"], tmp_path: Path) -> None:
    text = text_model(kind)
    graph = written_graph(tmp_path, text)
    batch = pad([random_log_probs(frames, text.vocab_size, seed=frames) for frames in (3, 6, 4)])
    expected = graph.search(batch, lm_weight=0.7, beam=100.0, max_active=10000)
    found = on_device(graph, torch.device("cpu")).search(batch, lm_weight=0.7, beam=100.0, max_active=10000)
    for (one,), (other,) in zip(expected, found, strict=True):
        assert text.decode(one.numbers) == text.decode(other.numbers)
        assert one.score == pytest.approx(other.score, abs=1e-2)
