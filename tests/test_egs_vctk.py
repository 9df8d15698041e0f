"""The recipe of voice conversion runs as a user runs it, on toy speech."""

from pathlib import Path

import pytest
from lhotse import CutSet
from lhotse.utils import fastcopy

from tests.test_egs import run
from tests.toy_corpus import write_toy_corpus
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.files import read_json


@pytest.mark.slow
def test_vctk_in_miniature(tmp_path: Path) -> None:
    """Two speakers read three sentences each, one of them the same; then again, and nothing is made twice."""
    cuts = list(load_cuts(write_toy_corpus(tmp_path / "toy", [1.0, 1.1, 1.2, 1.3, 1.4, 1.5])))
    for index, cut in enumerate(cuts):
        cut.id = f"p{index % 2}_02{index // 2 + 1}"
        text = f"SENTENCE {index // 2}"
        cut.supervisions = [fastcopy(one, id=cut.id, speaker=cut.id[:2], text=text) for one in cut.supervisions]
    (tmp_path / "vctk14").mkdir()
    CutSet.from_cuts(cuts).to_file(tmp_path / "vctk14" / "cuts.jsonl")
    others = write_toy_corpus(tmp_path / "more", [2.0] * 4)
    places = {"EXP": str(tmp_path / "exp"), "DATA": str(tmp_path), "OTHERS": str(others)}
    environment = {**places, "TARGETS": "p0 p1", "STEPS": "2"}
    shown = run("vctk", **environment)
    assert "| all | 2 | " in shown
    scores = read_json(tmp_path / "exp" / "scores.json")
    assert scores["summary"]["read_by_the_target"] == 2
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "exp" / "converted").rglob("*.wav")}
    assert len(made) == 4
    run("vctk", **environment)
    assert {path: path.stat().st_mtime_ns for path in made} == made
