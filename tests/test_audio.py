"""Reading audio: equal to Lhotse's own reading, exact by spans, and every kind of bad file has its reason."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import Recording
from lhotse.audio import AudioSource
from lhotse.cut import Cut, MonoCut
from lhotse.utils import compute_num_samples

from voxtok.manifests.audio import REASONS, describe, num_samples, read_audio, read_channels, read_span
from voxtok.manifests.samples import resample
from voxtok.runtime.errors import BadAudio

RATES = [8000, 16000, 22050, 44100, 48000]


def noise(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """(samples, channels) float32 in [-0.5, 0.5]."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, 0.5, (round(seconds * rate), channels)).astype(np.float32)


def recording(path: Path, samples: np.ndarray, rate: int, **options: str) -> Recording:
    soundfile.write(path, samples, rate, **options)
    return Recording.from_file(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Cut]:
    folder = tmp_path_factory.mktemp("rates")
    return {rate: recording(folder / f"{rate}.wav", noise(1.3, rate), rate).to_cut() for rate in RATES}


def reason_of(cut: Cut, rate: int = 16000) -> str:
    with pytest.raises(BadAudio) as caught:
        read_audio(cut, rate)
    assert caught.value.cut_id == cut.id
    assert caught.value.reason in REASONS
    assert "\n" not in caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("rate", RATES)
