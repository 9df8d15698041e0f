"""Corpora at several speeds."""

from pathlib import Path

import pytest

from tests.toy_corpus import RATE, write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer
from voxtok.manifests.audio import read_audio
from voxtok.manifests.corpora import main
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.speed import at_speeds
from voxtok.manifests.store import TokenStore
from voxtok.runtime.errors import ConfigError, ManifestError
from voxtok.tokenize.encode import encode_corpus


def test_a_corpus_at_three_speeds_is_encoded_into_one_store(tmp_path: Path) -> None:
    """Durations, supervisions and alignments move with the speed, and tokens come from the changed audio."""
    cuts = write_toy_corpus(tmp_path / "corpus", [2.0, 1.0])
    argv = ["speed", "--cuts", str(cuts), "--factors", "[0.8,1,1.25]", "--out", str(tmp_path / "sp.jsonl.gz")]
    assert main(argv) == 0
    found = {cut.id: cut for cut in load_cuts(tmp_path / "sp.jsonl.gz")}
    assert sorted(found) == sorted(f"utt00{n}{end}" for n in (0, 1) for end in ("", "_sp0.8", "_sp1.25"))
    slow, plain = found["utt000_sp0.8"], found["utt000"]
    assert slow.duration == pytest.approx(2.5)
    assert len(read_audio(slow, RATE)) == 40000
    assert slow.supervisions[0].duration == pytest.approx(2.5)
    assert slow.supervisions[0].text == plain.supervisions[0].text
    before, after = (cut.supervisions[0].alignment["phone"][3] for cut in (plain, slow))
    assert after.start == pytest.approx(before.start / 0.8, abs=1e-3)
    encode_corpus(found.values(), toy_tokenizer(), tmp_path / "store", shard_size=10)
    frames = {cut.id: tokens.num_frames for cut, tokens in TokenStore.open(tmp_path / "store")}
    assert frames["utt000_sp0.8"] == pytest.approx(1.25 * frames["utt000"], abs=2)
    assert frames["utt000_sp1.25"] == pytest.approx(0.8 * frames["utt000"], abs=2)


def test_cuts_without_a_recording_of_their_own_are_named(tmp_path: Path) -> None:
    (cut,) = load_cuts(write_toy_corpus(tmp_path, [1.0]))
    with pytest.raises(ManifestError, match="utt000 is mixed or padded"):
        list(at_speeds([cut.pad(duration=2.0, preserve_id=True)], [0.9]))


@pytest.mark.parametrize("factors", ["[]", "[0.9,0.9]", "[12]"])
def test_impossible_speeds_are_named(factors: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="factors"):
        main(["speed", "--cuts", "c", "--factors", factors, "--out", str(tmp_path / "o.jsonl.gz")])
