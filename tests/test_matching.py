"""Matching: the full computation's neighbours, whatever the blocks, the memory and the products' number format."""

from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference_matching as reference
from voxtok.runtime.errors import ConfigError
from voxtok.vocoder import matching
from voxtok.vocoder.matching import Matcher, weighted_mean

CPU = torch.device("cpu")


def frames_like_speech(num: int, width: int, seed: int) -> torch.Tensor:
    """Frames around a few centres, with an offset in common, as features of SSL models have."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, width, generator=torch.Generator().manual_seed(99))
    chosen = torch.randint(0, 12, (num,), generator=generator)
    return centres[chosen] + 0.4 * torch.randn(num, width, generator=generator) + 2.0


def full(queries: torch.Tensor, pool: torch.Tensor, k: int) -> torch.Tensor:
    """Indices by the whole matrix in float64."""
    a, b = (torch.nn.functional.normalize(frames.double(), dim=1) for frames in (queries, pool))
    return (a @ b.T).argsort(dim=1, descending=True, stable=True)[:, :k]


@pytest.mark.parametrize("weighting", ["uniform", "distance"])
def test_equals_the_loops(weighting: matching.Weighting) -> None:
    queries, pool = frames_like_speech(7, 5, 0), frames_like_speech(40, 5, 1)
    matcher = Matcher(pool, device=CPU)
    found = matcher.nearest(queries, 4)
    mean = matcher.match(queries, 4, weighting)
    for query, indices, similarities, row in zip(
        queries.tolist(), found.indices.tolist(), found.similarities.tolist(), mean.tolist(), strict=True
    ):
        assert indices == reference.nearest(query, pool.tolist(), 4)
        assert similarities == pytest.approx([reference.cosine(query, pool[i].tolist()) for i in indices], abs=1e-12)
        assert row == pytest.approx(reference.matched(query, pool.tolist(), 4, weighting == "distance"), rel=1e-5)


@given(
    num_queries=st.integers(0, 40),
    num_pool=st.integers(1, 300),
    width=st.sampled_from([1, 3, 64, 200]),
    k=st.integers(1, 9),
    max_mb=st.sampled_from([1.0, 3.0, 300.0]),
    levels=st.sampled_from([2, 40, 0]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_equals_the_whole_matrix_whatever_the_memory(
    num_queries: int, num_pool: int, width: int, k: int, max_mb: float, levels: int, seed: int
) -> None:
    """Frames of few levels have many ties, and 1 MB cuts the pool into chunks of 16 frames."""
    queries, pool = frames_like_speech(num_queries, width, seed), frames_like_speech(num_pool, width, seed + 100)
    if levels:
        queries, pool = (((frames * levels).round() / levels).clamp(min=1 / 64) for frames in (queries, pool))
    if k > num_pool:
        with pytest.raises(ConfigError, match="neighbours cannot be taken"):
            Matcher(pool, device=CPU).nearest(queries, k)
        return
    found = Matcher(pool, device=CPU, max_mb=max_mb).nearest(queries, k)
    whole = Matcher(pool, device=CPU, max_mb=4000).nearest(queries, k)
    assert torch.equal(found.indices, whole.indices) and torch.equal(found.similarities, whole.similarities)
    a, b = (torch.nn.functional.normalize(frames.double(), dim=1) for frames in (queries, pool))
    best = (a @ b.T).sort(dim=1, descending=True).values[:, :k]
    assert torch.allclose(found.similarities, best, rtol=0, atol=1e-12)


@pytest.mark.parametrize("max_mb", [1, 384])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_number_format_of_the_products_changes_nothing(dtype: torch.dtype, max_mb: float) -> None:
    queries, pool = frames_like_speech(50, 96, 0), frames_like_speech(3000, 96, 1)
    matcher = Matcher(pool, device=CPU, max_mb=max_mb)
    matcher._dtype, matcher._copy = dtype, None
    assert torch.equal(matcher.nearest(queries, 4).indices, full(queries, pool, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rounded_products_stay_within_their_bound(dtype: torch.dtype) -> None:
    """The bound on which the search rests, on frames whose similarities are large."""
    queries, pool = frames_like_speech(60, 512, 2), frames_like_speech(2000, 512, 3)
    parts = []
    for frames in (queries, pool):
        norms = torch.linalg.vector_norm(frames, dim=1, dtype=torch.float64)
        parts.append((matching._round(frames, norms, dtype), frames.double() / norms[:, None]))
    (near, a), (far, b) = parts
    bound = (
        near.error[:, None] + (1 + near.error[:, None]) * far.error + (512 + 8) * 2.0**-23 + torch.finfo(dtype).eps / 4
    )
    moved = ((near.frames @ far.frames.T).double().clamp(max=1) - a @ b.T).abs()
    assert (moved <= bound).all()
    assert moved.max() > bound.min() / (20 if dtype == torch.bfloat16 else 1000), "a bound that says something"


def test_equal_frames_in_thousands_are_taken_in_their_order_in_bounded_memory() -> None:
    """Digital silence: every pair is a candidate, which would be 64 bytes x 60 x 8000 at once."""
    pool = torch.ones(8000, 8)
    pool[5] = torch.linspace(1, 2, 8)
    queries = torch.ones(60, 8)
    matcher = Matcher(pool, device=CPU, max_mb=1)
    sizes: list[int] = []
    joined = matching._Pairs.joined

    def noted(self: matching._Pairs, more: matching._Pairs) -> matching._Pairs:
        sizes.append(len(self.rows) + len(more.rows))
        return joined(self, more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching._Pairs, "joined", noted)
        found = matcher.nearest(queries, 4)
    assert found.indices.tolist() == [[0, 1, 2, 3]] * 60
    assert max(sizes) * matching.BYTES_A_PAIR < 1e6


def test_cuda_adds_up_in_float32() -> None:
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    with suppress(AssertionError, RuntimeError):  # where there is no CUDA
        Matcher(torch.ones(1, 1), device=torch.device("cuda"))
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction


def test_half_precision_pools_and_a_memory_map() -> None:
    queries, pool = frames_like_speech(20, 32, 0), frames_like_speech(500, 32, 1).half()
    assert torch.equal(Matcher(pool, device=CPU).nearest(queries, 4).indices, full(queries, pool, 4))


def test_queries_of_the_pool_find_themselves() -> None:
    pool = frames_like_speech(100, 16, 0)
    matcher = Matcher(pool, device=CPU)
    assert matcher.nearest(pool, 1).indices[:, 0].tolist() == list(range(100))
    assert torch.equal(matcher.match(pool, 1, "uniform"), pool)


@pytest.mark.parametrize("without", [(0, 20), (3, 40), (40, 64)])
def test_rows_that_are_left_out_may_be_a_whole_chunk(without: tuple[int, int]) -> None:
    """1 MB cuts the pool into chunks of 16 frames."""
    pool = frames_like_speech(64, 1024, 0)
    left = [i for i in range(64) if not without[0] <= i < without[1]]
    found = Matcher(pool, device=CPU, max_mb=1).nearest(pool[:20], 4, without=without)
    assert torch.equal(found.indices, torch.tensor(left)[full(pool[:20], pool[left], 4)])


def test_weights_are_inverse_distances() -> None:
    """Similarities 0.9 and 0.6 are distances 0.1 and 0.4: weights 10 and 2.5, or 0.8 and 0.2."""
    frames = torch.tensor([[[1.0], [6.0]]])
    similarities = torch.tensor([[0.9, 0.6]], dtype=torch.float64)
    assert weighted_mean(frames, similarities, "distance").item() == pytest.approx(0.8 * 1 + 0.2 * 6)
    assert weighted_mean(frames, similarities, "uniform").item() == 3.5
    exact = torch.tensor([[1.0, 0.6]], dtype=torch.float64)
    assert weighted_mean(frames, exact, "distance").item() == pytest.approx(1.0, abs=1e-4)


def test_impossible_input_is_named() -> None:
    pool = frames_like_speech(10, 4, 0)
    matcher = Matcher(pool, device=CPU)
    with pytest.raises(ConfigError, match="queries are"):
        matcher.nearest(torch.ones(3, 5), 1)
    with pytest.raises(ConfigError, match="frame 2 is zero or not finite"):
        matcher.nearest(torch.tensor(np.diag([1.0, 1.0, 0.0, 1.0]), dtype=torch.float32), 1)
    with pytest.raises(ConfigError, match="frame 7 is zero or not finite"):
        Matcher(pool.index_fill(0, torch.tensor([7]), float("nan")), device=CPU)
    with pytest.raises(ConfigError, match="a pool is"):
        Matcher(torch.zeros(0, 4), device=CPU)
    with pytest.raises(ConfigError, match="max_mb"):
        Matcher(pool, device=CPU, max_mb=0)
