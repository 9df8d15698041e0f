"""A cut's samples, whole or by spans: mono float32 at the asked rate, or a BadAudio that says why not.

Files and in-memory recordings are read by soundfile at exact sample positions, so that an hour-long file can be taken
span by span; everything else (pipes, URLs, mixed cuts, Lhotse transforms) is read whole through Lhotse.
"""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from lhotse import Recording
from lhotse.audio import AudioSource
from lhotse.augmentation import AudioTransform, Resample, get_or_create_resampler
from lhotse.cut import Cut, MonoCut, MultiCut
from lhotse.utils import compute_num_samples

from voxtok.manifests.riff import RIFF_FORMATS, lacking_s
from voxtok.manifests.samples import fill, filtered
from voxtok.runtime.errors import BadAudio, one_line

Samples = npt.NDArray[np.float32]

REASONS = (
    *("missing", "unreadable", "empty", "too short", "too long", "truncated", "non-finite", "wrong rate"),
    *("duplicate id", "no phones"),
)
"""Every reason that a line of rejected.jsonl can give."""

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf")
"""File names, in lower case, that libsndfile reads."""

LHOTSE_SUFFIXES = (".sph", ".m4a", ".mp4", ".aac", ".wma", ".webm")
"""File names that Lhotse has further readers for (sph2pipe, ffmpeg), where libsndfile cannot open them."""

TOLERANCE_S = 0.025
"""A recording may be this much shorter than its manifest says (zeros fill it up); beyond, it is truncated."""


def read_audio(cut: Cut, sampling_rate: int) -> Samples:
    """Read a whole cut, down-mixed by the mean over its channels and resampled (windowed sinc, as Lhotse does).

    Returns:
        (num_samples(cut, sampling_rate),) float32.

    Raises:
        BadAudio: the recording is missing, unreadable, empty, truncated, of another sampling rate than its manifest
            says, or has non-finite samples.
    """
    return read_span(cut, sampling_rate, 0, num_samples(cut, sampling_rate))


def num_samples(cut: Cut, sampling_rate: int) -> int:
    """Samples of a cut at a sampling rate: its duration, rounded half up."""
    return int(compute_num_samples(cut.duration, sampling_rate))


def describe(path: Path, recording_id: str) -> Recording:
    """Make the manifest of an audio file from its header, without decoding it.

    Raises:
        BadAudio: the file is missing, unreadable, empty, or shorter than its header says.
    """
    _check_is_file(recording_id, path)
    try:
        header = soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError) as error:
        raise _bad_file(recording_id, path, error) from error
    if header.frames == 0:
        raise BadAudio(recording_id, "empty", f"{path}: no samples")
    if header.format in RIFF_FORMATS:
        _check_whole(recording_id, path)
    source = AudioSource("file", list(range(header.channels)), str(path))
    return Recording(recording_id, [source], header.samplerate, header.frames, header.frames / header.samplerate)


