"""Product quantization, plain and rotated: labels equal loops, layers keep apart, rotations help."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference_quantizers import nearest_of, product_codes
from tests.toy_frames import gaussian_frames, structured_frames
from voxtok.manifests.codebook import Codebook
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.frames import ArrayFrames
from voxtok.tokenize.kmeans import fit_kmeans
from voxtok.tokenize.kmeans_state import KMeansConfig
from voxtok.tokenize.opq import RotatedProduct, allocation, fit_opq, learn_rotation, shared_components
from voxtok.tokenize.pq import ProductKMeans, fit_pq
from voxtok.tokenize.quantizer import open_quantizer
from voxtok.tokenize.reconstruction import reconstruction

CPU = torch.device("cpu")
SMALL = KMeansConfig(vocab_size=10, passes=3)


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return structured_frames(2000, 24, 1)


def test_codes_and_vectors_equal_loops(frames: torch.Tensor) -> None:
    codebook, _ = fit_pq(ArrayFrames(frames, 0), SMALL, 4, Ranks(), CPU)
    quantizer = open_quantizer(codebook, CPU)
    assert quantizer.vocab_sizes == (10,) * 4 and quantizer.width == 24
    streams = codebook.arrays["centroids"]
    codes = quantizer.encode(frames[:150])
    assert codes.tolist() == [product_codes(frame, streams.tolist()) for frame in frames[:150].tolist()]
    expected = np.concatenate([streams[s][codes[:, s].numpy()] for s in range(4)], axis=1)
    assert np.array_equal(quantizer.decode(codes).numpy(), expected)


def test_every_stream_is_the_kmeans_of_its_dimensions(frames: torch.Tensor) -> None:
    """As for layers side by side: each gets the codebook that it would get alone."""
    codebook, health = fit_pq(ArrayFrames(frames, 0), SMALL, 3, Ranks(), CPU, heldout=ArrayFrames(frames[:200], 0))
    for stream, centroids in enumerate(codebook.arrays["centroids"]):
        alone = fit_kmeans(ArrayFrames(frames[:, 8 * stream :][:, :8].contiguous(), 0), SMALL, Ranks(), CPU)
        assert np.array_equal(centroids, alone.centroids.numpy())
    found = reconstruction(ArrayFrames(frames, 0).chunks(), open_quantizer(codebook, CPU), Ranks(), CPU)
    assert found.error == pytest.approx(health["inertia"], rel=0.02)
    assert 0 < found.relative < 1
    assert health["heldout_inertia"] == pytest.approx(health["inertia"], rel=0.3)


def test_reconstruction_equals_numpy(frames: torch.Tensor) -> None:
    quantizer = ProductKMeans(gaussian_frames(3 * 5, 8, 1).reshape(3, 5, 8), CPU)
    found = reconstruction(ArrayFrames(frames, 0).chunks(), quantizer, Ranks(), CPU)
    exact = frames.double().numpy()
    decoded = quantizer.decode(quantizer.encode(frames)).double().numpy()
    assert found.error == pytest.approx(((exact - decoded) ** 2).sum(axis=1).mean())
    assert found.variance == pytest.approx(exact.var(axis=0).sum())
    assert [int(sizes.sum()) for sizes in found.sizes] == [2000] * 3


@given(cuts=st.lists(st.integers(0, 300), max_size=6), seed=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_codes_do_not_depend_on_chunks(cuts: list[int], seed: int) -> None:
    frames = gaussian_frames(300, 24, seed)
    vectors = gaussian_frames(3 * 7, 24, 20).reshape(3, 7, 24)
    for quantizer in (ProductKMeans(vectors[:, :, :8].contiguous(), CPU), RotatedProduct(vectors, CPU)):
        parts = [quantizer.encode(part) for part in frames.tensor_split(sorted(cuts))]
        assert torch.equal(torch.cat(parts), quantizer.encode(frames))


def test_rotated_labels_are_those_of_rotated_frames(frames: torch.Tensor) -> None:
    """The nearest R c to x among vectors is the nearest c to R'x among centroids."""
    rotation = shared_components(frames, 3)
    centroids = gaussian_frames(3 * 9, 8, 2).reshape(3, 9, 8) * 3
    vectors = torch.bmm(centroids, rotation.T.reshape(3, 8, 24))
    rotated = frames[:150] @ rotation
    found = RotatedProduct(vectors, CPU)
    codes = found.encode(frames[:150])
    for stream in range(3):
        parts = rotated[:, 8 * stream :][:, :8].tolist()
        assert codes[:, stream].tolist() == [nearest_of(part, centroids[stream].tolist()) for part in parts]
    back = torch.cat([centroids[s][codes[:, s]] for s in range(3)], dim=1) @ rotation.T
    torch.testing.assert_close(found.decode(codes), back, rtol=1e-5, atol=1e-4)


