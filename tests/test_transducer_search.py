"""Transducer decoding against sums over every path."""

from functools import partial
from pathlib import Path

import pytest
import torch

from tests.reference_asr import Numbers, one_symbol_a_frame
from tests.test_ctc_search import ARPA, TEXT, compare, lm_score
from voxtok.asr.ngram import Fusion, read_ngrams
from voxtok.asr.padded import Padded, pad
from voxtok.asr.transducer_search import transducer_beam, transducer_greedy

HISTORY, VOCAB, WIDTH = 2, 5, 6


class Toy:
    """A random predictor and joiner."""

    def __init__(self, seed: int) -> None:
        drawn = torch.Generator().manual_seed(seed)
        self.table = torch.randn(HISTORY, VOCAB, WIDTH, generator=drawn)
        self.output = torch.randn(WIDTH, VOCAB, generator=drawn)
        self.frames = torch.randn(9, WIDTH, generator=drawn)

    def predict(self, last: torch.Tensor) -> torch.Tensor:
        return sum((self.table[place, last[:, place]] for place in range(HISTORY)), torch.zeros(1))

    def join(self, frames: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        return (torch.tanh(frames + predicted) @ self.output).log_softmax(dim=1)

    def joint(self, frame: int, written: Numbers) -> list[float]:
        last = torch.tensor([(0,) * HISTORY + written])[:, -HISTORY:]
        found: list[float] = self.join(self.frames[frame : frame + 1], self.predict(last))[0].tolist()
        return found


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_everything_is_exhaustive(seed: int) -> None:
    toy = Toy(seed)
    (found,) = transducer_beam(
        toy.predict, toy.join, pad([toy.frames[:4]]), history=HISTORY, beam=700, candidates=VOCAB, nbest=700
    )
    expected = one_symbol_a_frame(toy.joint, 4)
    assert len(found) == len(expected) == len({hypothesis.numbers for hypothesis in found})
    compare(found, expected, len(expected))


def test_with_a_language_model_too(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA)
    fusion = Fusion(read_ngrams(tmp_path / "lm.arpa", TEXT), weight=0.6, bonus=0.1)
    toy = Toy(0)
    toy.output[:, 4] = -torch.inf  # no transducer is trained to write sos/eos
    toy.frames, toy.table = toy.frames.abs(), toy.table.abs()
    search = partial(transducer_beam, toy.predict, toy.join, pad([toy.frames[:4]]), history=HISTORY)
    (found,) = search(beam=700, candidates=VOCAB, fusion=fusion, nbest=20)
    sums = one_symbol_a_frame(toy.joint, 4).items()
    expected = {t: score + 0.6 * lm_score(t) + 0.1 * len(t) for t, score in sums if score > -torch.inf}
    compare(found, expected, 20)


def test_greedy_follows_the_best_symbols() -> None:
    toy = Toy(1)
    (found,) = transducer_greedy(toy.predict, toy.join, pad([toy.frames]), history=HISTORY, most_a_frame=3)
    written: list[int] = []
    frames: list[int] = []
    score = 0.0
    for frame in range(len(toy.frames)):
        for _ in range(3):
            row = toy.joint(frame, tuple(written))
            best = row.index(max(row))
            score += row[best]
            if best == 0:
                break
            written.append(best)
            frames.append(frame)
    assert found.numbers == tuple(written) and found.frames == tuple(frames) and written
    assert found.score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_batched_is_single(seed: int) -> None:
    toy = Toy(seed)
    rows = [toy.frames[:length] for length in (9, 0, 4, 7)]
    search = partial(transducer_beam, toy.predict, toy.join, history=HISTORY, beam=4, candidates=3, nbest=2)
    together = search(pad(rows))
    greedy = transducer_greedy(toy.predict, toy.join, pad(rows), history=HISTORY, most_a_frame=2)
    for row, found, best in zip(rows, together, greedy, strict=True):
        (alone,) = search(pad([row]))
        assert [(h.numbers, h.frames) for h in alone] == [(h.numbers, h.frames) for h in found]
        assert [h.score for h in alone] == pytest.approx([h.score for h in found], abs=1e-4)
        (lonely,) = transducer_greedy(toy.predict, toy.join, pad([row]), history=HISTORY, most_a_frame=2)
        assert (lonely.numbers, lonely.frames) == (best.numbers, best.frames)
    assert together[1][0].numbers == ()


def test_frames_rise_and_lie_inside() -> None:
    toy = Toy(2)
    encoded = Padded(torch.stack([toy.frames, toy.frames.flip(0)]), torch.tensor([9, 6]))
    found = transducer_beam(toy.predict, toy.join, encoded, history=HISTORY, beam=4, candidates=4)
    for (best,), length in zip(found, (9, 6), strict=True):
        assert best.frames is not None and len(best.frames) == len(best.numbers)
        assert list(best.frames) == sorted(set(best.frames)) and all(frame < length for frame in best.frames)
