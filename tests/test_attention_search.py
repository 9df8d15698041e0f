"""Joint CTC/attention beam search against the scores of every text."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.reference_asr import Numbers, ctc_sums, texts_up_to
from tests.test_ctc_search import ARPA, TEXT, lm_score, random_log_probs
from voxtok.asr.attention_search import attention_beam
from voxtok.asr.ctc_prefix import start_prefixes
from voxtok.asr.hypothesis import Hypothesis
from voxtok.asr.ngram import ALONE, Fusion, read_ngrams
from voxtok.asr.padded import Padded, pad

VOCAB, SOS_EOS = 5, 4


def after(prefix: Numbers, seed: int) -> torch.Tensor:
    """A decoder that is a table: the log-probabilities (V,) after a prefix, arbitrary but fixed."""
    drawn = torch.Generator().manual_seed(hash((prefix, seed)) % 2**31)
    return (torch.randn(VOCAB, generator=drawn) * 2).log_softmax(dim=0)


@dataclass(frozen=True)
class Prefixes:
    """The table's state: what each hypothesis has taken so far, sos left out, and its utterance's seed."""

    taken: tuple[Numbers, ...]
    seeds: tuple[int, ...]

    def repeat(self, count: int) -> "Prefixes":
        return self.select(torch.arange(len(self.seeds)).repeat_interleave(count))

    def select(self, rows: torch.Tensor) -> "Prefixes":
        chosen = rows.tolist()
        return Prefixes(tuple(self.taken[row] for row in chosen), tuple(self.seeds[row] for row in chosen))


def step(numbers: torch.Tensor, state: Prefixes) -> tuple[torch.Tensor, Prefixes]:
    taken = tuple(
        prefix if number == SOS_EOS else (*prefix, number)
        for prefix, number in zip(state.taken, numbers.tolist(), strict=True)
    )
    rows = [after(prefix, seed) for prefix, seed in zip(taken, state.seeds, strict=True)]
    return torch.stack(rows), Prefixes(taken, state.seeds)


def start(*seeds: int) -> Prefixes:
    return Prefixes(((),) * len(seeds), seeds)


def attention_score(text: Numbers, seed: int) -> float:
    ends = (*text, SOS_EOS)
    return sum(float(after(text[:place], seed)[number]) for place, number in enumerate(ends))


def every_score(log_probs: torch.Tensor, seed: int, ctc_weight: float, fusion: Fusion) -> dict[Numbers, float]:
    """Of each text that fits into the frames."""
    sums = ctc_sums(log_probs.tolist())
    scores = {}
    for text in texts_up_to([1, 2, 3], len(log_probs)):
        ctc = sums.get(text, -math.inf)
        score = (1 - ctc_weight) * attention_score(text, seed) + (ctc_weight * ctc if ctc_weight else 0.0)
        scores[text] = score + fusion.bonus * len(text) + (fusion.weight * lm_score(text) if fusion.model else 0.0)
    return {text: score for text, score in scores.items() if score > -math.inf}


def search(
    log_probs: Padded, *seeds: int, ctc_weight: float, beam: int = 300, fusion: Fusion = ALONE, nbest: int = 8
) -> list[list[Hypothesis]]:
    return attention_beam(
        step,
        start(*seeds),
        log_probs,
        ctc_weight=ctc_weight,
        sos_eos=SOS_EOS,
        beam=beam,
        candidates=VOCAB,
        fusion=fusion,
        nbest=nbest,
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ctc_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("lm", ["none", "bonus", "ngram"])
def test_a_beam_of_everything_is_exhaustive(seed: int, ctc_weight: float, lm: str, tmp_path: Path) -> None:
    fusion = {"none": ALONE, "bonus": Fusion(bonus=0.5)}.get(lm) or ngram_fusion(tmp_path)
    log_probs = random_log_probs(4, VOCAB, seed=seed)
    (found,) = search(pad([log_probs]), seed, ctc_weight=ctc_weight, fusion=fusion)
    expected = every_score(log_probs, seed, ctc_weight, fusion)
    best = sorted(expected.values(), reverse=True)[: len(found)]
    assert [hypothesis.score for hypothesis in found] == pytest.approx(best, abs=1e-3)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(expected[hypothesis.numbers], abs=1e-3)


def ngram_fusion(folder: Path) -> Fusion:
    (folder / "lm.arpa").write_text(ARPA)
    return Fusion(read_ngrams(folder / "lm.arpa", TEXT), weight=0.4, bonus=0.2)


@pytest.mark.parametrize("seed", range(3))
def test_prefix_scores_are_sums_over_paths(seed: int) -> None:
    """That of a prefix is the sum over all texts that begin with it."""
    log_probs = random_log_probs(5, 4, seed=seed)
    sums = ctc_sums(log_probs.tolist())

    def expected(prefix: Numbers) -> float:
        return math.log(sum(math.exp(score) for text, score in sums.items() if text[: len(prefix)] == prefix))

    prefixes = start_prefixes(Padded(log_probs[None], torch.tensor([5])), beam=1)
    text: Numbers = ()
    for number in (1, 1, 3):
        assert float(prefixes.whole()) == pytest.approx(sums[text], abs=1e-4)
        scores = prefixes.scores(torch.tensor([[1, 2, 3]]))[0]
        assert scores.tolist() == pytest.approx([expected((*text, one)) for one in (1, 2, 3)], abs=1e-4)
        prefixes, text = prefixes.grown(torch.tensor([number])), (*text, number)
    assert float(prefixes.whole()) == pytest.approx(sums[text], abs=1e-4)


@pytest.mark.parametrize("beam", [1, 3])
def test_batched_is_single(beam: int) -> None:
    rows = [random_log_probs(length, VOCAB, seed=length) for length in (6, 0, 9, 3)]
    together = search(pad(rows), 0, 1, 2, 3, ctc_weight=0.4, beam=beam, nbest=2)
    for seed, row in enumerate(rows):
        (alone,) = search(pad([row]), seed, ctc_weight=0.4, beam=beam, nbest=2)
        assert [h.numbers for h in alone] == [h.numbers for h in together[seed]]
        assert [h.score for h in alone] == pytest.approx([h.score for h in together[seed]], abs=1e-4)
    assert together[1][0].numbers == ()


def test_scores_of_long_utterances_stay_exact() -> None:
    """The cumulative sums of 3000 frames lose nothing that shows: compared with the recursion, frame by frame."""
    log_probs = random_log_probs(3000, 6, seed=5, scale=6.0)
    prefixes = start_prefixes(Padded(log_probs[None], torch.tensor([3000])), beam=1)
    label, blank = [-math.inf] * 3001, [0.0]
    steps = log_probs.double()
    for frame in range(3000):
        blank.append(blank[-1] + float(steps[frame, 0]))
    last = 0
    for number in (2, 2, 5):
        prefixes = prefixes.grown(torch.tensor([number]))
        old_label, old_blank = label, blank
        label, blank = [-math.inf], [-math.inf]
        for frame in range(3000):
            before = old_blank[frame] if number == last else log_add(old_blank[frame], old_label[frame])
            label.append(log_add(label[-1], before) + float(steps[frame, number]))
            blank.append(log_add(blank[-1], label[-2]) + float(steps[frame, 0]))
        last = number
    assert float(prefixes.whole()) == pytest.approx(log_add(label[-1], blank[-1]), rel=1e-9)


def log_add(one: float, other: float) -> float:
    top = max(one, other)
    return top if top == -math.inf else top + math.log(math.exp(one - top) + math.exp(other - top))


def test_nothing_is_searched_in_no_batch() -> None:
    nothing = Padded(torch.zeros(0, 0, VOCAB), torch.zeros(0, dtype=torch.int64))
    assert attention_beam(step, start(), nothing, ctc_weight=0.3, sos_eos=SOS_EOS, beam=2, candidates=3) == []
