"""Opening cuts: every form in which Lhotse stores them, and a named error for what is none."""

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.supervision import AlignmentItem

from voxtok.manifests.audio import read_audio
from voxtok.manifests.cuts import load_cuts, save_cuts, unique_cuts
from voxtok.manifests.identity import bare
from voxtok.runtime.errors import BadAudio, ManifestError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three recordings of 2 s with paths relative to the folder; the last has two supervisions, the first none."""
    (tmp_path / "audio").mkdir()
    recordings, supervisions = [], []
    for n in range(3):
        samples = np.full(32000, n / 10, dtype=np.float32)
        soundfile.write(tmp_path / f"audio/r{n}.wav", samples, 16000, subtype="FLOAT")
        recordings.append(Recording.from_file(tmp_path / f"audio/r{n}.wav", relative_path_depth=2))
        for k in range(n):
            alignment = {"phone": [AlignmentItem("A", 0.5 + k, 0.25), AlignmentItem("B", 0.75 + k, 0.25)]}
            supervisions.append(
                SupervisionSegment(f"r{n}-s{k}", f"r{n}", 0.5 + k, 0.5, text=f"t{k}", alignment=alignment)
            )
    RecordingSet.from_recordings(recordings).to_file(tmp_path / "recordings.jsonl.gz")
    SupervisionSet.from_segments(supervisions).to_file(tmp_path / "supervisions.jsonl.gz")
    return tmp_path


def test_recordings_and_supervisions_become_cuts_of_whole_recordings(corpus: Path) -> None:
    for path in (corpus, corpus / "recordings.jsonl.gz"):
        cuts = list(load_cuts(path))
        assert [cut.id for cut in cuts] == ["r0", "r1", "r2"]
        assert [len(cut.supervisions) for cut in cuts] == [0, 1, 2]
        assert [float(read_audio(cut, 16000)[0]) for cut in cuts] == pytest.approx([0, 0.1, 0.2])


def test_segments_are_one_cut_a_supervision_with_their_alignment(corpus: Path) -> None:
    cuts = list(load_cuts(corpus, segments=True))
    assert [(cut.id, cut.start, cut.duration) for cut in cuts] == [
        ("r1-s0", 0.5, 0.5), ("r2-s0", 0.5, 0.5), ("r2-s1", 1.5, 0.5)
    ]  # fmt: skip
    for cut in cuts:
        (supervision,) = cut.supervisions
        assert [(item.symbol, item.start, item.duration) for item in supervision.alignment["phone"]] == [
            ("A", 0.0, 0.25), ("B", 0.25, 0.25)
        ]  # fmt: skip
        assert read_audio(cut, 16000).shape == (8000,)


def test_real_speech_carries_its_alignments(voxtok_data: Path) -> None:
    cuts = list(load_cuts(voxtok_data / "sample"))
    assert len(cuts) == 66
    for cut in cuts:
        (supervision,) = cut.supervisions
        assert {"word", "phone"} <= set(supervision.alignment)
    assert np.abs(read_audio(cuts[0], 16000)).max() > 0.01


@pytest.mark.parametrize("name", ["cuts.jsonl.gz", "cuts.jsonl", "cuts.json", "cuts.yaml", "cuts_train.jsonl.gz"])
def test_every_serialization_of_cuts(corpus: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    cuts = CutSet.from_cuts(load_cuts(corpus))
    if name.endswith("yaml"):  # Lhotse cannot write alignments as YAML
        cuts = cuts.drop_supervisions()
    cuts.to_file(folder / name)
    for path in (folder, folder / name):
        cuts = load_cuts(path)
        assert [cut.id for cut in cuts] == ["r0", "r1", "r2"]
        assert [cut.id for cut in cuts] == ["r0", "r1", "r2"], "iterates again"
        assert [cut.id for cut in pickle.loads(pickle.dumps(cuts))] == ["r0", "r1", "r2"]


def test_pairs_with_a_prefix(corpus: Path) -> None:
    for kind in ("recordings", "supervisions"):
        (corpus / f"{kind}.jsonl.gz").rename(corpus / f"libri_{kind}_dev.jsonl.gz")
    for path in (corpus, corpus / "libri_recordings_dev.jsonl.gz"):
        assert [len(cut.supervisions) for cut in load_cuts(path)] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:unclosed file")  # Lhotse's Shar reader leaves closing to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_shar_folder(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "shar"
    out.mkdir()
    load_cuts(corpus).to_shar(out, fields={"recording": "wav"}, shard_size=2)
    cuts = list(load_cuts(out))
    assert [cut.id for cut in cuts] == ["r0", "r1", "r2"]
    assert float(read_audio(cuts[2], 16000)[7]) == pytest.approx(0.2, abs=1e-4)
    for unsaved in (cuts[0], cuts[0].pad(duration=9.0, preserve_id=True), bare(cuts[0])):
        with pytest.raises(ManifestError, match="r0: its audio lies inside a Shar folder"):
            save_cuts(tmp_path / "cuts.jsonl.gz", [unsaved])


def test_the_manifests_folder_wins_over_the_working_directory(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "audio").mkdir(parents=True)
    soundfile.write(elsewhere / "audio/r1.wav", np.full(32000, 0.7, dtype=np.float32), 16000, subtype="FLOAT")
    monkeypatch.chdir(elsewhere)
    first = [float(read_audio(cut, 16000)[0]) for cut in load_cuts(corpus)]
    assert first == pytest.approx([0, 0.1, 0.2])
    (corpus / "audio/r1.wav").unlink()
    (_, here, _) = load_cuts(corpus)
    monkeypatch.chdir(tmp_path)
    assert float(read_audio(here, 16000)[0]) == pytest.approx(0.7), "as Lhotse has it, where nothing lies beside it"


def test_mixed_cuts_have_their_paths_resolved(corpus: Path) -> None:
    cuts = [Recording.from_file(corpus / f"audio/r{n}.wav", relative_path_depth=2).to_cut() for n in (1, 2)]
    CutSet.from_cuts([cuts[0].append(cuts[1]).pad(duration=5)]).to_file(corpus / "cuts.jsonl")
    (mixed,) = load_cuts(corpus)
    assert read_audio(mixed, 16000)[[0, 32000, 70000]].tolist() == pytest.approx([0.1, 0.2, 0])


def test_an_audio_file_is_one_cut(corpus: Path) -> None:
    path = corpus / "audio/r2.wav"
    (cut,) = load_cuts(path)
    assert (cut.id, cut.duration) == (str(path), 2.0)
    path.write_bytes(b"")
    with pytest.raises(BadAudio, match="zero bytes"):
        load_cuts(path)


def broken(write: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write(folder / "cuts.jsonl.gz")
        return folder / "cuts.jsonl.gz"

    return make


def text_gz(text: str) -> Callable[[Path], Path]:
    return broken(lambda path: path.write_bytes(gzip.compress(text.encode())))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "no such file"),
        (lambda folder: folder, "voxtok corpus folder"),
        (text_gz(""), "is empty"),
        (text_gz('{"id": 1}\n'), "damaged after line 0"),
        (text_gz("hello\n"), "damaged after line 0"),
        (text_gz("[1, 2]\n"), "damaged after line 0"),
        (broken(lambda path: path.write_bytes(gzip.compress(b'{"a": 1}\n' * 99)[:40])), "damaged"),
        (broken(lambda path: path.write_text("not gzip")), "damaged"),
        (text_gz(json.dumps({"id": "s", "recording_id": "r", "start": 0, "duration": 1})), "supervisions only"),
        (text_gz(json.dumps({"id": "f", "array": 1, "shape": [1]})), "damaged|cuts or recordings are needed"),
    ],
)
def test_what_is_no_manifest_is_a_named_error(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        list(load_cuts(make(tmp_path)))


def test_damage_further_down_names_the_line(corpus: Path) -> None:
    path = corpus / "cuts.jsonl"
    load_cuts(corpus).to_file(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2][:50]]))
    with pytest.raises(ManifestError, match="damaged after line 2"):
        list(load_cuts(path))


def test_a_text_file_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ManifestError, match=r"ends in none of .jsonl.gz"):
        load_cuts(tmp_path / "notes.txt")
    (tmp_path / "notes.json").write_text("hello")
    with pytest.raises(ManifestError, match="not a Lhotse manifest"):
        load_cuts(tmp_path / "notes.json")


def test_several_manifests_in_a_folder_must_be_told_apart(corpus: Path) -> None:
    for part in ("train", "test"):
        load_cuts(corpus / "recordings.jsonl.gz").to_file(corpus / f"cuts_{part}.jsonl.gz")
    with pytest.raises(ManifestError, match=r"several.*cuts_test.jsonl.gz, cuts_train.jsonl.gz"):
        load_cuts(corpus)


def test_supervisions_alone_in_a_folder(corpus: Path) -> None:
    (corpus / "recordings.jsonl.gz").unlink()
    with pytest.raises(ManifestError, match="neither cuts nor recordings, only supervisions"):
        load_cuts(corpus)


def test_second_of_equal_ids_is_bad(corpus: Path) -> None:
    cuts = [*load_cuts(corpus), *load_cuts(corpus)]
    reasons = [error.reason if error else None for _, error in unique_cuts(cuts)]
    assert reasons == [None] * 3 + ["duplicate id"] * 3
