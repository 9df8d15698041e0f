"""Parts of a corpus that share no speaker."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lhotse import SupervisionSegment
from lhotse.cut import MonoCut

from tests.toy_corpus import write_toy_corpus
from voxtok.manifests.corpora import main
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.split import SplitConfig, split_by_speaker
from voxtok.runtime.errors import ConfigError


def cuts_of(speakers: list[int]) -> list[MonoCut]:
    """One cut of a second for each number, by the speaker of that number; 0 is an unknown one."""
    return [
        MonoCut(
            f"u{place:03}", 0, 1.0, 0,
            supervisions=[SupervisionSegment(f"u{place:03}", "r", 0, 1.0, speaker=str(number) if number else None)],
        )
        for place, number in enumerate(speakers)
    ]  # fmt: skip


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(0, 5))
def test_every_cut_is_in_one_part_and_every_speaker_too(speakers: list[int], seed: int) -> None:
    cuts = cuts_of(speakers)
    parts = split_by_speaker(cuts, "train", {"dev": 0.2, "test": 0.2}, seed)
    assert sorted(cut.id for part in parts.values() for cut in part) == [cut.id for cut in cuts]
    heard = [{cut.supervisions[0].speaker or cut.id for cut in part} for part in parts.values()]
    assert sum(map(len, heard)) == len(set.union(*heard))
    assert parts == split_by_speaker(reversed(cuts), "train", {"dev": 0.2, "test": 0.2}, seed)


def test_parts_have_their_shares() -> None:
    parts = split_by_speaker(cuts_of([1 + place % 50 for place in range(500)]), "train", {"dev": 0.1, "test": 0.3}, 0)
    assert {name: len(part) for name, part in parts.items()} == {"train": 300, "dev": 50, "test": 150}


def test_the_command_writes_cuts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cuts = write_toy_corpus(tmp_path / "corpus", [0.5] * 6, speakers=3)
    argv = ["split", "--cuts", str(cuts), "--parts", "train,test=0.3", "--seed", "1", "--out", str(tmp_path)]
    assert main(argv) == 0
    assert "2 utterances in 2 recordings, 1 speakers" in capsys.readouterr().out
    assert len(list(load_cuts(tmp_path / "cuts_train.jsonl.gz"))) == 4
    with pytest.raises(ConfigError, match="too few speakers"):
        main([*argv[:4], "train,a=0.4,b=0.4,c=0.1", *argv[5:]])


@pytest.mark.parametrize(
    "parts", [("train",), ("train=0.5", "dev=0.5"), ("train", "dev"), ("a", "a=0.1"), ("a", "b=2")]
)
def test_impossible_parts_are_named(parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="parts"):
        SplitConfig(cuts="c", parts=parts, out="o", seed=0)
