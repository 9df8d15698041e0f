"""Matching by faiss: flat gives the exact neighbours, and so does ivf where it looks into every cell."""

import pytest
import torch

from tests.test_matching import CPU, frames_like_speech
from voxtok.runtime.errors import ConfigError
from voxtok.vocoder.matching import Matcher

pytest.importorskip("faiss")
from voxtok.vocoder.matching_faiss import FaissMatcher, num_cells

QUERIES, POOL = frames_like_speech(40, 24, 0), frames_like_speech(900, 24, 1)


@pytest.mark.parametrize(("index", "probes"), [("flat", 1), ("ivf", 10_000)])
def test_every_cell_gives_the_exact_neighbours(index: str, probes: int) -> None:
    found = FaissMatcher(POOL, index=index, probes=probes).nearest(QUERIES, 4)  # type: ignore[arg-type]
    exact = Matcher(POOL, device=CPU).nearest(QUERIES, 4)
    assert torch.equal(found.indices, exact.indices)
    assert torch.allclose(found.similarities, exact.similarities, atol=1e-5)
    made = FaissMatcher(POOL.half(), index=index, probes=probes).match(QUERIES, 4, "distance")  # type: ignore[arg-type]
    assert torch.allclose(made, Matcher(POOL.half(), device=CPU).match(QUERIES, 4, "distance"), atol=1e-3)


def test_few_cells_give_most_neighbours() -> None:
    found = FaissMatcher(POOL, index="ivf", probes=6).nearest(QUERIES, 4)
    exact = Matcher(POOL, device=CPU).nearest(QUERIES, 4)
    shared = [len(set(a) & set(b)) for a, b in zip(found.indices.tolist(), exact.indices.tolist(), strict=True)]
    assert 2.4 < sum(shared) / len(shared) <= 4


def test_number_of_cells() -> None:
    assert num_cells(1_000_000) == 3906 and num_cells(900) == 30 and num_cells(1) == 1


def test_impossible_input_is_named() -> None:
    matcher = FaissMatcher(POOL, index="flat", probes=1)
    with pytest.raises(ConfigError, match="k = 901 neighbours"):
        matcher.nearest(QUERIES, 901)
    with pytest.raises(ConfigError, match="queries are"):
        matcher.nearest(QUERIES[:, :3], 1)
    with pytest.raises(ConfigError, match="frame 0 is zero"):
        FaissMatcher(torch.zeros(3, 4), index="flat", probes=1)
    with pytest.raises(ConfigError, match="probes must be"):
        FaissMatcher(POOL, index="ivf", probes=0)
    with pytest.raises(ConfigError, match="raise probes"):
        FaissMatcher(POOL, index="ivf", probes=1).nearest(QUERIES, 800)
