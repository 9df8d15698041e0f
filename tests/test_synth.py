"""The embedded corpus: equal bytes for equal settings, alignments that cover the speech, errors that have names."""

import hashlib
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse.cut import Cut

from voxtok.manifests import espeak
from voxtok.manifests.audio import read_audio
from voxtok.manifests.corpora import main
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.sentences import WORDS, sentences
from voxtok.manifests.synth import SynthConfig, draw_speaker, synthesize
from voxtok.manifests.utterance import resample
from voxtok.runtime.errors import ConfigError, VoxtokError

pytest.importorskip("espeakng_loader", reason="pip install voxtok[synth]")


def settings(out: Path, **options: object) -> SynthConfig:
    given = {"out": str(out), "speakers": 3, "utterances": 4, "seed": 7, "workers": 1} | options
    return SynthConfig(**given)  # type: ignore[arg-type]


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "corpus"
    size = synthesize(settings(out))
    assert (size.recordings, size.utterances, len(size.speakers)) == (12, 12, 3)
    return out


@pytest.fixture(scope="module")
def cuts(corpus: Path) -> list[Cut]:
    return list(load_cuts(corpus))


def test_bytes_depend_on_the_settings_only(corpus: Path) -> None:
    before = hashes(corpus)
    (corpus / "synth.json").unlink()  # so that all is made again
    synthesize(settings(corpus, workers=2))
    assert hashes(corpus) == before
    assert len(before) == 12 + 2


