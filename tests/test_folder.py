"""A folder of audio: every format and odd name, transcripts of three kinds, speakers by pattern, bad files listed."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from voxtok.manifests.audio import read_audio
from voxtok.manifests.corpora import main
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.folder import FolderConfig, Indexed, index_folder, name_files, speaker_pattern
from voxtok.runtime.errors import BadAudio, ConfigError, ManifestError


def write(path: Path, seconds: float = 0.5, rate: int = 16000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (round(rate * seconds), channels))
    kind = {"mp3": "MP3", "opus": "OGG", "ogg": "OGG", "flac": "FLAC"}.get(path.suffix.lower()[1:], "WAV")
    soundfile.write(path, samples, rate, format=kind, subtype="OPUS" if path.suffix == ".opus" else None)


def index(root: Path, out: Path, **options: Any) -> Indexed:
    return index_folder(FolderConfig(audio=str(root), out=str(out), **options))


def rejected(out: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert all(set(row) == {"id", "reason", "detail"} for row in rows)
    return {row["id"]: row["reason"] for row in rows}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "in", tmp_path / "out"


def test_every_format_and_odd_name_is_read(folders: tuple[Path, Path]) -> None:
    root, out = folders
    names = [
        "a.wav",
        "B.WAV",
        "c.flac",
        "d.ogg",
        "e.mp3",
        "f.opus",
        "sub/g.Flac",
        "sub/日本 語é.wav",
        "x.y.wav",
        "s/stereo.wav",
    ]
    for name in names:
        write(root / name, rate=48000 if name in ("f.opus", "s/stereo.wav") else 16000, channels=1 + (name[0] == "s"))
    (root / "notes.txt").write_text("not audio")
    (root / "._a.wav").write_bytes(b"what a Mac leaves behind")
    indexed = index(root, out)
    cuts = list(load_cuts(out))
    assert [cut.id for cut in cuts] == ["B", "a", "c", "d", "e", "f", "s/stereo", "sub/g", "sub/日本_語é", "x.y"]
    assert (indexed.size.recordings, indexed.rejected) == (10, [])
    for cut in cuts:
        assert read_audio(cut, 16000).shape == (8000,)
    assert rejected(out) == {}


def test_bad_files_are_listed_and_the_rest_is_complete(folders: tuple[Path, Path]) -> None:
    root, out = folders
    write(root / "good.wav")
    write(root / "good 2.flac")
    (root / "zero.wav").touch()
    (root / "text.wav").write_text("these are words, not samples\n" * 20)
    soundfile.write(root / "nothing.wav", np.zeros(0), 16000)
    (root / "dangling.wav").symlink_to(root / "nowhere.wav")
    with open(os.fsencode(root) + b"/\xff\xfe.wav", "wb") as file:
        file.write((root / "good.wav").read_bytes())
    indexed = index(root, out)
    assert [cut.id for cut in load_cuts(out)] == ["good_2", "good"]
    assert rejected(out) == {
        "zero": "unreadable", "text": "unreadable", "nothing": "empty", "dangling": "missing",
        "\\udcff\\udcfe": "unreadable",
    }  # fmt: skip
    assert len(indexed.rejected) == 5
    with pytest.raises(BadAudio, match="dangling"):
        index(root, out, strict=True)


def test_ids_are_unique_and_depend_on_their_own_file_only(folders: tuple[Path, Path]) -> None:
    root, out = folders
    for name in ("a.wav", "a.flac", "b/a.wav", "c d.wav", "c_d.wav"):
        write(root / name)
    index(root, out)
    assert [cut.id for cut in load_cuts(out)] == ["a.flac", "a.wav", "b/a", "c_d.wav"]
    assert rejected(out) == {"c_d.wav": "duplicate id"}
    assert name_files(["x/a.wav", "x/b.wav"]) == ["x/a", "x/b"]


def test_links_to_folders_are_followed_once(folders: tuple[Path, Path], tmp_path: Path) -> None:
    root, out = folders
    write(tmp_path / "elsewhere/a.wav")
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(root)
    index(root, out)
    assert [cut.id for cut in load_cuts(out)] == ["linked/a"]


def test_running_again_gives_the_same_bytes(folders: tuple[Path, Path]) -> None:
    root, out = folders
    for name in ("b.wav", "a.wav"):
        write(root / name)
    index(root, out)
    first = (out / "cuts.jsonl.gz").read_bytes()
    index(root, out)
    assert (out / "cuts.jsonl.gz").read_bytes() == first
    assert b"a.wav" in gzip.decompress(first)


@pytest.mark.parametrize(
    "lines",
    [
        "s1/a.wav\tHELLO  WORLD\ns1/b c.wav\tONE\n",  # paths
        "./s1/a\tHELLO WORLD\r\ns1/b c\tONE\r\n",  # without suffix
        "a.wav\tHELLO WORLD\nb c.wav\tONE\nstranger\tX\n",  # bare names
        "\ufeffa\tHELLO WORLD\nb c\tONE\n",  # with a byte order mark
    ],
)
def test_tsv_transcripts(folders: tuple[Path, Path], lines: str) -> None:
    root, out = folders
    for name in ("s1/a.wav", "s1/b c.wav", "s1/z.wav"):
        write(root / name)
    (root / "text.tsv").write_text(lines, encoding="utf-8")
    indexed = index(root, out, transcripts=str(root / "text.tsv"), language="en")
    texts = {cut.id: [(s.text, s.language) for s in cut.supervisions] for cut in load_cuts(out)}
    assert texts == {"s1/a": [("HELLO WORLD", "en")], "s1/b_c": [("ONE", "en")], "s1/z": []}
    assert (indexed.transcribed, indexed.unused) == (2, int("stranger" in lines))


def test_kaldi_text(folders: tuple[Path, Path]) -> None:
    root, out = folders
    for name in ("s1/u1.flac", "s2/u2.flac", "s3/u3.flac"):
        write(root / name)
    (root / "text").write_text("u1 HELLO\tWORLD\nu2\ns3/u3 äöü\n", encoding="utf-8")
    index(root, out, transcripts=str(root / "text"))
    assert [cut.supervisions[0].text for cut in load_cuts(out)] == ["HELLO WORLD", "", "äöü"]


def test_sidecar_transcripts(folders: tuple[Path, Path]) -> None:
    root, out = folders
    for name in ("a.wav", "b.wav", "c.wav", "d.wav"):
        write(root / name)
    (root / "a.txt").write_text(" hello\nworld \n")
    (root / "b.wav.txt").write_text("two")
    (root / "c.txt").write_bytes(b"\xff\xfe not UTF-8")
    assert index(root, out, transcripts="sidecar").transcribed == 2
    assert [[s.text for s in cut.supervisions] for cut in load_cuts(out)] == [["hello world"], ["two"], [], []]


def test_a_bare_name_that_two_files_share_is_nobodys(folders: tuple[Path, Path]) -> None:
    root, out = folders
    for name in ("s1/001.wav", "s2/001.wav", "s2/002.wav"):
        write(root / name)
    (root / "text").write_text("001 WHOSE\n002 MINE\n")
    indexed = index(root, out, transcripts=str(root / "text"))
    assert [[s.text for s in cut.supervisions] for cut in load_cuts(out)] == [[], [], ["MINE"]]
    assert indexed.unused == 1


def test_names_are_compared_as_they_look(folders: tuple[Path, Path]) -> None:
    root, out = folders
    write(root / "e\u0301.wav")  # decomposed, as a Mac writes it
    (root / "t.tsv").write_text("\u00e9\tyes\n", encoding="utf-8")
    index(root, out, transcripts=str(root / "t.tsv"))
    (cut,) = load_cuts(out)
    assert (cut.id, cut.supervisions[0].text) == ("\u00e9", "yes")
    assert read_audio(cut, 16000).shape == (8000,)


@pytest.mark.parametrize(
    ("pattern", "path", "speaker"),
    [
        ("{speaker}/**", "p225/ch1/p225_001", "p225"),
        ("{speaker}/*/*", "p225/ch1/p225_001", "p225"),
        ("{speaker}/*/*", "p225/p225_001", None),
        ("*/{speaker}/**", "train/84/121123/84-121123-0000", "84"),
        ("**/{speaker}_*", "wav48/x/p225_001_mic1", "p225"),
        ("**/{speaker}_*", "p225_001", "p225"),
        ("{speaker}-*-*", "84-121123-0000", "84"),
        ("speaker+{speaker}/*", "speaker+7/x", "7"),
        ("{speaker}", "a/b", None),
    ],
)
def test_speaker_patterns(pattern: str, path: str, speaker: str | None) -> None:
    match = speaker_pattern(pattern).fullmatch(path)
    assert (match and match["speaker"]) == speaker


def test_speakers_of_a_folder(folders: tuple[Path, Path]) -> None:
    root, out = folders
    for name in ("p1/a.wav", "p1/b.wav", "p2/c.wav", "loose.wav"):
        write(root / name, channels=2)
    assert len(index(root, out, speaker="{speaker}/*").size.speakers) == 2
    found = {cut.id: [(s.speaker, s.channel) for s in cut.supervisions] for cut in load_cuts(out)}
    assert found == {"p1/a": [("p1", [0, 1])], "p1/b": [("p1", [0, 1])], "p2/c": [("p2", [0, 1])], "loose": []}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"speaker": "*/*"}, ConfigError, "must have {speaker} in it once"),
        ({"speaker": "{speaker}/*/*/*"}, ConfigError, "fits no path, such as 'a'"),
        ({"transcripts": "/nowhere.tsv"}, ConfigError, "--transcripts /nowhere.tsv"),
        ({"transcripts": "TEXT"}, ConfigError, "nothing for any audio file, such as 'a.wav'"),
        ({"transcripts": "TWICE"}, ManifestError, "'a' has two transcripts"),
        ({"audio": "/nowhere"}, ConfigError, "no such folder"),
        ({"audio": "EMPTY"}, ManifestError, "holds no audio files"),
        ({"audio": "BAD"}, ManifestError, "none of the 1 audio files"),
    ],
)
def test_what_cannot_be(
    folders: tuple[Path, Path], options: dict[str, str], error: type[Exception], message: str
) -> None:
    root, out = folders
    write(root / "a.wav")
    special = {"TEXT": "zzz hello\n", "TWICE": "a one\na two\n"}
    for name, content in special.items():
        (root / name).write_text(content)
    (root.parent / "EMPTY").mkdir()
    (root.parent / "BAD").mkdir()
    (root.parent / "BAD/x.wav").touch()
    given: dict[str, str] = {"audio": str(root), "out": str(out)} | options
    for key, value in given.items():
        if value in special:
            given[key] = str(root / value)
        elif value in ("EMPTY", "BAD"):
            given[key] = str(root.parent / value)
    with pytest.raises(error, match=message):
        index_folder(FolderConfig(**given))  # type: ignore[arg-type]
    assert not (out / "cuts.jsonl.gz").exists()
    assert (out / "rejected.jsonl").exists() == (options.get("audio") == "BAD")


def test_command(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    root, out = folders
    write(root / "s1/a.wav", seconds=18)
    (root / "s1/b.wav").touch()
    (root / "s1/a.txt").write_text("hello")
    assert (
        main(
            ["folder", "--audio", str(root), "--out", str(out), "--transcripts", "sidecar", "--speaker", "{speaker}/*"]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{out}/cuts.jsonl.gz: 1 utterances in 1 recordings, 1 speakers, 0.01 h",
        "sidecar: transcripts of 1 recordings",
        f"{out}/rejected.jsonl: 1 bad files",
    ]


def test_real_speech(voxtok_data: Path, tmp_path: Path) -> None:
    indexed = index(voxtok_data / "vctk14" / "audio", tmp_path, speaker="{speaker}_*")
    assert (indexed.size.recordings, len(indexed.size.speakers)) == (49, 13)


def test_a_named_pipe_was_waited_for_for_ever(folders: tuple[Path, Path]) -> None:
    root, out = folders
    write(root / "good.wav")
    os.mkfifo(root / "p.wav")
    (root / "loop.wav").symlink_to(root / "loop.wav")
    (root / "sub").symlink_to(root)
    assert index(root, out).size.recordings == 1
    assert rejected(out) == {"loop": "missing", "p": "unreadable"}


def test_no_readers_were_a_bare_value_error(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="--readers must be at least 1"):
        index(*folders, readers=0)