def test_allocation_worked_example() -> None:
    assert allocation([1.0, 4.0, 8.0, 2.0], 2) == [[2, 0], [1, 3]]
    shared = allocation([0.0, 0.0, 3.0, 1.0, 1.0, 2.0], 3)
    assert sorted(index for stream in shared for index in stream) == list(range(6))


def test_a_rotation_is_one_and_errs_less_than_plain_streams() -> None:
    """Dimensions in order of variance: plain streams are unequal, components shared out are not."""
    frames = gaussian_frames(3000, 16, 1) * torch.arange(1, 17) ** -1.0
    frames[:, 8:] += 0.8 * frames[:, :8]
    rotation = learn_rotation(frames, 4, 16, seed=0)
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(16), rtol=1e-4, atol=1e-4)
    config, source = KMeansConfig(vocab_size=16), ArrayFrames(frames, 0)
    errors = []
    for fit in (fit_pq, fit_opq):
        codebook, health = fit(source, config, 4, Ranks(), CPU)
        found = reconstruction(source.chunks(), open_quantizer(codebook, CPU), Ranks(), CPU)
        assert found.error == pytest.approx(health["inertia"], rel=0.02)
        errors.append(found.error)
    assert errors[1] < 0.8 * errors[0]


def test_a_rotation_once_learned_is_kept(frames: torch.Tensor, tmp_path: Path) -> None:
    source = ArrayFrames(frames, 0)
    whole, _ = fit_opq(source, SMALL, 3, Ranks(), CPU, checkpoint=tmp_path)
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(written) == {"rotation", "stream0", "stream1", "stream2"}
    (tmp_path / "stream2").unlink()
    again, _ = fit_opq(source, SMALL, 3, Ranks(), CPU, checkpoint=tmp_path)
    assert again.sha256 == whole.sha256
    assert (tmp_path / "rotation").stat().st_mtime_ns == written["rotation"]


def test_errors_are_named(frames: torch.Tensor) -> None:
    source = ArrayFrames(frames, 0)
    for fit in (fit_pq, fit_opq):
        with pytest.raises(ConfigError, match="24 dimensions cannot be split into 5 equal streams, but into: 2, 3, 4"):
            fit(source, SMALL, 5, Ranks(), CPU)
        with pytest.raises(ConfigError, match="6 frames cannot make 10 centroids"):
            fit(ArrayFrames(frames[:6], 0), SMALL, 3, Ranks(), CPU)
        broken = frames.clone()
        broken[3, 3] = float("nan")
        with pytest.raises(ConfigError, match="NaN or infinite"):
            fit(ArrayFrames(broken, 0), SMALL, 3, Ranks(), CPU)
    codebook = Codebook("pq", {}, {"centroids": np.zeros((3, 2, 8), np.float32)})
    with pytest.raises(ConfigError, match=r"frames are \(N, 24\)"):
        open_quantizer(codebook, CPU).encode(frames[:, :16])
