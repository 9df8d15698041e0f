"""Purities and PNMI equal the loops over frames; phones own the frames whose centres they hold."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lhotse import SupervisionSegment
from lhotse.cut import MonoCut
from lhotse.supervision import AlignmentItem

from tests import reference_quality as reference
from tests.toy_corpus import write_toy_corpus
from voxtok.manifests.cuts import load_cuts
from voxtok.tokenize.phones import SILENCES, Phone, Speech, first_frame, phone_frames, read_phones, segments
from voxtok.tokenize.purity import JointCounts, cluster_purity, phone_purity, pnmi, purity, shuffled, without

FRAMES = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 4)), min_size=1, max_size=40)


def counted(frames: list[tuple[str, int]], vocab_size: int = 5) -> JointCounts:
    counts = JointCounts(vocab_size)
    for phone, code in frames:
        counts.add(phone, np.array([code]))
    return counts


def aligned(*items: tuple[str, float, float]) -> MonoCut:
    alignment = {"phone": [AlignmentItem(*item) for item in items]}
    supervision = SupervisionSegment("s", "r", 0, 10, alignment=alignment)
    return MonoCut("c", 0, 10, 0, supervisions=[supervision])


def test_worked_by_hand() -> None:
    """A: tokens 0 0 0 1 1, B: 1 1 1. Token 0 is A (3 right), token 1 is B (3 right): 6/8; A 0 (3) and B 1 (3): 6/8."""
    table = counted([("A", 0), ("A", 0), ("A", 0), ("A", 1), ("A", 1), ("B", 1), ("B", 1), ("B", 1)], 2).table
    assert table.tolist() == [[3, 2], [0, 3]]
    assert (phone_purity(table), cluster_purity(table)) == (6 / 8, 6 / 8)
    entropy = -(5 / 8 * np.log2(5 / 8) + 3 / 8 * np.log2(3 / 8))
    left = 5 / 8 * -(3 / 5 * np.log2(3 / 5) + 2 / 5 * np.log2(2 / 5))
    assert pnmi(table) == pytest.approx((entropy - left) / entropy)


@given(FRAMES)
def test_equal_the_loops(frames: list[tuple[str, int]]) -> None:
    table = counted(frames).table
    phones, codes = [phone for phone, _ in frames], [code for _, code in frames]
    assert phone_purity(table) == pytest.approx(reference.phone_purity(phones, codes))
    assert cluster_purity(table) == pytest.approx(reference.cluster_purity(phones, codes))
    assert pnmi(table) == pytest.approx(reference.pnmi(phones, codes), abs=1e-12)


@given(FRAMES, st.randoms())
def test_renaming_tokens_and_the_order_of_frames_change_nothing(frames: list[tuple[str, int]], random: object) -> None:
    renamed = [(phone, 4 - code) for phone, code in reversed(frames)]
    one, other = purity(counted(frames).table, 0), purity(counted(renamed).table, 0)
    assert one is not None and other is not None
    assert (one.phone_purity, one.cluster_purity) == (other.phone_purity, other.cluster_purity)
    assert one.pnmi == pytest.approx(other.pnmi, abs=1e-12)


@given(FRAMES, st.integers(0, 9))
def test_shuffling_keeps_both_margins(frames: list[tuple[str, int]], seed: int) -> None:
    table = counted(frames).table
    chance = shuffled(table, seed)
    assert (chance >= 0).all()
    assert chance.sum(axis=0).tolist() == table.sum(axis=0).tolist()
    assert chance.sum(axis=1).tolist() == table.sum(axis=1).tolist()


def test_a_billion_frames_were_more_than_numpy_draws_from() -> None:
    few = np.array([[30, 20, 0], [0, 30, 20]])
    for many in (few * 10**7, few * (3 * 10**8) + 1):  # 10**9 and 3 * 10**10 frames
        found = purity(many, seed=0)
        assert found is not None and found.frames == many.sum()
        assert found.pnmi == pytest.approx(pnmi(few))
        # Tokens of shares 0.3, 0.5 and 0.2 that tell nothing of two phones of half the frames each.
        chance = (found.chance_phone_purity, found.chance_cluster_purity, found.chance_pnmi)
        assert chance == pytest.approx((0.5, 0.5, 0.0), abs=1e-3)


def test_chance_says_how_much_a_large_vocabulary_finds_in_noise() -> None:
    rng = np.random.default_rng(0)
    counts = JointCounts(500)
    for phone in "ABCDEFGH":
        counts.add(phone, rng.integers(0, 500, size=250))
    found = purity(counts.table, seed=1)
    assert found is not None and found.frames == 2000
    assert found.pnmi > 0.3  # 500 tokens over 2000 frames of noise look informative
    assert found.pnmi == pytest.approx(found.chance_pnmi, abs=0.02)
    assert found.phone_purity == pytest.approx(found.chance_phone_purity, abs=0.03)


def test_nothing_counted_is_no_score() -> None:
    assert purity(JointCounts(3).table, 0) is None
    assert pnmi(counted([("A", 1), ("A", 2)]).table) == 0.0


def test_silence_is_counted_or_not() -> None:
    counts = counted([("SIL", 0), ("A", 1), ("SIL", 0)])
    assert without(counts.table, counts.phones, SILENCES).sum() == 1
    assert without(counts.table, counts.phones, ()).sum() == 3


def test_edge_phones_and_stress_are_dropped() -> None:
    cut = aligned(("SIL", 0, 0.1), ("K", 0.1, 0.1), ("AE1", 0.2, 0.1), ("S", 0.3, 0.1), ("T", 0.4, 0.1), ("", 0.5, 1))
    [speech] = read_phones(cut, SILENCES)
    assert [phone.symbol for phone in speech.phones] == ["SIL", "AE", "S", ""]
    assert read_phones(aligned(("SIL", 0, 1)), SILENCES) == [Speech(None, [Phone("SIL", 0, 1)])]
    assert read_phones(MonoCut("c", 0, 1, 0), SILENCES) == []


@pytest.mark.parametrize("rate", [50.0, 100.0, 25.0, 49.95])
def test_frames_belong_to_the_phone_that_holds_their_centre(rate: float) -> None:
    rng = np.random.default_rng(3)
    edges = np.cumsum(rng.integers(1, 20, size=60)) / 100  # a 10 ms grid: centres fall on edges at 50 Hz
    spans = [(f"p{i}", start, end) for i, (start, end) in enumerate(pairwise(edges))]
    num_frames = int(edges[-1] * rate) - 2
    found: list[str | None] = [None] * num_frames
    for symbol, start, end in spans:
        frames = phone_frames(Phone(symbol, float(start), float(end)), num_frames, rate)
        found[frames] = [symbol] * (frames.stop - frames.start)
    assert found == [reference.label_at(spans, (i + 0.5) / rate) for i in range(num_frames)]


def test_first_frame_worked_by_hand() -> None:
    """At 50 Hz centres are 0.01, 0.03, 0.05 s ..."""
    assert [first_frame(time_s, 50) for time_s in (0.0, 0.01, 0.02, 0.03, 0.04)] == [0, 0, 1, 1, 2]


def test_triphones_touch_and_have_no_silence() -> None:
    phones = [Phone("B", 0.0, 0.1), Phone("AE", 0.1, 0.2), Phone("T", 0.2, 0.3), Phone("S", 0.3, 0.4)]
    phones += [Phone("SIL", 0.4, 0.5), Phone("K", 0.5, 0.6), Phone("IY", 0.6, 0.7), Phone("P", 0.75, 0.8)]
    found = list(segments(phones, "triphone", SILENCES))
    assert [(s.phone, s.context, s.start_s, s.end_s) for s in found] == [
        ("AE", "B_T", 0.0, 0.3),
        ("T", "AE_S", 0.1, 0.4),
    ]
    assert [(s.start_s, s.end_s) for s in segments(phones, "phone", SILENCES)] == [(0.1, 0.2), (0.2, 0.3)]


def test_perfect_tokens_are_perfect(tmp_path: Path) -> None:
    counts = JointCounts(5)
    for cut in load_cuts(write_toy_corpus(tmp_path, [3.0, 2.0])):
        for speech in read_phones(cut, SILENCES):
            for phone in speech.phones:
                frames = phone_frames(phone, round(cut.duration * 50), 50)
                counts.add(phone.symbol, np.full(frames.stop - frames.start, "aeiou".index(phone.symbol)))
    found = purity(counts.table, 0)
    assert found is not None and found.frames > 150
    assert (found.phone_purity, found.cluster_purity) == (1.0, 1.0)
    assert found.pnmi == pytest.approx(1.0) and found.chance_pnmi < 0.2