def test_a_finished_corpus_is_left_alone_and_other_settings_redo_it(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    synthesize(settings(out, speakers=1, utterances=1))
    path = out / "audio/s000/synth-s000-u0000.flac"
    written = path.stat().st_mtime_ns
    assert synthesize(settings(out, speakers=1, utterances=1)).utterances == 1
    assert path.stat().st_mtime_ns == written
    synthesize(settings(out, speakers=1, utterances=1, seed=8))
    assert path.stat().st_mtime_ns > written


def test_a_killed_run_is_completed_with_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    """Without the marker, whatever is there is made again: an empty audio file and a stale manifest too."""
    before = hashes(corpus)
    (corpus / "synth.json").unlink()
    (corpus / "audio/s001/synth-s001-u0002.flac").write_bytes(b"")
    (corpus / "cuts.jsonl.gz").write_bytes(b"half")
    synthesize(settings(corpus))
    assert hashes(corpus) == before


def test_cuts_say_who_says_what(cuts: list[Cut]) -> None:
    assert [cut.id for cut in cuts] == [f"synth-s{s:03}-u{u:04}" for s in range(3) for u in range(4)]
    for cut in cuts:
        (supervision,) = cut.supervisions
        assert supervision.speaker == cut.id[:10]
        assert supervision.language == "en-us"
        assert supervision.duration == cut.duration
        assert Path(cut.recording.sources[0].source).is_absolute()
    assert len({cut.supervisions[0].text for cut in cuts}) == 12


def test_audio_is_16_khz_and_neither_clipped_nor_silent(cuts: list[Cut]) -> None:
    for cut in cuts:
        assert soundfile.info(cut.recording.sources[0].source).subtype == "PCM_16"
        samples = read_audio(cut, 16000)
        assert cut.sampling_rate == 16000
        assert 0.02 < np.abs(samples).max() <= 0.91


def test_phones_cover_the_utterance_without_gaps(cuts: list[Cut]) -> None:
    for cut in cuts:
        phones = cut.supervisions[0].alignment["phone"]
        assert phones[0].start == 0
        assert phones[-1].end == pytest.approx(cut.duration, abs=1e-4)
        for one, following in pairwise(phones):
            assert following.start == pytest.approx(one.end, abs=2e-5)
        assert all(item.duration > 0 for item in phones)
        assert (phones[0].symbol, phones[-1].symbol) == ("SIL", "SIL")


def test_silence_is_quiet_and_speech_is_not(cuts: list[Cut]) -> None:
    """Exact times: the level changes by far more than 20 dB at the boundary of the first and last phone."""
    for cut in cuts:
        samples = read_audio(cut, 16000)
        phones = cut.supervisions[0].alignment["phone"]
        speech = samples[round(phones[1].start * 16000) : round(phones[-1].start * 16000)]
        before, after = samples[: round(phones[1].start * 16000)], samples[round(phones[-1].start * 16000) :]
        for silence in (before, after[480:]):  # the last phone dies away for some milliseconds
            assert np.sqrt(np.mean(silence**2)) < 0.1 * np.sqrt(np.mean(speech**2))


def test_words_begin_and_end_with_phones(cuts: list[Cut]) -> None:
    for cut in cuts:
        alignment = cut.supervisions[0].alignment
        assert " ".join(item.symbol for item in alignment["word"]) == cut.supervisions[0].text
        starts = {item.start for item in alignment["phone"]}
        assert all(item.start in starts for item in alignment["word"])


def test_speakers_differ(cuts: list[Cut]) -> None:
    speakers = [draw_speaker(index, 7, ["en-us", "en-gb"]) for index in range(40)]
    assert len({speaker.variant for speaker in speakers}) == 40
    assert len({(speaker.voice.pitch, speaker.voice.rate_wpm, speaker.formant_scale) for speaker in speakers}) == 40
    assert {speaker.gender for speaker in speakers} == {"M", "F", None}
    assert [speaker.voice.language for speaker in speakers[:3]] == ["en-us", "en-gb", "en-us"]
    assert speakers[3] == draw_speaker(3, 7, ["en-us", "en-gb"])


def test_parts_of_a_corpus_share_no_speaker_and_no_sentence(tmp_path: Path) -> None:
    """Speakers 0 and 1 made apart are those made together."""
    whole = settings(tmp_path / "whole", speakers=2, utterances=2)
    second = settings(tmp_path / "second", speakers=1, utterances=2, first_speaker=1)
    synthesize(whole)
    synthesize(second)
    together = [(cut.id, cut.supervisions[0].text) for cut in load_cuts(tmp_path / "whole")]
    assert [(cut.id, cut.supervisions[0].text) for cut in load_cuts(tmp_path / "second")] == together[2:]


def test_more_speakers_than_espeak_ng_knows_voices(tmp_path: Path) -> None:
    config = SynthConfig(out=str(tmp_path), speakers=401, utterances=1, seed=0)
    assert synthesize(config).utterances == 401


def test_about_fifty_english_phones(tmp_path: Path) -> None:
    text = tmp_path / "words.txt"
    text.write_text(
        "\n".join(" ".join(words).replace("_", " ") for words in WORDS.values()) + "\npleasure usual young\n"
    )
    lines = len(text.read_text().splitlines())
    synthesize(settings(tmp_path / "out", speakers=1, utterances=lines, sentences=str(text), workers=1))
    count: Counter[str] = Counter()
    for cut in load_cuts(tmp_path / "out"):
        count.update(item.symbol for item in cut.supervisions[0].alignment["phone"])
    assert 42 <= len(count) <= 52
    assert {"SIL", "p", "T", "D", "S", "Z", "tS", "dZ", "N", "j", "i:", "I", "E", "a", "A:", "V", "OI", "aU"} <= set(
        count
    )
    assert not any(symbol[0] in "',%_" for symbol in count)


def test_a_coda_l_has_its_share_of_the_vowel(tmp_path: Path) -> None:
    """espeak-ng renders it inside the vowel and puts its event at the end: 40 % of the time is counted as /l/."""
    events = [espeak._Event(7, 0, 1, "'I"), espeak._Event(7, 1000, 1, "l"), espeak._Event(7, 1400, 1, "d")]
    samples = np.full(2000, 1000, dtype=np.int16)
    samples[1000:1400] = 0  # the closure of /d/
    phones, _ = espeak._align(samples, events, "illd", {})
    assert phones == (espeak.Unit("I", 0, 600), espeak.Unit("l", 600, 1000), espeak.Unit("d", 1000, 2000))


def test_closures_belong_to_the_stop_and_pauses_to_nobody() -> None:
    events = [
        espeak._Event(1, 0, 1, ""), espeak._Event(7, 100, 1, "a#"), espeak._Event(7, 900, 1, "'k"),
        espeak._Event(7, 1200, 1, "_:"), espeak._Event(7, 1500, 1, "_"),
        espeak._Event(1, 1500, 4, ""), espeak._Event(7, 1600, 4, "t"),
    ]  # fmt: skip
    samples = np.full(2000, 1000, dtype=np.int16)
    samples[:100] = samples[700:900] = samples[1200:1600] = 0
    phones, words = espeak._align(samples, events, "ak, t", espeak.ENGLISH)
    assert phones == (
        espeak.Unit("@", 0, 700),
        espeak.Unit("k", 700, 1200),
        espeak.Unit("SIL", 1200, 1600),
        espeak.Unit("t", 1600, 2000),
    )
    assert words == (espeak.Unit("ak", 0, 1200), espeak.Unit("t", 1600, 2000))


def test_other_languages_take_a_file_of_sentences(tmp_path: Path) -> None:
    text = tmp_path / "de.txt"
    text.write_text("Grüße aus der schönen Stadt.\n\nDas Mädchen läuft über die Straße.\n", encoding="utf-8")
    config = settings(tmp_path / "out", languages="de, en-gb", speakers=2, utterances=2, sentences=str(text))
    synthesize(config)
    cuts = list(load_cuts(tmp_path / "out"))
    assert [cut.supervisions[0].language for cut in cuts] == ["de", "de", "en-gb", "en-gb"]
    assert {cut.supervisions[0].text for cut in cuts} == {line for line in text.read_text().splitlines() if line}
    words = [item.symbol for item in cuts[0].supervisions[0].alignment["word"]]
    assert " ".join(words) == cuts[0].supervisions[0].text.rstrip(".")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": "en-uk"}, "does not speak 'en-uk'.*en-gb"),
        ({"languages": "qqqq"}, "try en-us, en-gb"),
        ({"languages": ","}, "names no language"),
        ({"languages": "de"}, "give --sentences FILE for de"),
        ({"sentences": "/nowhere/at/all.txt"}, "--sentences /nowhere"),
        ({"speakers": 0}, "--speakers must be"),
        ({"workers": 0}, "--workers must be"),
        ({"seed": -1}, "--seed and --first-speaker must not be"),
        ({"prefix": "a b"}, "--prefix"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthesize(settings(tmp_path, **options))


def test_an_empty_file_of_sentences(tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match="no sentence"):
        synthesize(settings(tmp_path, sentences=str(tmp_path / "none.txt")))


def test_a_sentence_that_cannot_be_said(tmp_path: Path) -> None:
    (tmp_path / "dots.txt").write_text("...\n")
    with pytest.raises(VoxtokError, match=r"says nothing to '...'"):
        synthesize(settings(tmp_path, speakers=1, utterances=1, sentences=str(tmp_path / "dots.txt")))


def test_the_library_is_not_loaded_into_the_caller(tmp_path: Path) -> None:
    code = (
        "import sys; from voxtok.manifests.synth import *\n"
        "if __name__ == '__main__':\n"
        f"    synthesize(SynthConfig(out={str(tmp_path / 'c')!r}, speakers=1, utterances=1, seed=1, workers=1))\n"
        "    sys.exit('libespeak' in open('/proc/self/maps').read())\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc to look at the loaded libraries")
    subprocess.run([sys.executable, script], check=True)


def test_workers_start_without_torch() -> None:
    code = "import sys, voxtok.manifests.utterance; sys.exit('torch' in sys.modules or 'lhotse' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["synth", "--out", str(tmp_path), "--speakers", "2", "--utterances", "1", "--seed", "3", "--workers", "1"]
    assert main(words) == 0
    assert "2 utterances in 2 recordings, 2 speakers" in capsys.readouterr().out


def test_resampling_keeps_a_tone_below_the_band_edge_and_nothing_above() -> None:
    time_s = np.arange(22050) / 22050
    fade = np.clip(np.minimum(time_s, 1 - time_s) * 10, 0, 1)
    kept = resample(fade * np.sin(2 * np.pi * 3000 * time_s))
    assert len(kept) == 16000
    times = np.arange(16000) / 16000
    expected = np.clip(np.minimum(times, 1 - times) * 10, 0, 1) * np.sin(2 * np.pi * 3000 * times)
    assert np.abs(kept - expected).max() < 1e-3
    assert np.abs(resample(fade * np.sin(2 * np.pi * 9000 * time_s))).max() < 1e-3


def test_sentences_differ_and_follow_the_seed() -> None:
    first = sentences(500, seed=1)
    assert len(set(first)) == 500
    assert first == sentences(500, seed=1)
    assert first[:100] == sentences(100, seed=1)
    assert not set(first) & set(sentences(500, seed=2))
    assert all(4 <= len(sentence.split()) <= 16 for sentence in first)
    assert not any(letter.isdigit() or letter in "._," for sentence in first for letter in sentence)


def test_sentences_have_plurals_and_articles() -> None:
    text = " " + " ".join(sentences(3000, seed=1)) + " "
    for right in (" an apple ", " an hour ", " a box ", " boxes ", " berries ", " teeth ", " toys ", " pages "):
        assert right in text
    for wrong in (" a apple ", " an box ", " tooths ", " toies ", " berrys "):
        assert wrong not in text
