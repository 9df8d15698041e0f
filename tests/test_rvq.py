"""Residual k-means: labels equal loops, prefixes are coarser tokens, stages resume, ranks agree."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference_quantizers import residual_codes, residual_vector
from tests.toy_frames import gaussian_frames, structured_frames
from voxtok.manifests.codebook import Codebook
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.frames import ArrayFrames, Chunk
from voxtok.tokenize.kmeans import fit_kmeans
from voxtok.tokenize.kmeans_state import KMeansConfig
from voxtok.tokenize.quantizer import check_codes, open_quantizer
from voxtok.tokenize.reconstruction import reconstruction
from voxtok.tokenize.rvq import ResidualKMeans, fit_rvq

CPU = torch.device("cpu")
SMALL = KMeansConfig(vocab_size=12, passes=3)


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return structured_frames(2000, 20, 1)


@pytest.fixture(scope="module")
def fitted(frames: torch.Tensor) -> Codebook:
    return fit_rvq(ArrayFrames(frames, 0), SMALL, 3, Ranks(), CPU)[0]


def test_worked_example() -> None:
    quantizer = ResidualKMeans([torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [1.0]])], CPU)
    assert quantizer.encode(torch.tensor([[8.7]])).tolist() == [[1, 0]]
    assert quantizer.decode(torch.tensor([[1, 0]])).tolist() == [[9.0]]
    assert quantizer.decode(torch.tensor([[1]])).tolist() == [[10.0]]


def test_codes_and_vectors_equal_loops(frames: torch.Tensor, fitted: Codebook) -> None:
    quantizer = open_quantizer(fitted, CPU)
    stages = fitted.arrays["centroids"].tolist()
    codes = quantizer.encode(frames[:150])
    assert codes.tolist() == [residual_codes(frame, stages) for frame in frames[:150].tolist()]
    for streams in (1, 2, 3):
        expected = torch.tensor([residual_vector(row, stages) for row in codes[:, :streams].tolist()])
        torch.testing.assert_close(quantizer.decode(codes[:, :streams]), expected, rtol=1e-6, atol=1e-5)


@given(cuts=st.lists(st.integers(0, 300), max_size=6), seed=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_codes_do_not_depend_on_chunks(cuts: list[int], seed: int) -> None:
    frames = gaussian_frames(300, 40, seed)
    quantizer = ResidualKMeans([gaussian_frames(9, 40, 10 + stage) for stage in range(3)], CPU)
    whole = quantizer.encode(frames)
    parts = [quantizer.encode(part) for part in frames.tensor_split(sorted(cuts))]
    assert torch.equal(torch.cat(parts), whole)


def test_the_first_stage_is_plain_kmeans_and_each_one_errs_less(frames: torch.Tensor) -> None:
    source = ArrayFrames(frames, 0)
    codebook, health = fit_rvq(source, SMALL, 3, Ranks(), CPU, heldout=ArrayFrames(frames[:300], 0))
    plain = fit_kmeans(source, SMALL, Ranks(), CPU)
    assert np.array_equal(codebook.arrays["centroids"][0], plain.centroids.numpy())
    inertias = [report["inertia"] for report in health["streams"]]
    assert inertias[0] > inertias[1] > inertias[2] == health["inertia"]
    found = reconstruction(source.chunks(), open_quantizer(codebook, CPU), Ranks(), CPU)
    assert found.error == pytest.approx(health["inertia"], rel=0.02)
    assert health["heldout_inertia"] == pytest.approx(health["inertia"], rel=0.3)
    assert len(health["perplexity"]) == 3 and all(1 < value <= 12 for value in health["perplexity"])


class Interrupted:
    """Frames whose n-th pass never comes."""

    def __init__(self, frames: torch.Tensor, passes: int) -> None:
        self._source, self._left = ArrayFrames(frames, 0), passes
        self.width, self.largest_key = self._source.width, self._source.largest_key
        self.num_frames = self._source.num_frames

    def chunks(self) -> Iterator[Chunk]:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._source.chunks()


def test_interrupted_in_any_stage_equals_uninterrupted(frames: torch.Tensor, fitted: Codebook, tmp_path: Path) -> None:
    stages_seen = set()
    for _ in range(30):
        try:
            codebook, _ = fit_rvq(Interrupted(frames, 2), SMALL, 3, Ranks(), CPU, checkpoint=tmp_path)
            break
        except KeyboardInterrupt:
            stages_seen.add(len(list(tmp_path.glob("stage*"))))
    assert stages_seen >= {1, 2}
    assert codebook.sha256 == fitted.sha256


def test_errors_are_named(frames: torch.Tensor, fitted: Codebook) -> None:
    with pytest.raises(ConfigError, match="8 frames cannot make 12 centroids"):
        fit_rvq(ArrayFrames(frames[:8], 0), SMALL, 2, Ranks(), CPU)
    broken = frames.clone()
    broken[3, 3] = float("nan")
    with pytest.raises(ConfigError, match="NaN or infinite"):
        fit_rvq(ArrayFrames(broken, 0), SMALL, 2, Ranks(), CPU)
    quantizer = open_quantizer(fitted, CPU)
    with pytest.raises(ConfigError, match="not finite"):
        quantizer.encode(broken)
    with pytest.raises(ConfigError, match=r"frames are \(N, 20\)"):
        quantizer.encode(frames[:, :5])


def test_fewer_streams_are_allowed_where_that_is_said() -> None:
    two = torch.tensor([[1, 2]])
    check_codes(two, (3, 3, 3), fewer=True)
    with pytest.raises(ConfigError, match=r"codes are \(frames, 3\)"):
        check_codes(two, (3, 3, 3))
    with pytest.raises(ConfigError, match="token 3 of stream 1"):
        check_codes(torch.tensor([[1, 3]]), (3, 3, 3), fewer=True)
    with pytest.raises(ConfigError, match=r"codes are \(frames, 3\)"):
        check_codes(torch.zeros(2, 4, dtype=torch.int64), (3, 3, 3), fewer=True)
