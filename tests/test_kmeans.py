"""k-means: steps equal loops, streams equal arrays, resumed equals uninterrupted, two ranks equal one."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch.multiprocessing.spawn import spawn

from tests.kmeans_rank import CONFIG, bounded, fit_as_rank
from tests.reference_kmeans import inertia, lloyd_step, nearest
from tests.toy_frames import gaussian_frames, structured_frames
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.frame_cache import cached
from voxtok.tokenize.frames import EVERY_KEY, ArrayFrames, Chunk, FrameSource
from voxtok.tokenize.kmeans import KMeansConfig, KMeansResult, fit_kmeans
from voxtok.tokenize.kmeans_health import duplicates, perplexity
from voxtok.tokenize.kmeans_state import State
from voxtok.tokenize.lloyd import segment_sums, tally
from voxtok.tokenize.seeding import greedy_seeds
from voxtok.tokenize.split_merge import exchange

CPU = torch.device("cpu")


def fit(source: FrameSource, vocab_size: int, **options: object) -> KMeansResult:
    return fit_kmeans(source, KMeansConfig(vocab_size=vocab_size, **options), Ranks(), CPU)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return structured_frames(6000, 160, 1, num_modes=60)


class Pieces:
    """The frames of an array in chunks of another size."""

    largest_key = EVERY_KEY
    num_frames: int | None = None

    def __init__(self, array: torch.Tensor, size: int) -> None:
        self.width = array.shape[1]
        self._array, self._size = ArrayFrames(array, 0), size

    def chunks(self) -> Iterator[Chunk]:
        for chunk in self._array.chunks():
            for parts in zip(chunk.frames.split(self._size), chunk.keys.split(self._size), strict=True):
                yield Chunk(*parts)


@pytest.mark.parametrize("width", [1, 3, 130])
def test_a_step_equals_loops(width: int) -> None:
    frames, centroids = structured_frames(120, width, 1), structured_frames(9, width, 2)
    result = tally(ArrayFrames(frames, 0).chunks(), Assigner(centroids, CPU), Ranks())
    expected = torch.tensor(lloyd_step(frames.tolist(), centroids.tolist()))
    torch.testing.assert_close(result.means(), expected, rtol=1e-6, atol=1e-6)
    assert result.inertia == pytest.approx(inertia(frames.tolist(), centroids.tolist()), rel=1e-5)
    assert result.num_frames == 120


def test_sums_by_segments_equal_sums_by_index() -> None:
    """The way of a GPU, where the order of index_add_ is not fixed."""
    frames, labels = gaussian_frames(500, 7, 1), torch.arange(500) * 7919 % 13
    labels[labels == 5] = 4
    expected = torch.zeros(15, 7, dtype=torch.float64).index_add_(0, labels, frames.double())
    torch.testing.assert_close(segment_sums(frames, labels, 15), expected)
    torch.testing.assert_close(segment_sums(frames[:, 0], labels, 15), expected[:, 0])


def test_an_empty_cluster_moves_to_the_frame_that_is_farthest() -> None:
    """Frames 0, 1, 8 on a line, centroids 0 and 100: all frames are nearest 0, and 8 is farthest from it."""
    frames = torch.tensor([[0.0], [1.0], [8.0], [8.0]])
    result = tally(ArrayFrames(frames, 0).chunks(), Assigner(torch.tensor([[0.0], [100.0]]), CPU), Ranks())
    assert result.means().tolist() == [[4.25], [100.0]]
    assert result.repaired_means().tolist() == [[4.25], [8.0]]
    assert result.farthest.tolist() == [[8.0], [1.0]]


def test_seeds_are_distinct_frames_and_better_than_random_ones() -> None:
    frames = structured_frames(600, 8, 1)
    generator = torch.Generator().manual_seed(0)
    seeds = greedy_seeds(frames, 40, generator)
    assert len(seeds.unique()) == 40
    assert len(greedy_seeds(frames, 600, generator).unique()) == 600
    random = inertia(frames.tolist(), frames[:40].tolist())
    assert inertia(frames.tolist(), frames[seeds].tolist()) < 0.8 * random


def test_seeds_of_copies_are_every_distinct_frame_first() -> None:
    frames = torch.arange(5.0).repeat_interleave(20)[:, None] - 2
    seeds = greedy_seeds(frames, 8, torch.Generator().manual_seed(0))
    assert len(seeds.unique()) == 8
    assert sorted(frames[seeds[:5], 0].tolist()) == [-2, -1, 0, 1, 2]


def test_exchange_leaves_a_local_optimum() -> None:
    """Blobs at 0, 10 and 20; two centroids share the first and one the others: Lloyd stays, an exchange mends it."""
    blobs = torch.tensor([0.0, 10.0, 20.0]).repeat_interleave(50)[:, None]
    frames = blobs + 0.1 * gaussian_frames(150, 1, 1)
    start = torch.tensor([[-0.05], [0.05], [15.0]])
    labels = torch.tensor(nearest(frames.tolist(), start.tolist()))
    before = tally(ArrayFrames(frames, 0).chunks(), Assigner(start), Ranks())
    centroids = exchange(frames, labels, before, most=1)
    assert sorted(centroids[:, 0].tolist()) == pytest.approx([0, 10, 20], abs=0.1)


def test_inertia_is_below_scikit_learn_s(frames: torch.Tensor) -> None:
    peer = min(KMeans(80, n_init=1, random_state=seed).fit(frames.numpy()).inertia_ for seed in range(3))
    ours = fit(ArrayFrames(frames, 0), 80)
    codebook = tally(ArrayFrames(frames, 0).chunks(), Assigner(ours.centroids), Ranks())
    assert codebook.inertia < peer / len(frames)
    assert codebook.inertia == pytest.approx(ours.report["inertia"], rel=1e-3)


def test_streams_equal_arrays(frames: torch.Tensor, tmp_path: Path) -> None:
    array = fit(ArrayFrames(frames, 0), 50)
    on_disk = fit(cached(ArrayFrames(frames, 0), tmp_path / "cache", torch.float32, 10**9), 50)
    assert torch.equal(array.centroids, on_disk.centroids)
    assert array.report == on_disk.report
    pieces = fit(Pieces(frames, 777), 50)
    torch.testing.assert_close(pieces.centroids, array.centroids, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_caches_give_nearly_the_same_inertia(frames: torch.Tensor, dtype: torch.dtype) -> None:
    full = fit(ArrayFrames(frames, 0), 50).report["inertia"]
    half = fit(cached(ArrayFrames(frames, 0), "memory", dtype, 10**9), 50).report["inertia"]
    assert half == pytest.approx(full, rel=0.01)


def test_seeds_decide(frames: torch.Tensor) -> None:
    first, again, other = (fit(ArrayFrames(frames, 0), 30, seed=seed, passes=1).centroids for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("passes", "last"), [(8, "pass"), (0, "polish")])
def test_resumed_after_every_step_equals_uninterrupted(
    frames: torch.Tensor, passes: int, last: str, tmp_path: Path
) -> None:
    source, heldout = ArrayFrames(frames[:4000], 0), ArrayFrames(frames[4000:], 0)
    config = KMeansConfig(vocab_size=40, restarts=2, sample_per_centroid=50, exchanges=3, passes=passes)
    steps: list[State] = []
    whole = fit_kmeans(source, config, Ranks(), CPU, heldout=heldout, on_step=steps.append)
    assert {state.phase for state in steps} == {"seed", "exchange", "sample", last, "done"}

    def stop(state: State) -> None:
        raise KeyboardInterrupt

    for _ in steps:
        with pytest.raises(KeyboardInterrupt):
            fit_kmeans(source, config, Ranks(), CPU, tmp_path / "state", heldout, on_step=stop)
    resumed = fit_kmeans(source, config, Ranks(), CPU, tmp_path / "state", heldout, on_step=stop)
    assert resumed.centroids.numpy().tobytes() == whole.centroids.numpy().tobytes()
    assert resumed.report == whole.report


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
import torch
from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.frame_cache import cached
from voxtok.tokenize.frames import ArrayFrames
from voxtok.tokenize.kmeans import KMeansConfig, fit_kmeans

torch.set_num_threads(1)
left = int(sys.argv[3])

def step(state):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

frames = np.load(sys.argv[1])
config = KMeansConfig(vocab_size=40, sample_per_centroid=50)
fit_kmeans(ArrayFrames(frames, 0), config, Ranks(), torch.device("cpu"), Path(sys.argv[2]), on_step=step)
"""


