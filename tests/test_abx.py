"""ABX equals a loop over every triple, DTW and edit distance equal their recurrences."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import voxtok.tokenize.abx as abx_module
from tests import reference_quality as reference
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.abx import Distance, Items, Speakers, abx
from voxtok.tokenize.dtw import dtw, levenshtein

Oracle = Callable[[Any, Any], float]


def random_items(num_items: int, seed: int, tokens: int = 0) -> Items:
    """Items of 1 to 7 frames, 3 phones, 2 contexts, 3 speakers; vectors, or tokens where `tokens` is not 0."""
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 8, num_items)
    phones = rng.choice(["P", "Q", "R"], num_items)
    centre = {"P": 0.0, "Q": 1.0, "R": 2.0}
    frames = np.concatenate([rng.normal(size=(n, 4)) + centre[p] for n, p in zip(length, phones, strict=True)])
    values = rng.integers(0, tokens, len(frames)) if tokens else frames.astype(np.float32)
    contexts, speakers = rng.choice(["x_y", "y_x"], num_items), rng.choice(["s", "t", "u"], num_items)
    start = np.cumsum(length) - length
    return Items(torch.from_numpy(values), start, length, phones.tolist(), contexts.tolist(), speakers.tolist())


def all_of(items: Items, distance: Distance, speakers: Speakers) -> tuple[float | None, int]:
    found = abx(items, distance=distance, speakers=speakers, max_items=None, max_x_speakers=None, seed=0)
    return found.error, found.triples


@pytest.mark.parametrize("speakers", ["within", "across"])
@pytest.mark.parametrize(
    ("distance", "oracle"),
    [
        ("angular", reference.angular_dtw),
        ("identical", reference.identical_dtw),
        ("edit", reference.relative_edits),
    ],
)
def test_equals_the_loop_over_triples(distance: Distance, oracle: Oracle, speakers: Speakers) -> None:
    items = random_items(45, seed=1, tokens=0 if distance == "angular" else 3)
    stretches = [items.frames[s : s + n].tolist() for s, n in zip(items.start, items.length, strict=True)]
    error, triples = reference.abx(
        stretches, items.phones, items.contexts, items.speakers, oracle, across=speakers == "across"
    )
    assert triples > 100 and error is not None
    found = abx(items, distance=distance, speakers=speakers, max_items=None, max_x_speakers=None, seed=0)
    assert found.error == pytest.approx(error, abs=1e-6) and found.triples == triples


def test_worked_by_hand() -> None:
    """P at 0 and 0.1 half turns, Q at 0.15: the second P is nearer to Q than to the first, so 1 of 2 triples is wrong.

    With the second P by another speaker it is no X within a speaker, and the only X across them: 1 of 1 is wrong.
    """
    angle = torch.tensor([0.0, 0.1, 0.15]) * torch.pi
    frames = torch.stack([angle.cos(), angle.sin()], dim=1)
    items = Items(frames, np.array([0, 1, 2]), np.array([1, 1, 1]), ["P", "P", "Q"], ["c"] * 3, ["s"] * 3)
    assert all_of(items, "angular", "within") == (0.5, 2)
    apart = replace(items, speakers=["s", "t", "s"])
    assert all_of(apart, "angular", "within") == (None, 0)
    assert all_of(apart, "angular", "across") == (1.0, 1)


def test_equal_tokens_are_a_coin_toss() -> None:
    items = replace(random_items(40, seed=2), frames=torch.zeros(400, dtype=torch.int64))
    for distance in ("identical", "edit"):
        assert all_of(items, distance, "within")[0] == 0.5


def test_the_phones_themselves_as_tokens_are_perfect() -> None:
    items = random_items(40, seed=3)
    codes = np.repeat(["PQR".index(phone) for phone in items.phones], items.length)
    perfect = replace(items, frames=torch.from_numpy(codes))
    for speakers in ("within", "across"):
        assert all_of(perfect, "identical", speakers)[0] == 0.0


def test_golden_value_of_fastabx() -> None:
    """fastabx 0.9.0, Score(Task(on phone, by context [and speaker, or across it]), "angular") collapsed over [context,
    speaker], of the same items."""
    items = random_items(400, seed=4)
    assert all_of(items, "angular", "within")[0] == pytest.approx(0.30904100, abs=1e-6)
    assert all_of(items, "angular", "across")[0] == pytest.approx(0.30266771, abs=1e-6)


def test_small_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    items = random_items(80, seed=5)
    whole = [all_of(items, "angular", "within"), all_of(items, "angular", "across")]
    for name in ("CELLS_AT_ONCE", "FLOATS_AT_ONCE", "PAIRS_AT_ONCE", "TRIPLES_AT_ONCE"):
        monkeypatch.setattr(abx_module, name, 60)
    chunked = [all_of(items, "angular", "within"), all_of(items, "angular", "across")]
    assert [n for _, n in chunked] == [n for _, n in whole]
    assert [e for e, _ in chunked] == pytest.approx([e for e, _ in whole])


def test_caps_bound_the_triples_and_follow_the_seed() -> None:
    items = random_items(300, seed=6)

    def capped(seed: int, max_items: int, max_x_speakers: int) -> abx_module.AbxScore:
        return abx(
            items,
            distance="angular",
            speakers="across",
            max_items=max_items,
            max_x_speakers=max_x_speakers,
            seed=seed,
        )

    score = capped(0, 2, 1)
    assert score == capped(0, 2, 1) and score != capped(1, 2, 1)
    assert score.triples <= score.cells * 2**3
    assert score.cells < capped(0, 2, 2).cells  # a second speaker of X
    assert capped(0, 1000, 1000).triples == all_of(items, "angular", "across")[1]


def test_silent_frames_are_half_a_turn_from_everything() -> None:
    items = replace(random_items(30, seed=7), frames=torch.zeros(300, 4))
    assert all_of(items, "angular", "within")[0] == 0.5


def test_distance_must_fit_the_frames() -> None:
    with pytest.raises(ConfigError, match="'edit' does not go with frames of shape"):
        all_of(random_items(10, seed=0), "edit", "within")
    with pytest.raises(ConfigError, match="'angular' does not go"):
        all_of(random_items(10, seed=0, tokens=3), "angular", "within")
    with pytest.raises(ConfigError, match="empty or ends after the last frame"):
        replace(random_items(10, seed=0), frames=torch.zeros(3, 4))


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(0, 99))
def test_dtw_equals_the_recurrence_whatever_the_padding(n: int, m: int, ties: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = rng.integers(0, 2, (5, n, m)).astype(float) if ties else rng.random((5, n, m))
    rows, columns = rng.integers(1, n + 1, 5), rng.integers(1, m + 1, 5)
    expected = [reference.dtw(c[:r, :q].tolist()) for c, r, q in zip(cost, rows, columns, strict=True)]
    lengths = torch.from_numpy(rows), torch.from_numpy(columns)
    assert dtw(torch.from_numpy(cost), *lengths).tolist() == pytest.approx(expected, abs=1e-6)
    transposed = dtw(torch.from_numpy(cost).transpose(1, 2), *lengths[::-1])
    assert transposed.tolist() == pytest.approx(expected, abs=1e-6)


def test_dtw_worked_by_hand() -> None:
    """[[0, 4], [1, 1], [3, 0]]: 0, then 1 (either of the second row), then 0, over three cells."""
    cost = torch.tensor([[[0.0, 4.0], [1.0, 1.0], [3.0, 0.0]]])
    assert dtw(cost, torch.tensor([3]), torch.tensor([2])).tolist() == pytest.approx([1 / 3])


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.lists(st.integers(0, 2), max_size=6)] * 2), min_size=1, max_size=5))
def test_edit_distances_equal_the_recurrence(pairs: list[tuple[list[int], list[int]]]) -> None:
    n, m = max(1, *[len(x) for x, _ in pairs]), max(1, *[len(y) for _, y in pairs])
    differs = torch.ones(len(pairs), n, m, dtype=torch.bool)
    for table, (x, y) in zip(differs, pairs, strict=True):
        for i, a in enumerate(x):
            for j, b in enumerate(y):
                table[i, j] = a != b
    rows, columns = torch.tensor([len(x) for x, _ in pairs]), torch.tensor([len(y) for _, y in pairs])
    assert levenshtein(differs, rows, columns).tolist() == [reference.edit_distance(x, y) for x, y in pairs]
