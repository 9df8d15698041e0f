"""Segment means: the best cut is found, and pooling is another upstream."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_corpus import toy_speech
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.pooled import segment_bounds, segment_means


def cost(frames: np.ndarray, bounds: tuple[int, ...], price: float) -> float:
    """What a cut costs, by its definition."""
    scale = np.mean([sum((frame - frames.mean(axis=0)) ** 2) for frame in frames])
    total = 0.0
    for begin, end in pairwise(bounds):
        centre = frames[begin:end].mean(axis=0)
        total += price * scale + sum(float(sum((frame - centre) ** 2)) for frame in frames[begin:end])
    return total


def test_constant_pieces_are_found() -> None:
    frames = np.array([0.0, 0, 0, 9, 9])[:, None]
    assert segment_bounds(frames, price=0.1, longest=10) == [0, 3, 5]
    assert segment_bounds(frames, price=10.0, longest=10) == [0, 5]
    assert segment_bounds(frames, price=10.0, longest=2) in ([0, 1, 3, 5], [0, 2, 3, 5])
    assert segment_means(1.0 + frames, [0, 2, 5]).ravel().tolist() == pytest.approx([1, 1, 7, 7, 7])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.floats(0.01, 2.0), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_cut_is_the_best_of_all(count: int, price: float, longest: int, seed: int) -> None:
    frames = np.random.default_rng(seed).normal(size=(count, 3))
    found = segment_bounds(frames, price, longest)
    assert found[0] == 0 and found[-1] == count and max(np.diff(found)) <= longest
    every = (
        (0, *inner, count) for size in range(count) for inner in combinations(range(1, count), size)
    )  # all cuts into segments
    best = min(cost(frames, cut, price) for cut in every if max(np.diff(cut)) <= longest)
    assert cost(frames, tuple(found), price) == pytest.approx(best)


def test_pooled_frames_are_segment_means_less_the_mean_of_the_utterance() -> None:
    plain, pooled = (load_upstream(name, device="cpu") for name in ("mfcc", "pooled:mfcc"))
    long, short = (torch.from_numpy(toy_speech(duration_s, seed=1)[0]) for duration_s in (1.5, 0.7))
    batch = torch.zeros(2, len(long))
    batch[0], batch[1, : len(short)] = long, short
    lengths = torch.tensor([len(long), len(short)])
    features, counts = pooled.extract(batch, lengths, [0])
    single, count = plain.extract(short[None], lengths[1:], [0])
    assert counts.tolist() == [plain.num_frames(len(long)), int(count)]
    found, frames = features[0][1, : int(count)], single[0][0]
    changes = int((found[1:] != found[:-1]).any(dim=1).sum()) + 1
    assert 2 <= changes < len(frames) / 3
    torch.testing.assert_close(found.sum(0), torch.zeros(39), atol=1e-3, rtol=0)
    begin, end = 0, int((found != found[0]).any(dim=1).nonzero()[0])
    torch.testing.assert_close(found[0], frames[begin:end].mean(0) - frames.mean(0), atol=1e-3, rtol=1e-3)
    assert not features[0][1, int(count) :].any()
    assert pooled.identity["of"] == plain.identity