def test_killed_equals_uninterrupted(frames: torch.Tensor, tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", frames[:3000].numpy())
    state = tmp_path / "state"
    for steps in (5, 3):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "frames.npy"), str(state), str(steps)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    source, config = ArrayFrames(frames[:3000], 0), KMeansConfig(vocab_size=40, sample_per_centroid=50)
    whole, resumed = (fit_kmeans(source, config, Ranks(), CPU, checkpoint) for checkpoint in (None, state))
    assert whole.centroids.numpy().tobytes() == resumed.centroids.numpy().tobytes()
    assert whole.report == resumed.report


def test_checkpoint_of_another_config_is_not_used(frames: torch.Tensor, tmp_path: Path) -> None:
    source = ArrayFrames(frames, 0)
    fit_kmeans(source, KMeansConfig(vocab_size=20, passes=1), Ranks(), CPU, tmp_path / "state")
    other = fit_kmeans(source, KMeansConfig(vocab_size=21, passes=1), Ranks(), CPU, tmp_path / "state")
    assert len(other.centroids) == 21


@pytest.mark.parametrize("keep", [0, 5, 300])
def test_damaged_checkpoint_is_named(keep: int, frames: torch.Tensor, tmp_path: Path) -> None:
    source, config, state = ArrayFrames(frames, 0), KMeansConfig(vocab_size=20, passes=1), tmp_path / "state"
    fit_kmeans(source, config, Ranks(), CPU, state)
    state.write_bytes(state.read_bytes()[:keep])
    with pytest.raises(CorruptFile, match="delete it"):
        fit_kmeans(source, config, Ranks(), CPU, state)


