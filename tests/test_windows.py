"""Windows of a long file: every frame once, at its place, and equal to the whole file where nothing reaches further."""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_models import save_tiny
from voxtok.runtime.errors import ConfigError, OutOfMemory
from voxtok.tokenize.filterbank import FILTERBANKS, load_filterbank
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.windows import Window, WindowConfig, extract_long, extract_samples, plan_windows

CPU = torch.device("cpu")
TWO_SECONDS = WindowConfig(window_s=2.0, overlap_s=0.5)


def noise(num_samples: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(0.3, 0.1, num_samples).astype(np.float32)


class MeanFrames:
    """An upstream whose frames are means over 400 samples of the recording, normalised over all of it."""

    sampling_rate = 16000
    hop_samples = 320
    min_samples = 400
    num_layers = 1
    width = 1
    device = CPU

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {"family": "means"}
        self.longest = 0
        self.whole = 0

    def num_frames(self, num_samples: int) -> int:
        return max(0, (num_samples - 400) // 320 + 1)

    def statistics(self, chunks: Iterable[torch.Tensor]) -> torch.Tensor:
        sums = torch.zeros(3, dtype=torch.float64)
        for chunk in chunks:
            wide = chunk.double()
            sums += torch.stack([torch.tensor(float(len(chunk))).double(), wide.sum(), wide.square().sum()])
        return sums

    def extract(
        self,
        waveforms: torch.Tensor,
        lengths: torch.Tensor,
        layers: Sequence[int],
        statistics: Sequence[torch.Tensor] | None = None,
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        assert len(waveforms) == 1 and waveforms.shape[1] == int(lengths[0])
        self.longest = max(self.longest, int(lengths[0]))
        self.whole += statistics is None
        count, total, squares = (self.statistics([waveforms[0]]) if statistics is None else statistics[0]).tolist()
        mean = total / count
        means = (waveforms[0].unfold(0, 400, 320).double().mean(1) - mean) / (squares / count - mean**2) ** 0.5
        return {layer: (means + layer).float()[None, :, None] for layer in layers}, torch.tensor([len(means)])


def test_a_plan_by_hand() -> None:
    """Windows of 10 frames, 2 of context on either side, so a step of 6; 18-28 would overrun, so 13-23 is last."""
    assert plan_windows(23, 10, 2) == [
        Window(0, 10, 0, 8),
        Window(6, 16, 8, 14),
        Window(12, 22, 14, 20),
        Window(13, 23, 20, 23),
    ]
    assert plan_windows(22, 10, 2)[-1] == Window(12, 22, 14, 22)
    assert plan_windows(7, 10, 2) == [Window(0, 7, 0, 7)]


@given(st.integers(1, 500), st.integers(0, 20), st.integers(1, 60))
def test_a_plan_uses_every_frame_once_with_its_context(num_frames: int, context: int, step: int) -> None:
    windows = plan_windows(num_frames, step + 2 * context, context)
    used = [frame for window in windows for frame in range(window.keep_from, window.keep_to)]
    assert used == list(range(num_frames))
    for window in windows:
        assert window.last - window.first == min(step + 2 * context, num_frames)
        assert window.keep_from - window.first >= context or window.keep_from == window.first == 0
        assert window.last - window.keep_to >= context or window.keep_to == window.last == num_frames


@pytest.mark.parametrize("name", FILTERBANKS)
@pytest.mark.parametrize("windows", [TWO_SECONDS, WindowConfig(window_s=1.5, overlap_s=0.1)])
@pytest.mark.parametrize("num_samples", [400, 24_000, 31_999, 32_000, 32_160, 32_320, 100_001, 160_399, 160_400])
def test_filter_banks_in_windows_equal_the_whole_file(name: str, windows: WindowConfig, num_samples: int) -> None:
    upstream = load_filterbank(name, CPU)
    samples = noise(num_samples)
    whole = extract_samples(upstream, samples, [0], None)[0]
    assert len(whole) == upstream.num_frames(num_samples)
    assert torch.equal(extract_samples(upstream, samples, [0], windows)[0], whole)


@settings(max_examples=30, deadline=None)
@given(st.integers(400, 200_000), st.floats(0.3, 3.0), st.floats(0.1, 0.9))
def test_normalised_frames_in_windows_equal_the_whole_file(num_samples: int, window_s: float, share: float) -> None:
    """The noise has a mean of 0.3 that only statistics of the whole file remove alike in every window."""
    windows = WindowConfig(window_s=window_s, overlap_s=max(0.1, share * window_s / 2))
    samples = noise(num_samples)
    upstream = MeanFrames()
    whole = extract_samples(upstream, samples, [0, 1], None)
    upstream.longest = 0
    features = extract_samples(upstream, samples, [0, 1], windows)
    assert features.keys() == {0, 1}
    for layer in (0, 1):
        torch.testing.assert_close(features[layer], whole[layer], rtol=0, atol=1e-5)
    assert upstream.longest <= max(window_s * 16000, 400) + 320, "no more than a window at a time"


def test_frames_come_in_order_with_their_positions() -> None:
    upstream = MeanFrames()
    samples = noise(150_000)
    parts = list(extract_long(upstream, lambda start, stop: samples[start:stop], len(samples), [1], TWO_SECONDS))
    assert len(parts) > 3
    expected = 0
    for position, features in parts:
        assert position == expected
        expected += len(features[1])
    assert expected == upstream.num_frames(150_000)


@pytest.mark.parametrize(("num_samples", "whole"), [(32_000, 1), (32_079, 1), (32_080, 0)])
def test_a_recording_that_fits_one_window_is_computed_whole(num_samples: int, whole: int) -> None:
    """Windows of 2 s have (32000 - 400) // 320 + 1 = 99 frames; the 100th needs 32080 samples."""
    upstream = MeanFrames()
    extract_samples(upstream, noise(num_samples), [0], TWO_SECONDS)
    assert upstream.whole == whole


def test_impossible_windows_and_reads_are_refused() -> None:
    for window_s, overlap_s in [(2.0, 0.05), (2.0, 1.1), (-1.0, 0.5), (float("nan"), 1.0)]:
        with pytest.raises(ConfigError, match=r"overlap_s must be between 0\.1 and half of window_s"):
            WindowConfig(window_s=window_s, overlap_s=overlap_s)
    with pytest.raises(ConfigError, match=r"samples 0 \.\. 31680 were asked for and \(31679,\) read"):
        list(extract_long(MeanFrames(), lambda start, stop: noise(stop - start - 1), 99_000, [0], TWO_SECONDS))


def test_a_window_that_does_not_fit_in_memory_names_the_option() -> None:
    class Full(MeanFrames):
        def extract(self, *args: Any, **kwargs: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(OutOfMemory, match="window_s"):
        extract_samples(Full(), noise(99_000), [0], TWO_SECONDS)


@pytest.mark.parametrize("kind", ["hubert-base", "hubert-large", "wavlm-base", "data2vec-audio"])
def test_only_the_reach_of_attention_tells_windows_from_the_whole_file(kind: str, tmp_path: Path) -> None:
    """Block 1's input reaches 64 frames through the positional convolution, less than half of an overlap of 4 s.

    The noise has a mean and a rising level, so waveform normalisation and group norm over a window alone would differ.
    """
    upstream = load_upstream(str(save_tiny(kind, tmp_path)), device="cpu")
    samples = noise(400_000) * np.linspace(0.2, 1.0, 400_000, dtype=np.float32)
    whole = extract_samples(upstream, samples, [0, 3], None)
    windows = extract_samples(upstream, samples, [0, 3], WindowConfig(window_s=10.0, overlap_s=4.0))
    size = whole[0].std(dim=0).max()
    assert float((windows[0] - whole[0]).abs().max() / size) < 1e-4
    assert windows[3].shape == whole[3].shape
    beginning = extract_samples(upstream, samples[:160_000], [0], None)[0]
    assert float((beginning - whole[0][: len(beginning)]).abs().max() / size) > 1e-2, "statistics matter here"


HOUR = """
import re
import numpy as np, torch
from voxtok.tokenize.filterbank import load_filterbank
from voxtok.tokenize.windows import WindowConfig, extract_long, extract_samples

def peak_mb():  # not ru_maxrss, which begins with that of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

def read(start, stop):
    return np.sin(np.arange(start, stop) % 9973, dtype=np.float32)

torch.set_num_threads(1)
upstream = load_filterbank("mfcc", torch.device("cpu"))
extract_samples(upstream, read(0, 480_000), [0], None)
before = peak_mb()
num_samples = 3600 * 16000
windows = WindowConfig(window_s=30.0, overlap_s=1.0)
frames = sum(len(part[0]) for _, part in extract_long(upstream, read, num_samples, [0], windows))
assert frames == upstream.num_frames(num_samples)
windowed = peak_mb() - before
extract_samples(upstream, read(0, num_samples), [0], None)
print(windowed, peak_mb() - before)
"""


def test_an_hour_takes_the_memory_of_a_window() -> None:
    """The samples alone are 230 MB and the frames 56 MB; both must be seen in the whole pass, not in the windows."""
    run = subprocess.run([sys.executable, "-c", HOUR], capture_output=True, text=True, check=True)
    windowed_mb, whole_mb = map(float, run.stdout.split())
    assert windowed_mb < 40
    assert whole_mb > 290
