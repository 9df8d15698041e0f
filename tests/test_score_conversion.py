"""Scores of conversions: whose voice it is, and how far from the target's own reading."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.utils import fastcopy

from tests.toy_corpus import RATE, write_toy_corpus
from voxtok.manifests.audio import read_audio
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.commands import main
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError, ManifestError
from voxtok.runtime.files import read_json
from voxtok.vocoder.audio_folder import AudioFolder, Order, write_wav
from voxtok.vocoder.score_conversion import ScoreConversionConfig, score_conversion, table


def named(cut: Cut, speaker: str, text: str) -> Cut:
    cut.supervisions = [fastcopy(one, speaker=speaker, text=text) for one in cut.supervisions]
    return cut


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Utterances 0 and 1 are by a, 2 and 3 by b; 0 and 2 are the same sentence."""
    folder = tmp_path_factory.mktemp("originals")
    cuts = list(load_cuts(write_toy_corpus(folder, [1.0, 1.2, 0.9, 1.1])))
    rows = [("a", "one"), ("a", "two"), ("b", "one"), ("b", "three")]
    CutSet.from_cuts([named(cut, *row) for cut, row in zip(cuts, rows, strict=True)]).to_file(folder / "cuts.jsonl")
    return folder / "cuts.jsonl"


def conversion(originals: Path, out: Path, source: str, sound_of: str, target: str) -> str:
    """A folder in which `source` in the voice of `target` sounds as a recording does."""
    cuts = {cut.id: cut for cut in load_cuts(originals)}
    folder = AudioFolder(out, [Order(cuts[source], "x", target)], [], Ranks())
    (order,) = folder.open_orders()
    folder.add(order, read_audio(cuts[sound_of], RATE), RATE)
    folder.finish()
    return str(out)


def scores(originals: Path, folder: str, out: Path) -> ScoreConversionConfig:
    return ScoreConversionConfig(
        converted=(folder,), originals=str(originals), speaker_model="mini", out=str(out), device="cpu"
    )


def test_the_targets_own_reading_is_a_perfect_conversion(originals: Path, tmp_path: Path) -> None:
    folder = conversion(originals, tmp_path / "c", "utt000", "utt002", "b")
    (pair,) = score_conversion(scores(originals, folder, tmp_path / "s.json"))
    assert (pair.source, pair.speaker, pair.target) == ("utt000", "a", "b")
    assert pair.mcd_db == pytest.approx(0, abs=0.1) and pair.mcd_unconverted_db is not None
    assert pair.mcd_unconverted_db > 1
    saved = read_json(tmp_path / "s.json")
    assert saved["summary"]["pairs"] == saved["summary"]["read_by_the_target"] == 1
    assert table([pair]).splitlines()[-1].startswith("| all | 1 | ")


def test_the_source_itself_is_no_conversion(originals: Path, tmp_path: Path) -> None:
    """Its similarity to its own speaker is measured on the speaker's other recording."""
    folder = conversion(originals, tmp_path / "c", "utt001", "utt001", "b")
    (pair,) = score_conversion(scores(originals, folder, tmp_path / "s.json"))
    assert pair.mcd_db is None and pair.mcd_unconverted_db is None
    assert pair.to_source < 1


def test_what_cannot_be_scored_is_named(originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = conversion(originals, tmp_path / "own", "utt000", "utt000", "a")
    with pytest.raises(ConfigError, match="between different speakers"):
        score_conversion(scores(originals, own, tmp_path / "s.json"))
    stranger = conversion(originals, tmp_path / "stranger", "utt000", "utt000", "z")
    with pytest.raises(ManifestError, match="no recording of z"):
        score_conversion(scores(originals, stranger, tmp_path / "s.json"))
    others = write_toy_corpus(tmp_path / "other", [0.6])
    CutSet.from_cuts([cut.with_id("unknown") for cut in load_cuts(others)]).to_file(tmp_path / "unknown.jsonl")
    with pytest.raises(ManifestError, match="unknown: the originals have no such"):
        score_conversion(scores(originals, str(tmp_path / "unknown.jsonl"), tmp_path / "s.json"))
    good = conversion(originals, tmp_path / "good", "utt000", "utt003", "b")
    words = ["--converted", good, "--originals", str(originals), "--speaker-model", "mini"]
    assert main(["score-conversion", *words, "--out", str(tmp_path / "s.json"), "--device", "cpu"]) == 0
    assert "| b | 1 |" in capsys.readouterr().out


def test_what_cannot_be_measured_is_left_out(originals: Path, tmp_path: Path) -> None:
    good = conversion(originals, tmp_path / "good", "utt000", "utt003", "b")
    silent = conversion(originals, tmp_path / "silent", "utt001", "utt001", "b")
    write_wav(tmp_path / "silent" / "audio" / "utt001.wav", np.zeros(RATE, dtype=np.float32), RATE)
    both = replace(scores(originals, good, tmp_path / "s.json"), converted=(good, silent))
    assert [pair.source for pair in score_conversion(both)] == ["utt000"]
    assert read_json(tmp_path / "s.json")["left_out"] == ["utt001"]
