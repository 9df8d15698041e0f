"""Joining corpora."""

from pathlib import Path

import pytest

from tests.toy_corpus import write_toy_corpus
from voxtok.manifests.corpora import main
from voxtok.manifests.cuts import load_cuts, save_cuts
from voxtok.manifests.join import JoinConfig, join
from voxtok.runtime.errors import ConfigError, ManifestError


def corpora(folder: Path) -> tuple[str, str, str]:
    """Two corpora with different ids, and one utterance of the first."""
    one = write_toy_corpus(folder / "one", [0.5, 0.6, 0.7])
    two = folder / "two.jsonl.gz"
    save_cuts(two, (cut.with_id(f"x-{cut.id}") for cut in load_cuts(write_toy_corpus(folder / "two", [0.8]))))
    held = folder / "held.jsonl"
    save_cuts(held, (cut for cut in load_cuts(one) if cut.id == "utt001"))
    return str(one), str(two), str(held)


def test_cuts_follow_one_another_without_those_held_out(tmp_path: Path) -> None:
    one, two, held = corpora(tmp_path)
    out = tmp_path / "all.jsonl.gz"
    assert main(["join", "--cuts", f"[{one},{two}]", "--without", held, "--out", str(out)]) == 0
    assert [cut.id for cut in load_cuts(out)] == ["utt000", "utt002", "x-utt000"]


def test_clashing_and_unknown_ids_are_named(tmp_path: Path) -> None:
    one, two, held = corpora(tmp_path)
    out = tmp_path / "all.jsonl.gz"
    with pytest.raises(ManifestError, match="utt000 is in"):
        join(JoinConfig(cuts=(one, one), out=str(out)))
    with pytest.raises(ManifestError, match="1 cuts, such as utt001"):
        join(JoinConfig(cuts=(two,), without=held, out=str(out)))
    assert not out.exists()
    save_cuts(out, load_cuts(one))
    with pytest.raises(ManifestError, match="1 cuts, such as"):
        join(JoinConfig(cuts=(str(out),), without=two, out=str(out)))
    assert len(list(load_cuts(out))) == 3, "what was there is not lost"
    assert len(join(JoinConfig(cuts=(two,), without=held, without_others=True, out=str(out))).speakers) == 1


def test_cuts_may_be_there_several_times(tmp_path: Path) -> None:
    one, _, held = corpora(tmp_path)
    out = tmp_path / "all.jsonl.gz"
    size = join(JoinConfig(cuts=(one,), without=held, repeat=2, out=str(out)))
    cuts = list(load_cuts(out))
    assert [cut.id for cut in cuts] == ["utt000_repeat0", "utt000_repeat1", "utt002_repeat0", "utt002_repeat1"]
    assert [cut.duration for cut in cuts] == [0.5, 0.5, 0.7, 0.7]
    assert cuts[0].supervisions == cuts[1].supervisions and size.duration_s == pytest.approx(2.4)
    with pytest.raises(ConfigError, match="at least 1"):
        JoinConfig(cuts=(one,), repeat=0, out=str(out))
