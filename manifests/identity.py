"""What decides a cut's tokens, as plain JSON: the cut without its arrays, and the state of its audio files."""

import hashlib
from pathlib import Path
from typing import Any

from lhotse.array import Array, TemporalArray
from lhotse.cut import Cut, MonoCut, MultiCut
from lhotse.shar.utils import to_shar_placeholder
from lhotse.utils import fastcopy

from voxtok.runtime.errors import ManifestError


def bare(cut: Cut) -> Cut:
    """The cut without arrays and without audio bytes: what can be written as JSON and read beside the tokens.

    Raises:
        ManifestError: a mixed or padded cut, which has no recording of its own to point at.
    """
    if not isinstance(cut, MonoCut | MultiCut):
        raise ManifestError(f"{cut.id}: a {type(cut).__name__} has no single recording: save its audio first")
    recording = cut.recording
    if recording is not None and any(source.type == "memory" for source in recording.sources):
        recording = to_shar_placeholder(recording)
    custom = {k: v for k, v in (cut.custom or {}).items() if not isinstance(v, Array | TemporalArray)}
    for name in ("shard_origin", "shar_epoch"):
        custom.pop(name, None)
    return fastcopy(cut, recording=recording, features=None, custom=custom or None)


def inputs_of(cut: Cut) -> Any:
    """The cut as JSON, with the size and time of change of its files, or the hash of audio held in memory."""
    if not isinstance(cut, MonoCut | MultiCut):
        return cut.id
    return [bare(cut).to_dict(), [_state(source) for source in cut.recording.sources] if cut.has_recording else []]


def _state(source: Any) -> Any:
    if source.type == "memory":
        return hashlib.sha256(source.source).hexdigest()
    if source.type == "file" and Path(source.source).exists():
        status = Path(source.source).stat()
        return [status.st_size, status.st_mtime_ns]
    return None
