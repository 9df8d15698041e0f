"""CTC decoding against sums over every path."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference_asr import arpa_score, collapse, ctc_sums
from voxtok.asr.ctc_search import ctc_greedy, ctc_prefix_beam
from voxtok.asr.hypothesis import Hypothesis
from voxtok.asr.ngram import Fusion, read_ngrams
from voxtok.asr.normalization import TextNormalization
from voxtok.asr.padded import Padded, pad
from voxtok.asr.text import TextModel

PLAIN = TextNormalization(case="keep", punctuation="keep")
TEXT = TextModel("characters", PLAIN, ("<blank>", "<unk>", "▁", "a", "<sos/eos>"))
ARPA = """\\data\\
ngram 1=6
ngram 2=4
ngram 3=2

\\1-grams:
-1.5\t<unk>
-99\t<s>\t-0.4
-0.8\t</s>
-0.5\t▁\t-0.3
-0.6\ta\t-0.2
-1.0\tzoo\t-0.1

\\2-grams:
-0.2\t<s> a\t-0.15
-0.9\ta a\t-0.05
-0.4\ta ▁\t-0.25
-0.7\tzoo a

\\3-grams:
-0.3\t<s> a ▁
-0.1\ta a a

\\end\\
"""
GRAMS = {
    ("<unk>",): (-1.5, 0.0), ("<s>",): (-99.0, -0.4), ("</s>",): (-0.8, 0.0), ("▁",): (-0.5, -0.3),
    ("a",): (-0.6, -0.2),
    ("<s>", "a"): (-0.2, -0.15), ("a", "a"): (-0.9, -0.05), ("a", "▁"): (-0.4, -0.25),
    ("<s>", "a", "▁"): (-0.3, 0.0), ("a", "a", "a"): (-0.1, 0.0),
}  # fmt: skip


def random_log_probs(*shape: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return drawn.log_softmax(dim=-1)


def batch(log_probs: torch.Tensor) -> Padded:
    return pad([log_probs])


def lm_score(numbers: tuple[int, ...]) -> float:
    """By the recursion, in natural logarithms, with the end of the sentence."""
    names = {1: "<unk>", 2: "▁", 3: "a", 4: "</s>"}
    return arpa_score(GRAMS, [*(names[number] for number in numbers), "</s>"]) * math.log(10)


def compare(found: list[Hypothesis], expected: dict[tuple[int, ...], float], count: int) -> None:
    best = sorted(expected.items(), key=lambda pair: -pair[1])[:count]
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for _, score in best], abs=1e-4)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(expected[hypothesis.numbers], abs=1e-4)


@pytest.fixture(params=["one by one", "batched"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "batched":
        monkeypatch.setattr("voxtok.asr.ctc_search.FEW", 0)


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("seed", range(6))
def test_a_beam_of_everything_is_exhaustive(seed: int) -> None:
    log_probs = random_log_probs(5, 4, seed=seed)
    (found,) = ctc_prefix_beam(batch(log_probs), beam=400, candidates=3, nbest=400)
    expected = ctc_sums(log_probs.tolist())
    assert len(found) == len(expected) == len({hypothesis.numbers for hypothesis in found})
    compare(found, expected, len(expected))


@pytest.mark.parametrize("seed", range(4))
def test_with_a_language_model_too(seed: int, tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA)
    fusion = Fusion(read_ngrams(tmp_path / "lm.arpa", TEXT), weight=0.7, bonus=0.3)
    log_probs = random_log_probs(5, 5, seed=seed)
    log_probs[:, 4] = -math.inf  # a network is never trained to say sos/eos by CTC
    (found,) = ctc_prefix_beam(batch(log_probs), beam=700, candidates=4, fusion=fusion, nbest=20)
    expected = {
        text: score + 0.7 * lm_score(text) + 0.3 * len(text)
        for text, score in ctc_sums(log_probs.tolist()).items()
        if score > -math.inf
    }
    compare(found, expected, 20)


def test_greedy_is_the_best_path() -> None:
    log_probs = random_log_probs(3, 40, 6)
    for row, found in zip(log_probs, ctc_greedy(Padded(log_probs, torch.tensor([40, 40, 40]))), strict=True):
        assert found.numbers == collapse(row.argmax(dim=1).tolist())
        assert found.score == pytest.approx(float(row.max(dim=1).values.sum()), abs=1e-3)


@pytest.mark.usefixtures("_both_ways")
def test_a_beam_finds_what_greedy_misses() -> None:
    """Worked: two frames of blank .6, a .4 say nothing with .36, and `a` with .4*.4 + 2*.4*.6 = .64."""
    log_probs = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert ctc_greedy(batch(log_probs))[0].numbers == ()
    ((best,),) = ctc_prefix_beam(batch(log_probs), beam=2, candidates=1)
    assert best.numbers == (1,) and best.score == pytest.approx(math.log(0.64), abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(1, 12), st.integers(1, 6), st.integers(0, 1000)
)
def test_batched_is_single(lengths: list[int], beam: int, candidates: int, seed: int) -> None:
    rows = [random_log_probs(length, 7, seed=seed + place) for place, length in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("voxtok.asr.ctc_search.FEW", 0)
        together = ctc_prefix_beam(pad(rows), beam=beam, candidates=candidates, nbest=beam)
    for row, found, greedy in zip(rows, together, ctc_greedy(pad(rows)), strict=True):
        (alone,) = ctc_prefix_beam(batch(row), beam=beam, candidates=candidates, nbest=beam)
        assert [h.numbers for h in alone] == [h.numbers for h in found]
        assert [h.score for h in alone] == pytest.approx([h.score for h in found], abs=1e-4)
        assert greedy.numbers == ctc_greedy(batch(row))[0].numbers


def test_a_wider_beam_is_no_worse_on_average() -> None:
    log_probs = Padded(random_log_probs(20, 30, 8, scale=1.0), torch.full((20,), 30))
    scores = [
        sum(row[0].score for row in ctc_prefix_beam(log_probs, beam=beam, candidates=7)) for beam in (1, 4, 16, 64)
    ]
    assert scores == sorted(scores)


@pytest.mark.usefixtures("_both_ways")
def test_nothing_to_decode_is_an_empty_text() -> None:
    nothing = Padded(torch.zeros(1, 0, 5), torch.tensor([0]))
    assert ctc_greedy(nothing) == [Hypothesis((), 0.0)]
    assert ctc_prefix_beam(nothing, beam=3, candidates=3) == [[Hypothesis((), 0.0)]]
