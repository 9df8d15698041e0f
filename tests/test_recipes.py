"""Lhotse's own recipes by name: tiny copies of real corpora, downloads from a file, errors with names."""

import tarfile
from itertools import product
from pathlib import Path

import lhotse.recipes
import numpy as np
import pytest
import soundfile
from lhotse import RecordingSet, SupervisionSegment, SupervisionSet

from voxtok.manifests.audio import describe, read_audio
from voxtok.manifests.corpora import main
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.recipes import RecipeConfig, corpus_names, prepare_corpus
from voxtok.runtime.errors import ConfigError, ManifestError


def write(path: Path, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).uniform(-0.3, 0.3, round(16000 * seconds)), 16000)


def make_librispeech(folder: Path) -> Path:
    for part, speaker in (("dev-clean-2", "84"), ("train-clean-5", "19")):
        chapter = folder / "LibriSpeech" / part / speaker / "198"
        for n in (1, 0):
            write(chapter / f"{speaker}-198-000{n}.flac")
        lines = [f"{speaker}-198-000{n} HELLO NUMBER {n}\n" for n in (0, 1)]
        (chapter / f"{speaker}-198.trans.txt").write_text("".join(lines))
    return folder / "LibriSpeech"


def make_ljspeech(folder: Path) -> Path:
    for n in (2, 1):
        write(folder / f"wavs/LJ00{n}.wav")
    (folder / "metadata.csv").write_text("LJ002|Two.|two\nLJ001|One.|one\n")
    return folder


def make_yesno(folder: Path) -> Path:
    for bits in list(product("01", repeat=6))[:60]:
        write(folder / f"waves_yesno/{'_'.join(bits)}_0_1.wav", seconds=0.1)
    return folder / "waves_yesno"


def prepare(name: str, corpus_dir: Path, out: Path, **options: object) -> dict[str, int]:
    config = RecipeConfig(corpus_dir=str(corpus_dir), out=str(out), **options)  # type: ignore[arg-type]
    return {file: size.utterances for file, size in prepare_corpus(name, config).items()}


