"""Random-projection quantizer: tokens equal loops over the paper's definition, seeds decide, chunks do not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference_quantizers import projected_code
from tests.toy_frames import gaussian_frames, structured_frames
from voxtok.manifests.codebook import Codebook
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.frames import ArrayFrames
from voxtok.tokenize.quantizer import open_quantizer
from voxtok.tokenize.random_projection import fit_random_projection

CPU = torch.device("cpu")


def fit(frames: torch.Tensor, vocab_size: int = 30, streams: int = 2, seed: int = 0) -> Codebook:
    return fit_random_projection(ArrayFrames(frames, 0), vocab_size, streams, seed, Ranks(), CPU)[0]


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return structured_frames(1500, 24, 1)


def test_tokens_equal_loops(frames: torch.Tensor) -> None:
    codebook = fit(frames)
    mean, deviation = frames.double().mean(0).tolist(), frames.double().std(0, unbiased=False).tolist()
    codes = open_quantizer(codebook, CPU).encode(frames[:120])
    assert codes.shape == (120, 2)
    for stream in range(2):
        projection, vectors = (codebook.arrays[name][stream].tolist() for name in ("projections", "codes"))
        expected = [projected_code(frame, mean, deviation, projection, vectors) for frame in frames[:120].tolist()]
        assert codes[:, stream].tolist() == expected


def test_statistics_and_draws(frames: torch.Tensor) -> None:
    arrays = fit(frames, vocab_size=4000).arrays
    np.testing.assert_allclose(arrays["mean"], frames.double().mean(0), rtol=1e-5)
    np.testing.assert_allclose(arrays["deviation"], frames.double().std(0, unbiased=False), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(arrays["codes"], axis=2), 1, rtol=1e-6)
    assert abs(arrays["codes"].mean()) < 0.01
    assert 0.95 * (6 / 40) ** 0.5 < np.abs(arrays["projections"]).max() <= (6 / 40) ** 0.5


@given(cuts=st.lists(st.integers(0, 300), max_size=6), seed=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_tokens_do_not_depend_on_chunks(cuts: list[int], seed: int) -> None:
    frames = gaussian_frames(300, 24, seed)
    quantizer = open_quantizer(fit(frames), CPU)
    parts = [quantizer.encode(part) for part in frames.tensor_split(sorted(cuts))]
    assert torch.equal(torch.cat(parts), quantizer.encode(frames))


def test_the_length_of_a_normalised_frame_changes_nothing(frames: torch.Tensor) -> None:
    centred = frames - frames.double().mean(0).float()
    quantizer = open_quantizer(fit(centred), CPU)
    assert torch.equal(quantizer.encode(centred * 3), quantizer.encode(centred))


def test_seeds_decide(frames: torch.Tensor) -> None:
    assert fit(frames).sha256 == fit(frames).sha256 != fit(frames, seed=1).sha256


def test_decoded_frames_have_their_tokens(frames: torch.Tensor) -> None:
    """With no more than D projected dimensions a frame exists whose projections are the codes; decode finds it."""
    quantizer = open_quantizer(fit(frames, streams=1), CPU)
    codes = torch.arange(30)[:, None]
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_constant_dimensions_are_taken() -> None:
    frames = gaussian_frames(200, 20, 1)
    frames[:, 4] = 7.7
    codebook = fit(frames)
    assert codebook.arrays["deviation"][4] == 1
    assert len(open_quantizer(codebook, CPU).encode(frames)[:, 0].unique()) > 10


def test_errors_are_named(frames: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="no frames"):
        fit(frames[:0])
    quantizer = open_quantizer(fit(frames), CPU)
    broken = frames.clone()
    broken[3, 3] = float("nan")
    with pytest.raises(ConfigError, match="not finite"):
        quantizer.encode(broken)
    with pytest.raises(ConfigError, match="NaN or infinite"):
        fit(broken)
    with pytest.raises(ConfigError, match=r"frames are \(N, 24\)"):
        quantizer.encode(frames[:, :16])
