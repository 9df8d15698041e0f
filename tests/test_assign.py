"""Labels are exact: whichever way they were found, they are those of two loops in float64."""

from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from tests.reference_kmeans import nearest
from tests.toy_frames import gaussian_frames, structured_frames
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize import score_bounds
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.score_bounds import ScoreBounds

CPU = torch.device("cpu")


def direct_labels(frames: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """All distances in float64; for sizes that loops would take minutes for."""
    wide = centroids.double()
    labels: torch.Tensor = torch.stack([(wide - frame).square().sum(1).argmin() for frame in frames.double()])
    return labels


@pytest.fixture(params=["bfloat16", "float32"])
def bound_type(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Bounds as machines with and without fast bfloat16 make them."""
    monkeypatch.setattr(score_bounds, "has_fast_bfloat16", lambda: request.param == "bfloat16")
    return str(request.param)


def test_worked_example() -> None:
    """On a line with centroids 0 and 10, the frame 4 is nearer 0, 6 nearer 10, and 5 is as near: the lowest wins."""
    assigner = Assigner(torch.tensor([[0.0], [10.0]]), CPU)
    assert assigner.labels(torch.tensor([[4.0], [5.0], [6.0]])).tolist() == [0, 0, 1]
    assert assigner.nearest(torch.tensor([[4.0], [7.0]]))[1].tolist() == [16, 9]


@pytest.mark.parametrize("make", [structured_frames, gaussian_frames])
@pytest.mark.parametrize(("num_frames", "width", "vocab_size"), [(60, 1, 7), (50, 13, 1), (40, 39, 60), (30, 140, 35)])
def test_equals_loops(
    make: Callable[[int, int, int], torch.Tensor], num_frames: int, width: int, vocab_size: int
) -> None:
    frames, centroids = make(num_frames, width, 1), make(vocab_size, width, 2)
    labels = Assigner(centroids, CPU).labels(frames)
    assert labels.tolist() == nearest(frames.tolist(), centroids.tolist())


@given(
    st.integers(1, 5).flatmap(
        lambda width: st.tuples(*(hnp.arrays(np.int8, st.tuples(st.integers(1, 9), st.just(width))) for _ in range(2)))
    ),
    st.sampled_from([0, 1, 4096, 1e6]),
)
@settings(max_examples=200, deadline=None)
def test_equals_loops_among_many_ties(arrays: tuple[np.ndarray, np.ndarray], offset: float) -> None:
    """Distances of small integers are exact in float64, so every tie is a tie for both."""
    frames, centroids = (torch.from_numpy(array.astype(np.float32)) // 32 + offset for array in arrays)
    labels = Assigner(centroids, CPU).labels(frames)
    assert labels.tolist() == nearest(frames.tolist(), centroids.tolist())


def test_structured_frames_are_pruned_and_exact(bound_type: str) -> None:
    frames, centroids = structured_frames(3000, 256, 1), structured_frames(300, 256, 2, num_modes=200, noise=0.1)
    assigner = Assigner(centroids, CPU)
    labels = assigner.labels(frames)
    assert assigner._bounds is not None
    assert torch.equal(labels, direct_labels(frames, centroids))
    distances = (frames.double() - centroids[labels].double()).square().sum(1)
    torch.testing.assert_close(assigner.nearest(frames)[1].double(), distances, rtol=1e-4, atol=1e-3)


def test_structureless_frames_are_scored_in_full() -> None:
    frames, centroids = gaussian_frames(2000, 256, 1), gaussian_frames(300, 256, 2)
    assigner = Assigner(centroids, CPU)
    labels = assigner.labels(frames)
    assert assigner._bounds is None
    assert torch.equal(labels, direct_labels(frames, centroids))


def test_bounds_that_were_chosen_for_other_frames_stay_exact(bound_type: str) -> None:
    """The first block decides for pruning; the frames that follow have no structure, are tiny, huge or equal."""
    centroids = structured_frames(300, 256, 2, num_modes=200, noise=0.1)
    noise = gaussian_frames(400, 256, 3)
    later = torch.cat([noise, noise * 1e-4, noise * 1e4, centroids, centroids.mean(0).expand(50, -1)])
    assigner = Assigner(centroids, CPU)
    assigner.labels(structured_frames(1024, 256, 1))
    assert assigner._bounds is not None
    assert torch.equal(assigner.labels(later), direct_labels(later, centroids))


def test_bounds_are_never_below_the_product(bound_type: str) -> None:
    for frames, centroids in (
        (structured_frames(500, 192, 1), structured_frames(100, 192, 2)),
        (gaussian_frames(500, 192, 1) * 1e3, gaussian_frames(100, 192, 2) * 1e-3),
    ):
        directions = torch.linalg.qr(gaussian_frames(192, 48, 3))[0]
        bounds = ScoreBounds(centroids, directions).of(frames, frames.norm(dim=1))
        assert (bounds.double() >= frames.double() @ centroids.double().T).all()


@pytest.mark.parametrize("width", [39, 256])
def test_near_ties_do_not_depend_on_blocks(width: int) -> None:
    """Frames half way between two centroids, to rounding: a float32 matrix product decides them by its blocking."""
    centroids = structured_frames(200, width, 2, num_modes=200) * 7
    left, right = torch.randint(200, (2, 1200), generator=torch.Generator().manual_seed(1))
    frames = (centroids[left] + centroids[right]) / 2
    whole = Assigner(centroids, CPU).labels(frames)
    assert torch.equal(whole, direct_labels(frames, centroids))
    for size in (1, 7, 333, 1100):
        assigner = Assigner(centroids, CPU)
        assert torch.equal(torch.cat([assigner.labels(part) for part in frames.split(size)]), whole)


def test_copies_of_a_centroid_never_win() -> None:
    centroids = structured_frames(300, 256, 2)
    twice = torch.cat([centroids, centroids, -0.0 * centroids[:1], 0.0 * centroids[:1]])
    frames = structured_frames(2000, 256, 1)
    assert int(Assigner(twice, CPU).labels(frames).max()) < 300
    assert Assigner(twice, CPU).labels(torch.zeros(1, 256)).tolist() == [600]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_labelled_as_float32(dtype: torch.dtype) -> None:
    frames = structured_frames(500, 40, 1).to(dtype)
    assigner = Assigner(structured_frames(50, 40, 2), CPU)
    assert torch.equal(assigner.labels(frames), assigner.labels(frames.float()))


def test_no_frames_have_no_labels() -> None:
    assert Assigner(torch.zeros(3, 2), CPU).labels(torch.empty(0, 2)).shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_bad_frames_are_named(bad: float) -> None:
    frames = gaussian_frames(3000, 4, 1)
    frames[2345, 1] = bad
    with pytest.raises(ConfigError, match="frame 2345 is not finite"):
        Assigner(gaussian_frames(5, 4, 2), CPU).labels(frames)


def test_bad_centroids_and_shapes_are_named() -> None:
    with pytest.raises(ConfigError, match="NaN"):
        Assigner(torch.tensor([[float("nan")]]), CPU)
    with pytest.raises(ConfigError, match="K >= 1"):
        Assigner(torch.empty(0, 3), CPU)
    with pytest.raises(ConfigError, match=r"frames are \(N, 3\), not \(2, 4\)"):
        Assigner(torch.zeros(1, 3), CPU).labels(torch.zeros(2, 4))
