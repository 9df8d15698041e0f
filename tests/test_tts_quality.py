"""Scores of spoken sentences: warped pitch and cepstra, durations, voices, failures."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from lhotse import CutSet, Recording, SupervisionSegment

from tests.toy_corpus import RATE, toy_speech
from voxtok.runtime.errors import ConfigError, ManifestError
from voxtok.runtime.files import read_json, write_json
from voxtok.tts.tts_quality import TtsQualityConfig, main, tts_quality
from voxtok.tts.warping import cheapest_path, warped_pitch_errors


def folder_of(folder: Path, waveforms: dict[str, np.ndarray]) -> Path:
    """As `voxtok say` writes it; the second sentence failed."""
    folder.mkdir()
    cuts = []
    for index, (name, samples) in enumerate(waveforms.items()):
        sf.write(folder / f"{name}.wav", samples, RATE)
        cut = Recording.from_file(folder / f"{name}.wav", recording_id=name).to_cut()
        custom = {"failure": "loop" if index == 1 else None}
        cut.supervisions = [SupervisionSegment(name, name, 0, cut.duration, text="a", custom=custom)]
        cuts.append(cut)
    CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    write_json(folder / "summary.json", {"utterances": len(cuts), "rejected": 0, "real_time_factor": 0.25})
    return folder


def stretched(samples: np.ndarray, times: int) -> np.ndarray:
    """Every 20 ms repeated: the same sounds at the same pitch, slower."""
    size = len(samples) // 320 * 320
    return np.repeat(samples[:size].reshape(-1, 320), times, axis=0).reshape(-1).astype(np.float32)


def test_the_path_worked() -> None:
    rows, columns = cheapest_path(np.array([[0.0, 4.0], [1.0, 1.0], [3.0, 0.0]]))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (1, 0), (2, 1)]


def test_the_path_is_the_cheapest_of_all() -> None:
    """Against the recurrence, cell by cell."""
    rng = np.random.default_rng(0)
    for n, m in [(1, 1), (1, 5), (4, 1), (5, 7), (9, 6)]:
        cost = rng.random((n, m))
        total = np.full((n, m), np.inf)
        for i in range(n):
            for j in range(m):
                before = [total[a, b] for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if a >= 0 and b >= 0]
                total[i, j] = cost[i, j] + (min(before) if before else 0)
        rows, columns = cheapest_path(cost)
        assert cost[rows, columns].sum() == pytest.approx(total[-1, -1])
        assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, n - 1, m - 1)
        assert set(zip(np.diff(rows).tolist(), np.diff(columns).tolist(), strict=True)) <= {(1, 1), (1, 0), (0, 1)}


def test_speech_with_a_pause_in_it_has_the_pitch_it_had() -> None:
    """Frame by frame all that follows the pause would be compared with something else."""
    real = toy_speech(1.5, seed=1)[0]
    paused = np.insert(real, RATE // 2, np.zeros(RATE // 2)).astype(np.float32)
    found = warped_pitch_errors(real, paused, RATE)
    assert found.log_f0_rmse is not None and found.log_f0_rmse < 0.1
    other = warped_pitch_errors(real, toy_speech(1.5, seed=3)[0], RATE)
    assert other.log_f0_rmse is not None and other.log_f0_rmse > 2 * found.log_f0_rmse


def test_scores_of_a_folder(tmp_path: Path) -> None:
    real = {name: toy_speech(1.5, seed=seed)[0] for seed, name in enumerate(["a", "b", "c"])}
    recordings = folder_of(tmp_path / "real", real)
    same = folder_of(tmp_path / "same", real)
    slow = folder_of(tmp_path / "slow", {name: stretched(samples, 2) for name, samples in real.items()})
    voices = (str(tmp_path / "real" / "a.wav"), str(tmp_path / "real" / "b.wav"))
    scores = {}
    for folder in (same, slow):
        out = tmp_path / f"{folder.name}.json"
        words = ["--said", str(folder), "--reference", str(recordings), "--out", str(out), "--voices", ",".join(voices)]
        assert main([*words, "--device", "cpu"]) == 0
        scores[folder.name] = read_json(out)
    report = scores["same"]
    assert report["sentences"] == report["compared"] == 3
    assert report["failures"]["loop"] == 1 and report["failures"]["silence"] == 0
    assert report["real_time_factor"] == 0.25
    assert report["scores"]["mcd_db"] == pytest.approx(0, abs=1e-3)
    assert report["scores"]["log_f0_rmse"] == pytest.approx(0, abs=1e-6)
    assert report["scores"]["duration_error"] == 0 and report["scores"]["speaker_similarity"] == pytest.approx(1)
    assert report["rows"][0][f"similarity {voices[0]}"] == pytest.approx(1)
    assert report["rows"][0][f"similarity {voices[1]}"] < 0.999
    assert scores["slow"]["scores"]["duration_ratio"] == pytest.approx(2, abs=0.05)
    assert scores["slow"]["scores"]["mcd_db"] > 0.1


def test_sentences_without_recordings_have_failures_alone(tmp_path: Path) -> None:
    said = folder_of(tmp_path / "said", {name: toy_speech(1.0, seed=1)[0] for name in "ab"})
    report = tts_quality(TtsQualityConfig(said=str(said), out=str(tmp_path / "a.json"), device="cpu"))
    assert report["scores"] == {} and report["compared"] == 0 and report["failures"]["loop"] == 1
    other = folder_of(tmp_path / "other", {"c": toy_speech(1.0, seed=1)[0]})
    with pytest.raises(ConfigError, match="no sentence"):
        tts_quality(TtsQualityConfig(said=str(said), reference=str(other), out=str(tmp_path / "a.json"), device="cpu"))
    with pytest.raises(ManifestError, match="not a finished folder"):
        tts_quality(TtsQualityConfig(said=str(tmp_path), out=str(tmp_path / "a.json")))