def test_two_ranks_equal_one(frames: torch.Tensor, tmp_path: Path) -> None:
    """The bound leaves the first rank, with 5000 frames, a half of them: so the other, with 1000, keeps no more."""
    np.save(tmp_path / "frames.npy", frames.numpy())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(probe.getsockname()[1]))
    spawn(fit_as_rank, (tmp_path, 5000), nprocs=2)
    first, second = (np.load(tmp_path / f"centroids{rank}.npy") for rank in (0, 1))
    assert first.tobytes() == second.tobytes()
    assert (tmp_path / "inertia0.txt").read_text() == (tmp_path / "inertia1.txt").read_text()
    alone = fit_kmeans(bounded(frames.numpy(), 0), CONFIG, Ranks(), CPU)
    np.testing.assert_allclose(first, alone.centroids.numpy(), rtol=1e-6, atol=1e-6)


def test_more_centroids_than_frames_is_named(frames: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="20 frames cannot make 21 centroids"):
        fit(ArrayFrames(frames[:20], 0), 21)
    with pytest.raises(ConfigError, match="0 frames cannot make 1 centroids"):
        fit(ArrayFrames(frames[:0], 0), 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("sample_per_centroid", [4, 1000])
def test_bad_frames_are_named(frames: torch.Tensor, bad: float, sample_per_centroid: int) -> None:
    broken = frames.clone()
    broken[1234, 5] = bad
    with pytest.raises(ConfigError, match=r"not finite|NaN or infinite"):
        fit(ArrayFrames(broken, 0), 20, sample_per_centroid=sample_per_centroid)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab-size must be at least 1"),
        ({"vocab_size": 2, "restarts": 0}, "restarts"),
        ({"vocab_size": 2, "passes": -1}, "must not be negative"),
    ],
)
def test_impossible_options_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KMeansConfig(**options)  # type: ignore[arg-type]


def test_one_centroid_is_the_mean(frames: torch.Tensor) -> None:
    result = fit(ArrayFrames(frames, 0), 1)
    torch.testing.assert_close(result.centroids[0].double(), frames.double().mean(0), rtol=1e-6, atol=1e-6)
    assert result.report["perplexity"] == 1


@pytest.mark.parametrize("vocab_size", [1, 2, 7])
def test_one_dimension(vocab_size: int) -> None:
    result = fit(ArrayFrames(structured_frames(500, 1, 1, num_modes=7), 0), vocab_size)
    assert result.centroids.shape == (vocab_size, 1)
    assert result.report["dead"] == []