def read_span(cut: Cut, sampling_rate: int, start: int, stop: int) -> Samples:
    """Read the samples [start, stop) of `read_audio(cut, sampling_rate)` without reading the rest.

    When the rate changes, as many source samples as the resampling filter is long are read on both sides, so a span
    equals that part of the whole to float32 rounding.

    Args:
        start, stop: positions at `sampling_rate`; positions outside the cut are clipped to it, as in slicing.

    Returns:
        (stop - start,) float32.

    Raises:
        BadAudio: as `read_audio`.
    """
    length = num_samples(cut, sampling_rate)
    _check_has_recording(cut)
    if length == 0:
        raise BadAudio(cut.id, "empty", f"the cut lasts {cut.duration} s")
    start, stop = min(max(start, 0), length), min(max(stop, 0), length)
    if start >= stop:
        return np.zeros(0, dtype=np.float32)
    rate = native_rate(cut)
    if rate == sampling_rate:
        return fill(_mono(read_channels(cut, start, stop)), stop - start)
    common = math.gcd(rate, sampling_rate)
    block_in, block_out = rate // common, sampling_rate // common  # the filter repeats every block
    margin = math.ceil(get_or_create_resampler(rate, sampling_rate).width / block_in) + 1
    first = max(start // block_out - margin, 0)
    last = math.ceil(stop / block_out) + margin
    samples = _mono(read_channels(cut, first * block_in, last * block_in))
    resampled = filtered(samples, rate, sampling_rate)
    return fill(resampled[start - first * block_out : stop - first * block_out], stop - start)


def native_rate(cut: Cut) -> int:
    """Sampling rate at which `read_channels` reads a cut: the file's own wherever the file is read directly.

    Raises:
        BadAudio: the cut has no recording.
    """
    _check_has_recording(cut)
    if reads_spans(cut) and cut.recording.transforms:
        return int(_transform(cut.recording).source_sampling_rate)
    return int(cut.sampling_rate)


def read_channels(cut: Cut, start: int, stop: int) -> Samples:
    """Read the samples [start, stop) of a cut at `native_rate(cut)`, every channel of the cut apart.

    Returns:
        (channels, n) float32 with n = stop - start, less where the cut ends before `stop`.

    Raises:
        BadAudio: as `read_audio`.
    """
    rate = native_rate(cut)
    stop = min(stop, num_samples(cut, rate))
    if reads_spans(cut):
        offset = int(compute_num_samples(cut.start, rate))
        audio = _read_sources(cut, lambda source: _read_direct(cut, source, rate, offset + start, offset + stop))
    else:
        audio = _guarded(cut, lambda: _through_lhotse(cut))[:, start:stop]
    if not np.isfinite(audio).all():
        raise BadAudio(cut.id, "non-finite", "NaN or infinite samples")
    return audio


def reads_spans(cut: Cut) -> bool:
    """Whether a span is read alone: of a file or an in-memory recording, untransformed (at most resampled).

    Of anything else (pipes, URLs, mixed cuts, Lhotse's transforms), each span costs reading the whole.
    """
    if not isinstance(cut, MonoCut | MultiCut) or not cut.has_recording or cut.recording.has_video:
        return False
    recording = cut.recording
    if any(source.type not in ("file", "memory") or ".tar/" in str(source.source) for source in recording.sources):
        return False
    return not recording.transforms or (len(recording.transforms) == 1 and isinstance(_transform(recording), Resample))


def _transform(recording: Recording) -> Any:
    first = recording.transforms[0]
    return AudioTransform.from_dict(first) if isinstance(first, dict) else first


def _read_sources(cut: Cut, read: Callable[[AudioSource], Samples]) -> Samples:
    """Stack the cut's channels, which may lie in one file each."""
    wanted = {cut.channel} if isinstance(cut.channel, int) else set(cut.channel)
    rows = []
    for source in cut.recording.sources:
        keep = [row for row, channel in enumerate(source.channels) if channel in wanted]
        if keep:
            rows.append(read(source)[keep])
    if not rows:
        raise BadAudio(cut.id, "missing", f"no source has channel {sorted(wanted)}")
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def _read_direct(cut: Cut, source: AudioSource, rate: int, start: int, stop: int) -> Samples:
    """Read samples [start, stop) of a file or of bytes; (channels, stop - start).

    MP3 and Opus frames depend on those before them: after a seek they are right only some frames later, so a second
    more is decoded in front.
    """
    if source.type == "file":
        _check_is_file(cut.id, Path(source.source))
    try:
        file = soundfile.SoundFile(io.BytesIO(source.source) if source.type == "memory" else source.source)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        return _not_opened(cut, source, error)[:, start:stop]
    with file:
        if file.samplerate != rate:
            raise BadAudio(cut.id, "wrong rate", f"the file has {file.samplerate} Hz, the manifest says {rate} Hz")
        if file.frames == 0:
            raise BadAudio(cut.id, "empty", "the file has no samples")
        if file.format in RIFF_FORMATS:
            _check_whole(cut.id, source.source if source.type == "memory" else Path(source.source))
        _check_length(cut, file.frames, int(compute_num_samples(cut.recording.duration, rate)), rate)
        try:
            lead_in = min(start, rate if file.subtype.startswith(("MPEG", "OPUS")) else 0)
            file.seek(min(start - lead_in, file.frames))
            audio = file.read(lead_in + stop - start, dtype="float32", always_2d=True).T[:, lead_in:]  # (channels, n)
        except soundfile.SoundFileError as error:
            raise BadAudio(cut.id, "truncated", one_line(error)) from error
    _check_length(cut, start + audio.shape[1], stop, rate)
    return fill(audio, stop - start)


def _check_has_recording(cut: Cut) -> None:
    if isinstance(cut, MonoCut | MultiCut) and not cut.has_recording:
        raise BadAudio(cut.id, "missing", "the cut has no recording")


def _check_is_file(cut_id: str, path: Path) -> None:
    """Refuse a named pipe or device, whose opening may wait for ever."""
    if path.exists() and not path.is_file():
        raise BadAudio(cut_id, "unreadable", f"{path}: not a regular file")


def _check_whole(cut_id: str, content: Path | bytes) -> None:
    seconds = lacking_s(content)
    if seconds > TOLERANCE_S:
        raise BadAudio(cut_id, "truncated", f"by its header, the file lacks its last {seconds:.3f} s")


def _not_opened(cut: Cut, source: AudioSource, error: Exception) -> Samples:
    """Say why a source does not open, unless Lhotse has a reader for a format that libsndfile does not know."""
    if source.type == "memory":
        raise BadAudio(cut.id, "unreadable", f"in memory: {one_line(error)}") from error
    path = Path(source.source)
    if path.suffix.lower() in LHOTSE_SUFFIXES and path.exists():
        return _guarded(cut, lambda: np.atleast_2d(source.load_audio()))
    raise _bad_file(cut.id, path, error) from error


def _bad_file(cut_id: str, path: Path, error: Exception) -> BadAudio:
    if not path.exists():
        return BadAudio(cut_id, "missing", f"{path}: no such file")
    if path.is_file() and path.stat().st_size == 0:
        return BadAudio(cut_id, "unreadable", f"{path}: zero bytes")
    return BadAudio(cut_id, "unreadable", f"{path}: {one_line(error)}")


def _through_lhotse(cut: Cut) -> Samples:
    """The whole cut by Lhotse's readers; (channels, n). Pipes and URLs have no spans: all is read, then sliced."""
    if isinstance(cut, MonoCut | MultiCut) and cut.has_recording and not cut.recording.transforms:
        start = int(compute_num_samples(cut.start, cut.sampling_rate))
        audio = cut.recording.load_audio(channels=cut.channel)
        return np.asarray(audio[:, start : start + num_samples(cut, cut.sampling_rate)], dtype=np.float32)
    audio = cut.load_audio()
    if audio is None:
        raise BadAudio(cut.id, "missing", "the cut has no recording")
    return np.asarray(audio, dtype=np.float32)


def _guarded(cut: Cut, read: Callable[[], Samples]) -> Samples:
    """Run one of Lhotse's readers and turn whatever it raises into a BadAudio."""
    try:
        audio = read()
    except BadAudio:
        raise
    except FileNotFoundError as error:
        raise BadAudio(cut.id, "missing", one_line(error)) from error
    except Exception as error:  # Lhotse's readers raise anything, AssertionError included
        reason = "truncated" if "number of declared samples" in str(error) else "unreadable"
        raise BadAudio(cut.id, reason, one_line(error)) from error
    if audio.shape[-1] == 0:
        raise BadAudio(cut.id, "empty", "no samples")
    return audio


def _check_length(cut: Cut, found: int, expected: int, rate: int) -> None:
    if expected - found > TOLERANCE_S * rate:
        detail = f"{found / rate:.3f} s of audio where the manifest says {expected / rate:.3f} s"
        raise BadAudio(cut.id, "truncated", detail)


def _mono(audio: Samples) -> Samples:
    return np.ascontiguousarray(audio[0] if len(audio) == 1 else audio.mean(axis=0), dtype=np.float32)