def test_librispeech_has_a_file_a_part(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sizes = prepare("librispeech", make_librispeech(tmp_path), out)
    assert sizes == {"cuts_dev-clean-2.jsonl.gz": 2, "cuts_train-clean-5.jsonl.gz": 2}
    cuts = list(load_cuts(out / "cuts_dev-clean-2.jsonl.gz"))
    assert [cut.id for cut in cuts] == ["84-198-0000", "84-198-0001"]
    assert [(cut.supervisions[0].speaker, cut.supervisions[0].text) for cut in cuts] == [
        ("84", "HELLO NUMBER 0"), ("84", "HELLO NUMBER 1")
    ]  # fmt: skip
    assert read_audio(cuts[0], 16000).shape == (8000,)


def test_settings_reach_lhotse(tmp_path: Path) -> None:
    settings = ("dataset_parts=dev-clean-2", "normalize-text=lower")
    sizes = prepare("librispeech", make_librispeech(tmp_path), tmp_path / "out", settings=settings)
    assert sizes == {"cuts_dev-clean-2.jsonl.gz": 2}
    (cut, _) = load_cuts(tmp_path / "out")
    assert cut.supervisions[0].text == "hello number 0"


def test_a_corpus_without_parts_is_one_file_in_the_order_of_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ljspeech(tmp_path / "LJSpeech-1.1")
    monkeypatch.chdir(tmp_path)
    assert prepare("ljspeech", Path("LJSpeech-1.1"), Path("out")) == {"cuts.jsonl.gz": 2}
    monkeypatch.chdir("/")  # paths are absolute
    cuts = list(load_cuts(tmp_path / "out"))
    assert [cut.id for cut in cuts] == ["LJ001", "LJ002"]
    assert read_audio(cuts[1], 16000).shape == (8000,)
    first = (tmp_path / "out/cuts.jsonl.gz").read_bytes()
    prepare("ljspeech", tmp_path / "LJSpeech-1.1", tmp_path / "out")
    assert (tmp_path / "out/cuts.jsonl.gz").read_bytes() == first


def test_download_comes_first(tmp_path: Path) -> None:
    make_yesno(tmp_path)
    with tarfile.open(tmp_path / "yesno.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "waves_yesno", "waves_yesno")
    target, url = tmp_path / "target", f"url=file://{tmp_path}/yesno.tar.gz"
    sizes = prepare("yesno", target, tmp_path / "out", download=True, settings=(url,))
    assert sizes == {"cuts_train.jsonl.gz": 30, "cuts_test.jsonl.gz": 30}
    assert (target / "waves_yesno").is_dir()


def test_segments_are_one_cut_an_utterance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare_talks(corpus_dir: Path, num_jobs: int = 1) -> dict[str, dict[str, object]]:
        """Long recordings by language and part, as recipes return them."""
        write(corpus_dir / "talk.wav", seconds=3)
        recordings = [describe(corpus_dir / "talk.wav", "talk")]
        supervisions = [SupervisionSegment(f"talk-{k}", "talk", k, 0.75) for k in (1, 0)]
        manifests = {
            "recordings": RecordingSet.from_recordings(recordings),
            "supervisions": SupervisionSet.from_segments(supervisions),
        }
        return {"en": {"dev": manifests}}

    monkeypatch.setattr(lhotse.recipes, "prepare_talks", prepare_talks, raising=False)
    assert prepare("talks", tmp_path, tmp_path) == {"cuts_en_dev.jsonl.gz": 2}
    assert [(cut.id, cut.duration) for cut in load_cuts(tmp_path)] == [("talk", 3.0)]
    prepare("talks", tmp_path, tmp_path, segments=True)
    assert [(cut.id, cut.duration) for cut in load_cuts(tmp_path)] == [("talk-0", 0.75), ("talk-1", 0.75)]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("libri_speech", {}, ConfigError, "did you mean librispeech"),
        ("qqqqqqqqq", {}, ConfigError, "voxtok corpus --help lists them"),
        ("yesno", {}, ManifestError, "prepare_yesno failed: No such directory"),
        ("gigaspeech", {"download": True}, ConfigError, "cannot download gigaspeech"),
        ("yesno", {"settings": ("part=x",)}, ConfigError, "'part=x' is none.* corpus_dir, output_dir"),
        ("yesno", {"settings": ("url",)}, ConfigError, "NAME=VALUE"),
        ("hifitts", {"settings": ("num_jobs=x",)}, ConfigError, "num_jobs=x: that is no"),
        ("vctk", {"settings": ("use_edinburgh_vctk_url=maybe",)}, ConfigError, "use_edinburgh_vctk_url=maybe"),
        ("switchboard", {}, ManifestError, "prepare_switchboard failed"),
        ("heroico", {}, ConfigError, "needs more settings: transcript_dir=..."),
        ("yesno", {"download": True, "settings": ("url=file:///nowhere.tgz",)}, ManifestError, "download_yesno failed"),
    ],
)
def test_what_cannot_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)  # where Lhotse's switchboard leaves the file that it cannot download
    with pytest.raises(error, match=message):
        prepare(name, tmp_path / "nowhere", tmp_path / "out", **options)


def test_an_error_without_message_was_shown_as_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare_silence(corpus_dir: Path) -> None:
        raise AssertionError

    monkeypatch.setattr(lhotse.recipes, "prepare_silence", prepare_silence, raising=False)
    with pytest.raises(ManifestError, match="prepare_silence failed: AssertionError"):
        prepare("silence", tmp_path, tmp_path / "out")


def test_a_folder_with_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "LJ").mkdir()
    (tmp_path / "LJ/metadata.csv").write_text("")
    with pytest.raises(ManifestError, match="ljspeech"):
        prepare("ljspeech", tmp_path / "LJ", tmp_path / "out")


def test_all_the_corpora_that_the_readme_names_are_known() -> None:
    names = set(corpus_names())
    assert {
        "librispeech",
        "ljspeech",
        "vctk",
        "libritts",
        "mls",
        "gigaspeech",
        "aishell",
        "commonvoice",
        "yesno",
    } <= names
    assert len(names) > 90


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_ljspeech(tmp_path / "LJ")
    assert main(["ljspeech", "--corpus-dir", str(tmp_path / "LJ"), "--out", str(tmp_path / "out")]) == 0
    assert (
        capsys.readouterr().out == f"{tmp_path}/out/cuts.jsonl.gz: 2 utterances in 2 recordings, 0 speakers, 0.00 h\n"
    )
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "librispeech" in capsys.readouterr().out
    assert main(["--speakers", "3"]) == 2
    with pytest.raises(ConfigError, match="did you mean ljspeech"):
        main(["ljspech", "--help"])
