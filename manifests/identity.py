"""What decides a cut's tokens, as plain JSON: the cut without its arrays, and the state of its audio files."""

import hashlib
from pathlib import Path
from typing import Any

from lhotse.array import Array, TemporalArray
from lhotse.cut import Cut, MixedCut, MonoCut, MultiCut
from lhotse.shar.utils import to_shar_placeholder
from lhotse.utils import fastcopy


def bare(cut: Cut) -> Cut:
    """The cut without arrays and without audio bytes: what can be written as JSON and read beside the tokens.

    A mixed or padded cut has no recording of its own: what is left of it are its name, duration and supervisions.
    """
    if not isinstance(cut, MonoCut | MultiCut):
        return MonoCut(id=cut.id, start=0, duration=cut.duration, channel=0, supervisions=cut.supervisions)
    recording = cut.recording
    if recording is not None and any(source.type == "memory" for source in recording.sources):
        recording = to_shar_placeholder(recording)
    custom = {k: v for k, v in (cut.custom or {}).items() if not isinstance(v, Array | TemporalArray)}
    for name in ("shard_origin", "shar_epoch"):
        custom.pop(name, None)
    return fastcopy(cut, recording=recording, features=None, custom=custom or None)


def in_memory(cut: Cut) -> bool:
    """Whether audio of a cut is held in memory or in a Shar folder: JSON cannot name it as a file."""
    if isinstance(cut, MixedCut):
        return any(in_memory(track.cut) for track in cut.tracks)
    recording = cut.recording if isinstance(cut, MonoCut | MultiCut) else None
    return recording is not None and any(source.type in ("memory", "shar") for source in recording.sources)


def inputs_of(cut: Cut) -> Any:
    """The cut as JSON, with the size and time of change of its files, or the hash of audio held in memory."""
    if isinstance(cut, MixedCut):
        tracks = [[inputs_of(track.cut), track.offset, track.snr] for track in cut.tracks]
        return [cut.id, tracks, str(cut.transforms)]
    if not isinstance(cut, MonoCut | MultiCut):
        return cut.to_dict()
    return [bare(cut).to_dict(), [_state(source) for source in cut.recording.sources] if cut.has_recording else []]


def _state(source: Any) -> Any:
    if source.type == "memory":
        return hashlib.sha256(source.source).hexdigest()
    if source.type == "file" and Path(source.source).exists():
        status = Path(source.source).stat()
        return [status.st_size, status.st_mtime_ns]
    return None
