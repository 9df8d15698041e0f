"""Moments of a recording, against loops; and the parts of the network that no whole model shows alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from voxtok.tokenize.conv_front import convolve
from voxtok.tokenize.moments import Moments, gather
from voxtok.tokenize.position_conv import GroupedConv
from voxtok.tokenize.relative_position import RelativePosition, bucket


def test_moments_worked_by_hand() -> None:
    """Samples 1 2 3 4 5, windows of 2 at stride 2: (1, 2), (3, 4).

    Sums 5, 15, 55: mean 3, variance 11 - 9 = 2. Windows: mean (2, 3); E[w w'] = (5, 7; 7, 10): all covariances are 1.
    """
    moments = gather([torch.tensor([1.0, 2.0]), torch.tensor([3.0]), torch.tensor([4.0, 5.0])], 2, 2)
    assert moments.samples.tolist() == [5, 15, 55]
    assert [value.item() for value in moments.waveform()] == [3, 2]
    mean, covariance = moments.window()
    assert mean.tolist() == [2, 3]
    assert covariance.tolist() == [[1, 1], [1, 1]]


@given(
    st.lists(st.integers(min_value=0, max_value=40), min_size=1, max_size=6), st.sampled_from([(10, 5), (5, 3), (1, 1)])
)
def test_chunks_of_any_lengths_equal_a_loop_over_windows(lengths: list[int], shape: tuple[int, int]) -> None:
    """Windows that cross chunks count once, and samples after the last window in the waveform's sums only."""
    kernel, stride = shape
    chunks = [torch.randn(count, generator=torch.Generator().manual_seed(count)) for count in lengths]
    samples = torch.cat(chunks).double()
    expected = torch.zeros(kernel + 1, kernel + 1, dtype=torch.float64)
    for start in range(0, len(samples) - kernel + 1, stride):
        window = torch.cat([samples[start : start + kernel], torch.ones(1)])
        expected += torch.outer(window, window)
    found = gather(chunks, kernel, stride)
    torch.testing.assert_close(found.windows, expected)
    torch.testing.assert_close(found.samples[1:], torch.stack([samples.sum(), samples.square().sum()]))
    again = Moments.unpack(found.pack(), kernel)
    assert torch.equal(again.windows, found.windows)
    assert torch.equal(again.samples, found.samples)


def test_long_chunks_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded for an hour in one tensor, and the sums are the same."""
    samples = torch.randn(10_000)
    whole = gather([samples], 10, 5).pack()
    monkeypatch.setattr("voxtok.tokenize.moments.PIECE_SAMPLES", 77)
    torch.testing.assert_close(gather([samples], 10, 5).pack(), whole, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(("kernel", "stride"), [(10, 5), (3, 2), (2, 2), (2, 3), (5, 1), (7, 3)])
@pytest.mark.parametrize("frames", [10, 11, 12, 40])
def test_convolution_as_products_equals_conv1d(kernel: int, stride: int, frames: int) -> None:
    """Any kernel and stride, in a batch; and the bias is not written to."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, frames, 4, generator=generator)
    weight, bias = torch.randn(6, 4, kernel, generator=generator), torch.randn(6, generator=generator)
    expected = F.conv1d(inputs.transpose(1, 2), weight, bias, stride).transpose(1, 2)
    kept = bias.clone()
    found = convolve(inputs, weight.permute(2, 1, 0).reshape(-1, 6), bias, stride)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    without = convolve(inputs, weight.permute(2, 1, 0).reshape(-1, 6), None, stride)
    torch.testing.assert_close(without, expected - bias, rtol=1e-5, atol=1e-5)
    assert torch.equal(bias, kept)


@pytest.mark.parametrize("kernel", [1, 2, 15, 19, 128])
@pytest.mark.parametrize("frames", [1, 5, 64, 129, 400])
def test_convolution_by_fft_equals_conv1d(kernel: int, frames: int) -> None:
    """Odd and even kernels, shorter and longer than the utterance, over several transforms."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, frames, 12, generator=generator)
    weight, bias = torch.randn(12, 3, kernel, generator=generator), torch.randn(12, generator=generator)
    expected = F.conv1d(inputs.transpose(1, 2), weight, bias, padding=kernel // 2, groups=4).transpose(1, 2)
    torch.testing.assert_close(GroupedConv(weight, bias, 4)(inputs), expected[:, :frames], rtol=1e-4, atol=1e-4)


def test_buckets_worked_by_hand() -> None:
    """32 buckets, max_distance 80: a sign has 16, of which 8 are exact; -40 is 8 + floor(8 ln 5 / ln 10) = 13."""
    distances = torch.tensor([0, -3, 3, -7, -8, -40, 40, -79, -80, -5000, 5000])
    assert bucket(distances, 32, 80).tolist() == [0, 3, 19, 7, 8, 13, 29, 15, 15, 15, 31]


def test_relative_attention_equals_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores + gate x bias of the distance, softmax over the utterance's keys; queries at once or a few at a time."""
    heads, frames, size, valid = 2, 7, 3, (7, 4)
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, heads, frames, size, generator=generator)
    embedding, gate = torch.randn(8, heads, generator=generator), torch.rand(2, heads, frames, 1, generator=generator)
    padding = torch.arange(frames) >= torch.tensor(valid)[:, None]
    expected = torch.zeros(2, heads, frames, size)
    for row, length in enumerate(valid):
        for head in range(heads):
            for i in range(length):
                buckets = [int(bucket(torch.tensor(j - i), 8, 6)) for j in range(length)]
                scores = [
                    float(query[row, head, i] @ key[row, head, j]) / math.sqrt(size)
                    + float(gate[row, head, i, 0] * embedding[buckets[j], head])
                    for j in range(length)
                ]
                total = sum(math.exp(score) for score in scores)
                for j in range(length):
                    expected[row, head, i] += math.exp(scores[j]) / total * value[row, head, j]
    positions = RelativePosition(embedding, frames, 6)
    for limit in (1 << 20, 2 * heads * frames * 3, 1):
        monkeypatch.setattr("voxtok.tokenize.relative_position.MAX_SCORES", limit)
        found = positions.attend(query, key, value, gate, padding[:, None, None])
        for row, length in enumerate(valid):
            torch.testing.assert_close(found[row, :, :length], expected[row, :, :length], rtol=1e-4, atol=1e-5)
