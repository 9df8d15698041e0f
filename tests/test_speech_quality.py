"""Comparing synthetic speech with recordings: scores, error rates over all utterances, and the page."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

from tests.tiny_whisper import save_tiny_whisper
from tests.toy_corpus import RATE, toy_speech, write_toy_corpus
from tests.toy_tokenizer import saved_toy_tokenizer
from voxtok.manifests.cuts import load_cuts, save_cuts
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import read_json
from voxtok.vocoder.speech_quality import QualityConfig, main, quality, summary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings, and noisy copies of two of them."""
    folder = tmp_path_factory.mktemp("pairs")
    write_toy_corpus(folder / "real", [2.0, 1.5, 1.0])
    write_toy_corpus(folder / "made", [2.0, 1.5])
    rng = np.random.default_rng(0)
    for index, duration_s in enumerate([2.0, 1.5]):
        samples, _ = toy_speech(duration_s, seed=index)
        noisy = samples + 0.02 * rng.normal(size=len(samples)).astype(np.float32)
        sf.write(folder / "made" / "audio" / f"utt{index:03d}.wav", noisy, RATE, subtype="FLOAT")
    saved_toy_tokenizer(folder / "tokenizer")
    return folder


def config(folder: Path, out: Path, **changes: object) -> QualityConfig:
    known = {
        "reference": str(folder / "real"), "synthetic": str(folder / "made"), "out": str(out), "aligned": True,
        "tokenizer": str(folder / "tokenizer"), "examples": 1, "device": "cpu",
    }  # fmt: skip
    return QualityConfig(**{**known, **changes})  # type: ignore[arg-type]


def test_scores_and_page(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pystoi")
    report = quality(config(folder, tmp_path))
    assert report == read_json(tmp_path / "vocoder_quality.json")
    assert report["utterances"] == 2
    scores = report["scores"]
    assert 0 < scores["mel_distance"] < 2 and 0 < scores["mcd_db"] and scores["voicing_error"] < 0.5
    assert 0 < scores["unit_error_rate"] < 1.5
    page = (tmp_path / "vocoder_quality.html").read_text()
    assert page.count("<audio") == 2 and page.count("<img") == 2
    styled, used = set(re.findall(r"\n\.(\w+)", page)), set(re.findall(r'class="(\w+)"', page))
    assert used <= styled, "a class that no style sheet has"
    assert not re.search(r'(?:src|href)="(?!data:)', page)  # nothing to load
    assert "unit error rate" in page and "utt001" in page


def test_further_speech_is_beside_its_recording_or_alone(folder: Path, tmp_path: Path) -> None:
    """Another voice of the scored utterances, and a sentence that nobody read."""
    write_toy_corpus(tmp_path / "converted", [2.0, 1.5])
    write_toy_corpus(tmp_path / "said", [1.2])
    for name, kept, renamed in (("converted", "utt001", "utt001"), ("said", "utt000", "0001")):
        cuts = [cut.with_id(renamed) for cut in load_cuts(tmp_path / name) if cut.id == kept]
        for cut in cuts:
            cut.supervisions[0].speaker, cut.supervisions[0].text = f"voice of {name}", f"text of {name} <0>"
        save_cuts(tmp_path / name / "cuts.jsonl.gz", cuts)
    shown = (str(tmp_path / "converted"), str(tmp_path / "said"))
    options = {"aligned": False, "tokenizer": None, "examples": 2}
    without = quality(config(folder, tmp_path / "without", **options))
    report = quality(config(folder, tmp_path / "with", **options, shown=shown))
    assert report["scores"] == without["scores"] and report["rows"] == without["rows"]
    page = (tmp_path / "with" / "vocoder_quality.html").read_text()
    captions = [re.sub("<.*?>", "", caption) for caption in re.findall(r"<figcaption>(.*?)</figcaption>", page)]
    pair = ["recording s0", "made s0", "recording s1", "made s1"]
    assert captions == [*pair, "converted voice of converted", "said voice of said"]
    assert page.count("<audio") == len(captions)
    assert page.index("Without a recording") < page.index("text of said &lt;0&gt;") < page.index("<h2>Scores")
    assert "Without a recording" not in (tmp_path / "without" / "vocoder_quality.html").read_text()


def test_further_speech_that_cannot_be_read_is_left_out(folder: Path, tmp_path: Path) -> None:
    write_toy_corpus(tmp_path / "converted", [2.0, 1.5])
    (tmp_path / "converted" / "audio" / "utt000.wav").unlink()
    quality(config(folder, tmp_path, aligned=False, tokenizer=None, examples=2, shown=(str(tmp_path / "converted"),)))
    assert (tmp_path / "vocoder_quality.html").read_text().count("<audio") == 5


def test_columns_have_different_names(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names must differ: recording, made"):
        config(folder, tmp_path, shown=(str(tmp_path / "made"),))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of TorchScript
def test_models_of_the_users_own_score_too(folder: Path, tmp_path: Path) -> None:
    """A predictor of opinions that says how loud speech is, and a Whisper; recordings beside what was made."""

    class Loudness(torch.nn.Module):
        def forward(self, samples: torch.Tensor, rate: int) -> torch.Tensor:
            return samples.square().mean(dim=1)

    torch.jit.script(Loudness()).save(str(tmp_path / "mos.pt"))
    words = ["--reference", str(folder / "real"), "--synthetic", str(folder / "made"), "--out", str(tmp_path / "out")]
    words += ["--utmos", str(tmp_path / "mos.pt"), "--whisper", str(save_tiny_whisper(tmp_path / "whisper"))]
    assert main([*words, "--aligned", "false", "--device", "cpu"]) == 0
    scores = read_json(tmp_path / "out" / "vocoder_quality.json")["scores"]
    assert scores["utmos"] > scores["utmos_original"] > 0  # noise adds to it
    assert scores["wer"] > 0 and scores["wer_original"] > 0


def test_recordings_compared_with_themselves_are_perfect(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pystoi")
    report = quality(config(folder, tmp_path, synthetic=str(folder / "real"), examples=0))
    scores = report["scores"]
    assert report["utterances"] == 3
    for name in ("mel_distance", "mcd_db", "log_f0_rmse", "voicing_error", "unit_error_rate"):
        assert scores[name] == pytest.approx(0, abs=1e-6)
    assert scores["speaker_similarity"] == pytest.approx(1, abs=1e-5)


def test_what_is_not_aligned_is_warped(folder: Path, tmp_path: Path) -> None:
    words = ["--reference", str(folder / "real"), "--synthetic", str(folder / "made"), "--out", str(tmp_path)]
    assert main([*words, "--aligned", "false", "--device", "cpu"]) == 0
    assert set(read_json(tmp_path / "vocoder_quality.json")["scores"]) == {"mcd_db", "speaker_similarity"}


def test_error_rates_are_over_all_utterances() -> None:
    """The docstring's: 1 edit in 4 units and 1 in 2 are 2 / 6; a mean leaves out what could not be measured."""
    rows: list[dict[str, Any]] = [
        {"unit_edits": 1, "units": 4, "stoi": 0.5},
        {"unit_edits": 1, "units": 2, "stoi": None},
    ]
    assert summary(rows) == {"stoi": 0.5, "unit_error_rate": pytest.approx(2 / 6)}


def test_no_common_ids(folder: Path, tmp_path: Path) -> None:
    others = tmp_path / "others.jsonl"
    save_cuts(others, (cut for cut in load_cuts(folder / "real") if cut.id == "utt002"))
    with pytest.raises(ConfigError, match="no cut"):
        quality(config(folder, tmp_path, reference=str(others)))