def test_as_many_centroids_as_frames(frames: torch.Tensor) -> None:
    result = fit(ArrayFrames(frames[:30], 0), 30)
    assert result.report["inertia"] == pytest.approx(0, abs=1e-4)
    assert sorted(result.centroids[:, 0].tolist()) == pytest.approx(sorted(frames[:30, 0].tolist()))


def test_fewer_distinct_frames_than_centroids_are_reported() -> None:
    frames = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 1.0]]).repeat(40, 1)
    report = fit(ArrayFrames(frames, 0), 5).report
    assert report["inertia"] == pytest.approx(0, abs=1e-6)
    assert len(report["dead"]) == 2
    assert len(report["duplicates"]) >= 1
    constant = fit(ArrayFrames(torch.full((50, 3), 7.7), 0), 4)
    assert constant.report["duplicates"] == [[i, j] for i in range(4) for j in range(i + 1, 4)]
    assert constant.report["dead"] == [1, 2, 3]
    assert constant.centroids.tolist() == torch.full((4, 3), 7.7).tolist()


def test_frames_without_structure() -> None:
    frames = gaussian_frames(3000, 140, 1)
    result = fit(ArrayFrames(frames, 0), 40)
    assert result.report["inertia"] < 140 * (1 - 40 / 3000)
    assert result.report["dead"] == []


def test_passes_lower_the_inertia_and_none_leaves_the_sample_s(frames: torch.Tensor) -> None:
    heldout = ArrayFrames(structured_frames(2000, 160, 2, num_modes=60), 0)
    few, many = (
        fit_kmeans(
            ArrayFrames(frames, 0),
            KMeansConfig(vocab_size=40, sample_per_centroid=20, passes=passes, tolerance=0),
            Ranks(),
            CPU,
            heldout=heldout,
        ).report
        for passes in (0, 4)
    )
    assert few["frames"] == 800
    assert sum(few["cluster_sizes"]) == 800
    assert few["history"][-1]["phase"] == "polish"
    rows = [row for row in many["history"] if row["phase"] == "pass"]
    assert [row["frames"] for row in rows] == [6000] * 4
    inertias = [row["inertia"] for row in rows]
    assert inertias == sorted(inertias, reverse=True)
    assert many["heldout_inertia"] < few["heldout_inertia"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_samples(frames: torch.Tensor, dtype: Literal["float16", "bfloat16"]) -> None:
    full, half = (fit(ArrayFrames(frames, 0), 40, sample_dtype=d).report["inertia"] for d in ("float32", dtype))
    assert half == pytest.approx(full, rel=0.01)


def test_perplexity_worked_example() -> None:
    """Shares 1/2, 1/4, 1/4 have entropy 1.5 ln 2, so perplexity 2^1.5; an empty cluster changes nothing."""
    assert perplexity(torch.tensor([20, 10, 0, 10])) == pytest.approx(2**1.5)
    assert perplexity(torch.tensor([5, 5, 5])) == pytest.approx(3)


def test_duplicates_are_pairs_within_the_distance() -> None:
    centroids = torch.tensor([[1000.0, 0.0], [1000.0, 0.4], [1000.0, 0.7], [1000.0, 50.0]])
    assert duplicates(centroids, 0.5) == [[0, 1], [1, 2]]


def test_faiss_backend_takes_all_frames(frames: torch.Tensor) -> None:
    result = fit(ArrayFrames(frames, 0), 30, backend="faiss")
    assert result.report["method"] == "faiss"
    assert sum(result.report["cluster_sizes"]) == len(frames)
    assert result.report["inertia"] < 1.25 * fit(ArrayFrames(frames, 0), 30).report["inertia"]


def test_faiss_backend_names_its_limits(frames: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="faiss-gb"):
        fit(ArrayFrames(frames, 0), 30, backend="faiss", faiss_gb=1e-3)
    with pytest.raises(ConfigError, match="cannot make"):
        fit(ArrayFrames(frames[:20], 0), 30, backend="faiss")
    with pytest.raises(ConfigError, match="one process"):
        fit_kmeans(ArrayFrames(frames, 0), KMeansConfig(vocab_size=3, backend="faiss"), Ranks(0, 2), CPU)
