"""Cuts to features: one bad utterance is named and the others come out as they would without it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse.cut import MonoCut

from tests.toy_corpus import RATE, toy_speech, write_toy_corpus
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.errors import BadAudio, ConfigError, OutOfMemory
from voxtok.tokenize import load
from voxtok.tokenize.extract import ExtractConfig, _finite, extract, extract_arrays
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.windows import WindowConfig

WINDOWS = WindowConfig(window_s=2.0, overlap_s=0.5)


def mfcc(features: dict[int, torch.Tensor]) -> torch.Tensor:
    return features[0]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("huge", [1, 3])
def test_one_file_of_huge_samples_stopped_the_whole_corpus(tmp_path: Path, batched: bool, huge: int) -> None:
    """1e25 is a finite sample whose power is not; file 1 is computed whole, file 3 in windows."""
    cuts = list(load_cuts(write_toy_corpus(tmp_path, [0.5, 0.7, 0.6, 2.5, 0.4])))
    upstream = load_upstream("mfcc", device="cpu")
    config = ExtractConfig(windows=WINDOWS, batched=batched)
    before = [found for _, found in extract(cuts, upstream, [0], mfcc, config)]
    path = tmp_path / "audio" / f"utt00{huge}.wav"
    soundfile.write(path, soundfile.read(path)[0] * 1e25, RATE, subtype="FLOAT")
    for i, (cut, found) in enumerate(extract(cuts, upstream, [0], mfcc, config)):
        if i == huge:
            assert isinstance(found, BadAudio) and (found.cut_id, found.reason) == (cut.id, "non-finite")
        else:
            expected = before[i]
            assert isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor)
            assert torch.equal(found, expected)


@pytest.mark.parametrize("duration_s", [0.5, 2.5])
def test_huge_samples_in_memory_are_a_named_error(duration_s: float) -> None:
    upstream = load_upstream("mfcc", device="cpu")
    utterances = [toy_speech(0.5, seed=0)[0], toy_speech(duration_s, seed=1)[0] * np.float32(1e25)]
    with pytest.raises(ConfigError, match="utterance 1: the model's features are NaN, infinite"):
        extract_arrays(utterances, upstream, [0], mfcc, ExtractConfig(windows=WINDOWS))


@pytest.mark.parametrize("duration_s", [0.5, 2.5])
def test_a_cut_without_recording_crashed_the_corpus(tmp_path: Path, duration_s: float) -> None:
    good = list(load_cuts(write_toy_corpus(tmp_path, [0.5, 0.7])))
    cuts = [good[0], MonoCut(id="bare", start=0, duration=duration_s, channel=0), good[1]]
    results = extract(cuts, load_upstream("mfcc", device="cpu"), [0], mfcc, ExtractConfig(windows=WINDOWS))
    found = [result.row() if isinstance(result, BadAudio) else len(result) for _, result in results]
    assert found == [48, {"id": "bare", "reason": "missing", "detail": "the cut has no recording"}, 68]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("room_s", [0.65, 1.0])
def test_an_utterance_that_memory_does_not_hold_stopped_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batched: bool, room_s: float
) -> None:
    """0.7 s alone is too much at first, and then batches only: without windows, and in windows of 2 s."""
    cuts = list(load_cuts(write_toy_corpus(tmp_path, [0.5, 0.7, 0.6, 2.5, 0.4])))
    upstream = load_upstream("mfcc", device="cpu")
    config = ExtractConfig(windows=WINDOWS, batched=batched)
    expected = [found for _, found in extract(cuts, upstream, [0], mfcc, config)]
    whole = upstream.extract

    def extract_some(waveforms: torch.Tensor, *rest: Any) -> Any:
        if waveforms.numel() > room_s * RATE:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(waveforms, *rest)

    monkeypatch.setattr(upstream, "extract", extract_some)
    for i, (cut, found) in enumerate(extract(cuts, upstream, [0], mfcc, config)):
        if cut.duration > room_s:
            assert isinstance(found, BadAudio) and (found.cut_id, found.reason) == (cut.id, "too long")
            assert "window_s" in found.detail
        else:
            before = expected[i]
            assert isinstance(found, torch.Tensor) and isinstance(before, torch.Tensor)
            assert torch.equal(found, before)
    with pytest.raises(OutOfMemory, match="window_s"):
        extract_arrays([toy_speech(1.5, seed=0)[0]], upstream, [0], mfcc, config)


def test_finite_features_too_large_to_compare_are_not_used() -> None:
    """1e20 is a float32 number; its square, which distances are made of, is not."""
    features = {1: torch.tensor([[1.0, -2.0], [1e20, 0.0], [np.nan, 0.0]]), 2: torch.ones(3, 2)}
    assert _finite(features).tolist() == [True, False, False]


def test_tf32_changed_tokens_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    monkeypatch.setattr(load, "_load", lambda *_: None)
    load.load_upstream("mfcc", device="cuda")
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
