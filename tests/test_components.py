"""Components: projections equal a plain SVD's, and cheap Lloyd steps are nearly those of loops."""

import pytest
import torch

from tests.reference_kmeans import inertia, nearest
from tests.toy_frames import gaussian_frames, structured_frames
from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.components import HELD_SHARE, LEAST_WIDTH, Components
from voxtok.tokenize.frames import ArrayFrames
from voxtok.tokenize.sample import Sample, draw_sample

CPU = torch.device("cpu")


def sample_of(frames: torch.Tensor) -> Sample:
    return draw_sample(ArrayFrames(frames, 0), len(frames), torch.float32, Ranks(), CPU)


@pytest.mark.parametrize("width", [1, 3, 64])
def test_all_components_are_a_rotation(width: int) -> None:
    frames = structured_frames(200, width, 1)
    sample = sample_of(frames)
    components = Components(sample, CPU)
    assert components.width == width
    torch.testing.assert_close(components.whole(components.frames), frames[sample.order], rtol=1e-4, atol=1e-4)
    assert components.outside == pytest.approx(0, abs=1e-3)


def test_what_is_outside_equals_the_variance_of_the_other_directions() -> None:
    frames = structured_frames(900, 160, 1)
    components = Components(sample_of(frames), CPU)
    assert components.width == LEAST_WIDTH
    variances = torch.linalg.svdvals((frames - frames.mean(0)).double()).square() / len(frames)
    assert components.outside == pytest.approx(float(variances[LEAST_WIDTH:].sum()), rel=1e-3)


def test_frames_without_structure_keep_most_directions() -> None:
    components = Components(sample_of(gaussian_frames(4000, 256, 1)), CPU)
    assert 160 <= components.width < 256
    assert components.outside < 1.1 * (1 - HELD_SHARE) * 256


@pytest.mark.parametrize("width", [1, 3, 50])
def test_steps_are_nearly_those_of_loops(width: int) -> None:
    """Labels may differ where two centroids are about as near: distances of labels exceed the least ones by 1 %."""
    frames = structured_frames(400, width, 1)
    components = Components(sample_of(frames), CPU)
    centroids = components.frames[:9].clone()
    tally, labels = components.tally(300, centroids)
    projected = components.frames[:300]
    least = inertia(projected.tolist(), centroids.tolist())
    assert least - 1e-4 <= float((projected - centroids[labels]).square().sum(1).mean()) <= 1.01 * least
    expected = torch.tensor(nearest(projected.tolist(), centroids.tolist()))
    assert float((labels == expected).float().mean()) > 0.97
    for label in range(9):
        members = projected[labels == label].double()
        assert int(tally.counts[label]) == len(members)
        torch.testing.assert_close(tally.sums[label], members.sum(0))
        error = float((members - centroids[label].double()).square().sum())
        assert float(tally.errors[label]) == pytest.approx(error, rel=1e-4, abs=1e-2)


def test_an_empty_cluster_moves_to_the_frame_that_is_farthest() -> None:
    components = Components(sample_of(torch.tensor([[-1.0], [0.0], [0.0], [9.0]])), CPU)
    low, high = float(components.frames.min()), float(components.frames.max())
    tally, _ = components.tally(4, torch.tensor([[0.0], [1000.0]]))
    assert tally.counts.tolist() == [4, 0]
    assert float(tally.repaired_means()[1]) == max(low, high, key=abs)
