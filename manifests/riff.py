"""The header of a RIFF/WAVE file: libsndfile reads a truncated one as if it were shorter, so it is compared here."""

import io
import struct
from pathlib import Path
from typing import BinaryIO

RIFF_FORMATS = ("WAV", "WAVEX", "RF64")
"""libsndfile's names for files of RIFF chunks."""

STREAMED = 2**31 - 4096
"""Who writes to a pipe does not know the size of the data and leaves 0, this (SoX) or more; such files are whole."""


def lacking_s(content: Path | bytes) -> float:
    """Seconds of audio that a file's header declares and the file does not hold; 0 where it does not say."""
    with open(content, "rb") if isinstance(content, Path) else io.BytesIO(content) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        return _lacking_s(file, size)


def _lacking_s(file: BinaryIO, size: int) -> float:
    if file.read(12)[:4] not in (b"RIFF", b"RF64"):
        return 0.0
    bytes_per_s = long_data = 0
    while len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        start = file.tell()
        if kind == b"ds64":  # RF64: the true sizes, of which the second is of the data
            long_data = int.from_bytes(file.read(16)[8:], "little")
        elif kind == b"fmt ":
            bytes_per_s = int.from_bytes(file.read(12)[8:], "little")
        elif kind == b"data":
            declared = length if length < STREAMED else long_data
            return max(start + declared - size, 0) / bytes_per_s if bytes_per_s else 0.0
        file.seek(start + length + length % 2)
    return 0.0
