"""The demo as a user runs it, whole."""

from pathlib import Path

import pytest

from tests.test_egs import run
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.files import read_json


@pytest.mark.slow
@pytest.mark.timeout(2500)
def test_demo(tmp_path: Path) -> None:
    """Error rates, pages and what they show; a second run trains nothing again, and says another sentence."""
    for name in ("espeakng_loader", "kaldi_decoder", "pystoi"):
        pytest.importorskip(name)
    printed = run("synth", EXP=str(tmp_path))
    for search in ("greedy", "graph"):
        errors = read_json(tmp_path / "short" / "asr" / "recognizer" / f"test_{search}" / "score.json")
        assert f"WER    {100 * errors['wer']['rate']:5.2f}" in printed
    assert {cut.supervisions[0].speaker for cut in load_cuts(tmp_path / "converted")} == {"synth-s014"}
    page = (tmp_path / "report" / "vocoder_quality.html").read_text()
    assert page.count("<audio") == 3 * 8 + 1
    assert (tmp_path / "report" / "quality.html").exists()
    trained = [tmp_path / "tokenizer" / "codebook.safetensors", *(tmp_path / "short").rglob("model.safetensors")]
    made = [path.stat().st_mtime_ns for path in trained]
    assert len(made) == 2
    run("synth", EXP=str(tmp_path), SAY='It\'s a "fine" day: $5.')
    assert [cut.supervisions[0].text for cut in load_cuts(tmp_path / "said")] == ['It\'s a "fine" day: $5.']
    assert [path.stat().st_mtime_ns for path in trained] == made
