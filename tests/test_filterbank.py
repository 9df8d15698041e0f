"""Filter banks: equal to loops, to torchaudio's Kaldi, and the same in any batch."""

from collections.abc import Callable

import pytest
import torch
import torchaudio

from tests.reference_filterbank import Array, logmel, mfcc
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.filterbank import FILTERBANKS, deltas, load_filterbank
from voxtok.tokenize.upstream import Upstream

CPU = torch.device("cpu")


def noise(num_samples: int, seed: int = 0) -> torch.Tensor:
    """Noise of a varying level with a spectral slope and a DC offset, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(num_samples, generator=generator)
    level = 0.05 * (1 + torch.sin(torch.arange(num_samples) / 3000))
    return 0.02 + level * (white + white.roll(1))


def frames_of(upstream: Upstream, waveform: torch.Tensor) -> torch.Tensor:
    features, counts = upstream.extract(waveform[None], torch.tensor([len(waveform)]), [0])
    assert counts.tolist() == [upstream.num_frames(len(waveform))]
    return features[0][0]


@pytest.mark.parametrize(("name", "oracle", "width"), [("mfcc", mfcc, 39), ("logmel", logmel, 80)])
def test_frames_equal_the_loops(name: str, oracle: Callable[[Array], Array], width: int) -> None:
    waveform = noise(2345)
    upstream = load_filterbank(name, CPU)
    expected = torch.from_numpy(oracle(waveform.double().numpy()))
    assert upstream.width == width and expected.shape == (13, width)
    torch.testing.assert_close(frames_of(upstream, waveform).double(), expected, rtol=1e-4, atol=1e-3)


def test_mfcc_is_fairseqs_recipe() -> None:
    """torchaudio's Kaldi MFCC on samples in [-1, 1] without energy, then its deltas twice."""
    waveform = noise(50_000)
    static = torchaudio.compliance.kaldi.mfcc(waveform[None], sample_frequency=16000, use_energy=False).T
    first = torchaudio.functional.compute_deltas(static)
    expected = torch.cat([static, first, torchaudio.functional.compute_deltas(first)]).T
    torch.testing.assert_close(frames_of(load_filterbank("mfcc", CPU), waveform), expected, rtol=1e-4, atol=1e-3)


def test_logmel_is_kaldis() -> None:
    waveform = noise(50_000)
    expected = torchaudio.compliance.kaldi.fbank(waveform[None], sample_frequency=16000, num_mel_bins=80)
    torch.testing.assert_close(frames_of(load_filterbank("logmel", CPU), waveform), expected, rtol=1e-4, atol=1e-3)


def test_deltas_by_hand() -> None:
    """0 1 2 3 4, edges repeated: at 0 (1*(1-0) + 2*(2-0))/10 = 0.5, at 1 (1*(2-0) + 2*(3-0))/10 = 0.8, then 1."""
    ramp = torch.arange(5.0)[:, None]
    torch.testing.assert_close(deltas(ramp)[:, 0], torch.tensor([0.5, 0.8, 1.0, 0.8, 0.5]))


@pytest.mark.parametrize("name", FILTERBANKS)
def test_batch_mates_and_padding_change_nothing(name: str) -> None:
    upstream = load_filterbank(name, CPU)
    lengths = [400, 401, 559, 560, 16_000, 70_000]
    batch = torch.full((len(lengths), 80_000), torch.nan)
    for row, length in zip(batch, lengths, strict=True):
        row[:length] = noise(length, seed=length)
    features, counts = upstream.extract(batch, torch.tensor(lengths), [0])
    assert counts.tolist() == [1, 1, 1, 2, 98, 436]
    for got, count, length in zip(features[0], counts, lengths, strict=True):
        assert torch.equal(got[:count], frames_of(upstream, noise(length, seed=length)))
        assert not got[count:].any()


def test_a_frame_is_the_same_wherever_it_lies() -> None:
    """So that windows of a long file equal the whole file bit for bit, even where BLAS rounds by matrix size."""
    upstream = load_filterbank("logmel", CPU)
    waveform = noise(160 * 700)
    whole = frames_of(upstream, waveform)
    for first in range(0, 600, 7):
        for num_frames in (1, 2, 3, 50):
            part = frames_of(upstream, waveform[160 * first : 160 * (first + num_frames - 1) + 400])
            assert torch.equal(part, whole[first : first + num_frames])


def test_digital_silence_is_finite() -> None:
    for name in FILTERBANKS:
        assert frames_of(load_filterbank(name, CPU), torch.zeros(8000)).isfinite().all()


def test_the_number_of_frames_is_that_of_whole_windows() -> None:
    upstream = load_filterbank("mfcc", CPU)
    for num_samples in range(1200):
        starts = [start for start in range(0, num_samples, 160) if start + 400 <= num_samples]
        assert upstream.num_frames(num_samples) == len(starts)


def test_another_layer_or_name_or_a_short_waveform_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mfcc has layer 0 only, not \[6\]"):
        load_filterbank("mfcc", CPU).extract(torch.zeros(1, 800), torch.tensor([800]), [0, 6])
    with pytest.raises(ConfigError, match="399 samples are too short: one frame needs 400"):
        load_filterbank("mfcc", CPU).extract(torch.zeros(2, 800), torch.tensor([800, 399]), [0])
    with pytest.raises(ConfigError, match="plp"):
        load_filterbank("plp", CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", FILTERBANKS)
def test_cuda_equals_the_cpu(name: str) -> None:
    waveform = noise(400_000)
    got = frames_of(load_filterbank(name, torch.device("cuda")), waveform).cpu()
    torch.testing.assert_close(got, frames_of(load_filterbank(name, CPU), waveform), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(("name", "plain", "static"), [("mfcc-cmn", "mfcc", 13), ("logmel-cmn", "logmel", 80)])
def test_the_mean_of_loud_frames_is_subtracted(name: str, plain: str, static: int) -> None:
    """Weighted by each window's RMS, by the definition; differences over time stay as they are."""
    waveform = torch.randn(8000, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.01, 0.3, 8000)
    frames, found = (frames_of(load_filterbank(which, CPU), waveform) for which in (plain, name))
    windows = [waveform[160 * i : 160 * i + 400] for i in range(len(frames))]
    weights = [float((window - window.mean()).square().mean().sqrt()) for window in windows]
    mean = sum(weight * frame for weight, frame in zip(weights, frames, strict=True)) / sum(weights)
    torch.testing.assert_close(found[:, :static], frames[:, :static] - mean[:static], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[:, static:], frames[:, static:], rtol=1e-3, atol=1e-3)


def test_the_mean_of_a_recording_is_that_of_its_chunks() -> None:
    waveform = torch.randn(8000, generator=torch.Generator().manual_seed(0)) * 0.1
    bank = load_filterbank("mfcc-cmn", CPU)
    sums = bank.statistics(iter(waveform.split(777)))
    torch.testing.assert_close(sums, bank.statistics([waveform]))
    window, _ = bank.extract(waveform[None, 1600:4800], torch.tensor([3200]), [0], [sums])
    torch.testing.assert_close(window[0][0, 4:10], frames_of(bank, waveform)[14:20], rtol=1e-4, atol=1e-3)
