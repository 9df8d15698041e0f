"""voxtok check: each kind of bad recording is found and named, good ones are not, the exit status says which."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.cut import Cut
from lhotse.supervision import AlignmentItem

from voxtok.manifests.check import CheckConfig, Finding, check_cuts, main
from voxtok.manifests.cuts import load_cuts, save_cuts


def tone(seconds: float, rate: int = 16000, level: float = 0.3) -> np.ndarray:
    samples: np.ndarray = level * np.sin(np.arange(round(seconds * rate)) / 7)
    return samples


def make(folder: Path, name: str, samples: np.ndarray, rate: int = 16000) -> Cut:
    soundfile.write(folder / f"{name}.wav", samples, rate, subtype="FLOAT")
    return Recording.from_file(folder / f"{name}.wav").to_cut()


def found(*cuts: Cut, **limits: float) -> list[tuple[str, str, str]]:
    config = CheckConfig(**limits)  # type: ignore[arg-type]
    return [(finding.severity, finding.problem, finding.id) for finding in check_cuts(cuts, config)]


def test_good_audio_has_no_findings(tmp_path: Path) -> None:
    assert found(make(tmp_path, "a", tone(1)), make(tmp_path, "b", tone(40))) == []


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    cuts = [make(tmp_path, name, tone(2)) for name in ("missing", "zero", "text", "empty", "wrong rate", "truncated")]
    (tmp_path / "missing.wav").unlink()
    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("words " * 99)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "wrong rate.wav", tone(2, 8000), 8000)
    (tmp_path / "truncated.wav").write_bytes((tmp_path / "truncated.wav").read_bytes()[:60000])
    assert found(*cuts) == [
        ("error", "missing", "missing"), ("error", "unreadable", "zero"), ("error", "unreadable", "text"),
        ("error", "empty", "empty"), ("error", "wrong rate", "wrong rate"), ("error", "truncated", "truncated"),
    ]  # fmt: skip


def test_a_flac_damaged_in_its_last_minute_is_found(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 16000 * 95)
    soundfile.write(tmp_path / "long.flac", samples, 16000)
    cut = Recording.from_file(tmp_path / "long.flac").to_cut()
    content = (tmp_path / "long.flac").read_bytes()
    (tmp_path / "long.flac").write_bytes(content[: int(0.98 * len(content))])
    assert found(cut) == [("error", "truncated", "long")]


def test_a_nan_anywhere_is_an_error(tmp_path: Path) -> None:
    samples = tone(70)
    samples[-5] = np.nan
    assert found(make(tmp_path, "a", samples)) == [("error", "non-finite", "a")]


def test_silence(tmp_path: Path) -> None:
    zero, quiet, audible = (
        make(tmp_path, name, tone(1, level=x)) for name, x in (("a", 0), ("b", 0.0009), ("c", 0.0011))
    )
    assert found(zero, quiet, audible) == [("error", "silent", "a"), ("error", "silent", "b")]
    assert found(quiet, silent_db=-70) == []


def test_clipping_is_counted_in_the_worst_channel(tmp_path: Path) -> None:
    loud = np.clip(tone(1, level=1.5), -1, 1)
    stereo = np.stack([tone(1), loud], axis=1)
    share = float((np.abs(loud) >= 0.9999).mean())
    clipped = make(tmp_path, "a", stereo)
    assert found(clipped) == [("warning", "clipped", "a")]
    assert found(clipped, clipped_share=share - 1e-6) == [("warning", "clipped", "a")]
    assert found(clipped, clipped_share=share + 1e-6) == []


def test_dc_offset(tmp_path: Path) -> None:
    shifted = make(tmp_path, "a", tone(1) - 0.05)
    assert found(shifted) == [("warning", "DC offset", "a")]
    assert found(shifted, dc_offset=0.06) == []


def test_odd_rate_is_of_the_minority_or_as_asked(tmp_path: Path) -> None:
    cuts = [make(tmp_path, f"r{n}", tone(1, rate), rate) for n, rate in enumerate((8000, 16000, 16000))]
    assert found(*cuts) == [("warning", "odd rate", "r0")]
    assert found(*cuts, sampling_rate=8000) == [("warning", "odd rate", "r1"), ("warning", "odd rate", "r2")]


def test_a_file_longer_than_its_manifest(tmp_path: Path) -> None:
    cut = make(tmp_path, "a", tone(1))
    soundfile.write(tmp_path / "a.wav", tone(1.5), 16000)
    assert found(cut) == [("warning", "duration mismatch", "a")]


def test_cuts_and_supervisions_past_the_end(tmp_path: Path) -> None:
    cut = make(tmp_path, "a", tone(2))
    alignment = {"phone": [AlignmentItem("A", 0.5, 0.5), AlignmentItem("B", 1.0, 1.5)]}
    cut.supervisions = [
        SupervisionSegment("fits", "a", 0.0, 2.0),
        SupervisionSegment("late", "a", 1.5, 1.0),
        SupervisionSegment("early", "a", -0.5, 1.0),
        SupervisionSegment("aligned", "a", 0.5, 1.5, alignment=alignment),
    ]
    details = [(finding.problem, finding.detail.split()[1]) for finding in check_cuts([cut], CheckConfig())]
    assert details == [
        ("supervision outside", "late"),
        ("supervision outside", "early"),
        ("alignment outside", "alignment"),
    ]
    beyond = make(tmp_path, "b", tone(2))
    beyond.start = 0.5
    assert found(beyond) == [("error", "past the end", "b")]


def test_equal_ids_and_short_cuts(tmp_path: Path) -> None:
    cut, short = make(tmp_path, "a", tone(1)), make(tmp_path, "b", tone(0.05))
    assert found(cut, short, cut) == [("error", "too short", "b"), ("error", "duplicate id", "a")]


def test_a_recording_of_many_cuts_is_read_once(tmp_path: Path) -> None:
    cut = make(tmp_path, "long", tone(10) + 0.1)
    parts = [cut.truncate(offset=start, duration=1, preserve_id=False) for start in range(10)]
    assert found(*parts) == [("warning", "DC offset", "long")]


def test_findings_keep_the_order_of_the_cuts_whatever_the_threads(tmp_path: Path) -> None:
    cuts = [make(tmp_path, f"{n:02}", tone(0.2) + (0.1 if n % 3 else 0)) for n in range(60)]
    expected = [("warning", "DC offset", f"{n:02}") for n in range(60) if n % 3]
    assert found(*cuts) == found(*cuts, readers=1) == expected


def test_mixed_cuts_are_checked_track_by_track(tmp_path: Path) -> None:
    mixed = make(tmp_path, "a", tone(1)).append(make(tmp_path, "b", tone(1) + 0.1)).pad(duration=3)
    assert found(mixed) == [("warning", "DC offset", "b")]


def test_transformed_recordings_are_read_through_lhotse(tmp_path: Path) -> None:
    cut = make(tmp_path, "a", tone(1) + 0.1).perturb_speed(1.1)
    assert found(cut) == [("warning", "DC offset", "a_sp1.1")]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_cuts(tmp_path / "good.jsonl.gz", [make(tmp_path, "a", tone(1))])
    save_cuts(tmp_path / "warned.jsonl.gz", [make(tmp_path, "b", tone(1) + 0.1)])
    gone = make(tmp_path, "c", tone(1))
    (tmp_path / "c.wav").unlink()
    save_cuts(tmp_path / "bad.jsonl.gz", [gone])
    assert main([str(tmp_path / "good.jsonl.gz")]) == 0
    assert capsys.readouterr() == ("", "1 cuts: 0 errors, 0 warnings\n")
    assert main([str(tmp_path / "good.jsonl.gz"), str(tmp_path / "warned.jsonl.gz")]) == 0
    printed = capsys.readouterr()
    assert printed.out == "warning\tDC offset\tb\tthe mean is 0.100\n"
    assert printed.err == "2 cuts: 0 errors, 1 warnings (DC offset 1)\n"
    assert main([str(tmp_path / "bad.jsonl.gz"), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["cuts"], report["counts"]) == (1, [{"severity": "error", "problem": "missing", "count": 1}])
    assert Finding(**report["findings"][0]).id == "c"


@pytest.mark.filterwarnings("ignore:unclosed file")  # Lhotse's Shar reader leaves closing to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_shar(tmp_path: Path) -> None:
    out = tmp_path / "shar"
    out.mkdir()
    cuts = CutSet.from_cuts([make(tmp_path, "a", tone(1)), make(tmp_path, "b", tone(1) + 0.1)])
    cuts.to_shar(out, fields={"recording": "flac"})
    assert found(*load_cuts(out)) == [("warning", "DC offset", "b")]


def test_real_speech_has_the_offsets_it_is_known_for(voxtok_data: Path) -> None:
    findings = list(check_cuts(load_cuts(voxtok_data / "librispeech_mini"), CheckConfig(dc_offset=0.1)))
    assert {(finding.problem, finding.id) for finding in findings} == {
        ("DC offset", "445-123857-0000"), ("DC offset", "1363-135842-0000")
    }  # fmt: skip