def test_whole_cut_equals_lhotse(files: dict[int, Cut], rate: int) -> None:
    samples = read_audio(files[rate], 16000)
    assert samples.dtype == np.float32
    assert samples.shape == (num_samples(files[rate], 16000),)
    np.testing.assert_allclose(samples, files[rate].resample(16000).load_audio()[0], atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
def test_part_of_a_recording_equals_lhotse(files: dict[int, Cut], rate: int) -> None:
    cut = files[rate].truncate(offset=0.25, duration=0.6)
    np.testing.assert_allclose(read_audio(cut, 16000), cut.resample(16000).load_audio()[0], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(rate=st.sampled_from(RATES), start=st.integers(-100, 22000), length=st.integers(0, 9000))
def test_span_is_that_part_of_the_whole(files: dict[int, Cut], rate: int, start: int, length: int) -> None:
    whole = read_audio(files[rate], 16000)
    span = read_span(files[rate], 16000, start, start + length)
    expected = whole[max(start, 0) : max(start + length, 0)]
    assert span.shape == expected.shape
    if rate == 16000:
        assert np.array_equal(span, expected)
    else:
        np.testing.assert_allclose(span, expected, atol=2e-6)


def test_spans_put_together_are_the_whole(files: dict[int, Cut]) -> None:
    whole = read_audio(files[44100], 16000)
    spans = [read_span(files[44100], 16000, start, start + 1777) for start in range(0, len(whole), 1777)]
    np.testing.assert_allclose(np.concatenate(spans), whole, atol=2e-6)


def test_span_reads_only_its_part_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = recording(tmp_path / "long.wav", noise(60, 48000), 48000).to_cut()
    read: list[int] = []
    original = soundfile.SoundFile.read

    def counting(self: soundfile.SoundFile, frames: int = -1, **options: object) -> np.ndarray:
        read.append(frames)
        samples: np.ndarray = original(self, frames, **options)
        return samples

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    read_span(cut, 16000, 480_000, 496_000)
    assert 48_000 <= sum(read) < 49_000


def test_channels_are_averaged(tmp_path: Path) -> None:
    samples = noise(0.5, 48000, channels=2)
    stereo = recording(tmp_path / "stereo.wav", samples, 48000, subtype="FLOAT").to_cut()
    np.testing.assert_allclose(read_audio(stereo, 48000), samples.mean(axis=1), atol=1e-7)
    mono = recording(tmp_path / "mono.wav", samples.mean(axis=1), 48000, subtype="FLOAT").to_cut()
    np.testing.assert_allclose(read_audio(stereo, 16000), read_audio(mono, 16000), atol=1e-6)


def test_one_channel_of_two(tmp_path: Path) -> None:
    samples = noise(0.5, 16000, channels=2)
    stereo = recording(tmp_path / "stereo.wav", samples, 16000, subtype="FLOAT")
    right = MonoCut(id="right", start=0, duration=stereo.duration, channel=1, recording=stereo)
    assert np.array_equal(read_audio(right, 16000), samples[:, 1])


def test_one_file_a_channel(tmp_path: Path) -> None:
    samples = noise(0.5, 16000, channels=2)
    parts = [recording(tmp_path / f"{n}.wav", samples[:, n], 16000, subtype="FLOAT") for n in (0, 1)]
    sources = [AudioSource("file", [n], part.sources[0].source) for n, part in enumerate(parts)]
    both = Recording("both", sources, 16000, len(samples), parts[0].duration).to_cut()
    np.testing.assert_allclose(read_audio(both, 16000), samples.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize(("container", "subtype"), [("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", None)])
def test_compressed_formats(tmp_path: Path, container: str, subtype: str | None) -> None:
    path = tmp_path / "naïve name 日本.audio"
    tone = 0.3 * np.sin(np.arange(32000) / 10)
    soundfile.write(path, tone, 16000, format=container, subtype=subtype)
    cut = Recording.from_file(path).to_cut()
    samples = read_audio(cut, 16000)
    assert samples.shape == (32000,)
    assert np.abs(samples[2000:-2000] - tone[2000:-2000]).max() < 0.02
    np.testing.assert_allclose(read_span(cut, 16000, 20000, 29000), samples[20000:29000], atol=1e-6)


def test_in_memory_recording(files: dict[int, Cut]) -> None:
    path = Path(files[22050].recording.sources[0].source)
    cut = Recording.from_bytes(path.read_bytes(), "memory").to_cut()
    assert np.array_equal(read_audio(cut, 16000), read_audio(files[22050], 16000))
    assert np.array_equal(read_span(cut, 16000, 500, 900), read_span(files[22050], 16000, 500, 900))


def test_pipe(files: dict[int, Cut]) -> None:
    source = files[16000].recording.sources[0].source
    piped = Recording("pipe", [AudioSource("command", [0], f"cat {source}")], 16000, 20800, 1.3).to_cut()
    part = piped.truncate(offset=0.5, duration=0.25)
    assert np.array_equal(read_audio(part, 16000), read_audio(files[16000], 16000)[8000:12000])


def test_recording_that_lhotse_resamples_is_read_from_its_source_rate(files: dict[int, Cut]) -> None:
    resampled = files[48000].resample(16000)
    assert np.array_equal(read_audio(resampled, 16000), read_audio(files[48000], 16000))
    assert np.array_equal(read_span(resampled, 16000, 4000, 9000), read_span(files[48000], 16000, 4000, 9000))


def test_other_transforms_go_through_lhotse(files: dict[int, Cut]) -> None:
    faster = files[16000].perturb_speed(1.1)
    np.testing.assert_allclose(read_audio(faster, 16000), faster.load_audio()[0], atol=1e-6)
    assert np.array_equal(read_span(faster, 16000, 100, 700), read_audio(faster, 16000)[100:700])


def test_mixed_and_padded_cuts(files: dict[int, Cut]) -> None:
    mixed = files[16000].append(files[16000]).pad(duration=3.0)
    samples = read_audio(mixed, 16000)
    assert samples.shape == (48000,)
    np.testing.assert_allclose(samples[:20800], read_audio(files[16000], 16000), atol=1e-6)
    assert not samples[41600:].any()


def test_missing_file(files: dict[int, Cut], tmp_path: Path) -> None:
    cut = recording(tmp_path / "gone.wav", noise(0.5, 16000), 16000).to_cut()
    (tmp_path / "gone.wav").unlink()
    assert reason_of(cut) == "missing"
    assert reason_of(cut.perturb_speed(1.1)) in ("missing", "unreadable")


@pytest.mark.parametrize("content", [b"", b"RIFF", b"this is a text file, not audio\n" * 50])
def test_not_audio(tmp_path: Path, content: bytes) -> None:
    cut = recording(tmp_path / "x.wav", noise(0.5, 16000), 16000).to_cut()
    (tmp_path / "x.wav").write_bytes(content)
    assert reason_of(cut) == "unreadable"


def test_empty_file(tmp_path: Path) -> None:
    cut = recording(tmp_path / "x.wav", noise(0.5, 16000), 16000).to_cut()
    soundfile.write(tmp_path / "x.wav", np.zeros(0), 16000)
    assert reason_of(cut) == "empty"


@pytest.mark.parametrize(("suffix", "keep"), [("flac", 0.5), ("flac", 0.1), ("wav", 0.5), ("mp3", 0.5), ("ogg", 0.6)])
def test_file_cut_in_the_middle(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"x.{suffix}"
    cut = recording(path, noise(4, 16000), 16000).to_cut()
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert reason_of(cut) == "truncated"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_non_finite_samples(tmp_path: Path, bad: float, rate: int) -> None:
    samples = noise(0.5, rate)
    samples[100] = bad
    cut = recording(tmp_path / "x.wav", samples, rate, subtype="FLOAT").to_cut()
    assert reason_of(cut) == "non-finite"


def test_rate_other_than_the_manifest_says(tmp_path: Path) -> None:
    cut = recording(tmp_path / "x.wav", noise(0.5, 16000), 16000).to_cut()
    soundfile.write(tmp_path / "x.wav", noise(0.5, 8000), 8000)
    assert reason_of(cut) == "wrong rate"


def test_a_few_missing_samples_are_zeros(tmp_path: Path) -> None:
    samples = noise(1.0, 16000)[:, 0]
    cut = recording(tmp_path / "x.wav", samples, 16000, subtype="FLOAT").to_cut()
    soundfile.write(tmp_path / "x.wav", samples[:-400], 16000, subtype="FLOAT")
    assert np.array_equal(read_audio(cut, 16000), np.concatenate([samples[:-400], np.zeros(400)]))
    soundfile.write(tmp_path / "x.wav", samples[:-401], 16000, subtype="FLOAT")
    assert reason_of(cut) == "truncated"


def test_a_format_that_nobody_reads(tmp_path: Path) -> None:
    cut = recording(tmp_path / "x.wav", noise(0.5, 16000), 16000).to_cut()
    cut.recording.sources[0].source = str(tmp_path / "x.m4a")
    (tmp_path / "x.m4a").write_bytes(b"nonsense" * 100)
    assert reason_of(cut) == "unreadable"


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64"])
def test_a_truncated_wav_was_accepted_where_the_manifest_was_made_of_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(1.0, 16000), 16000, format=kind, subtype="PCM_16")
    whole = path.read_bytes()
    path.write_bytes(whole[:-600])  # within the tolerance of 25 ms, 800 bytes
    assert describe(path, "x").num_samples == 15700
    path.write_bytes(whole[:-16000])
    with pytest.raises(BadAudio, match=r"truncated: by its header, the file lacks its last 0\.500 s"):
        describe(path, "x")
    assert reason_of(Recording.from_file(path).to_cut()) == "truncated"
    assert reason_of(Recording.from_bytes(path.read_bytes(), "memory").to_cut()) == "truncated"


@pytest.mark.parametrize("size", [0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_wav_written_to_a_pipe_declares_no_length(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(1.0, 16000), 16000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    content[4:8] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    assert read_audio(describe(path, "x").to_cut(), 16000).shape == (16000,)


def test_a_cut_without_recording_was_an_attribute_error() -> None:
    cut = MonoCut(id="bare", start=0, duration=1.0, channel=0)
    assert reason_of(cut) == "missing"
    with pytest.raises(BadAudio, match="bare: missing: the cut has no recording"):
        read_span(cut, 16000, 0, 9)
    with pytest.raises(BadAudio, match="bare: missing: the cut has no recording"):
        read_channels(cut, 0, 9)


def test_a_named_pipe_was_waited_for_for_ever(tmp_path: Path) -> None:
    cut = recording(tmp_path / "p.wav", noise(0.5, 16000), 16000).to_cut()
    (tmp_path / "p.wav").unlink()
    os.mkfifo(tmp_path / "p.wav")
    assert reason_of(cut) == "unreadable"
    with pytest.raises(BadAudio, match="not a regular file"):
        describe(tmp_path / "p.wav", "p")


@settings(max_examples=60, deadline=None)
@given(rate=st.sampled_from(RATES), length=st.integers(1, 4000))
def test_resampling_in_memory_rounds_the_length_as_lhotse_does(rate: int, length: int) -> None:
    assert len(resample(np.zeros(length, np.float32), rate, 16000)) == compute_num_samples(length / rate, 16000)


@pytest.mark.parametrize("length", [22050, 22051, 22052, 22053, 30011])
def test_samples_in_memory_were_one_longer_than_those_of_their_file(tmp_path: Path, length: int) -> None:
    """22051 samples at 44.1 kHz are 8000.36 at 16 kHz: 8000 by Lhotse's rule, 8001 by torchaudio's."""
    samples = noise(1.0, 44100)[:length, 0]
    cut = recording(tmp_path / "x.wav", samples, 44100, subtype="FLOAT").to_cut()
    assert np.array_equal(resample(samples, 44100, 16000), read_audio(cut, 16000))
