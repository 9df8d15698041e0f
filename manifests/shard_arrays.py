"""The arrays of a shard in Shar's layout: a tar of .npy files, each with the manifest that belongs into its cut."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lhotse.array import Array, TemporalArray
from lhotse.cut import Cut

from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import CorruptFile, one_line
from voxtok.runtime.files import atomic

Entry = tuple[str, npt.NDArray[Any], Array | TemporalArray]
"""A cut's id, its array, and the array's manifest."""


def write_arrays(path: Path, entries: Sequence[Entry]) -> None:
    """Write a tar in Shar's layout.

    Lhotse's own ArrayTarWriter is not used, since it sets the array's start to 0: that is right where the audio is cut
    out with it, but here a cut keeps its place in its recording.
    """
    with atomic(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for key, array, manifest in entries:
            data = io.BytesIO()
            np.save(data, array, allow_pickle=False)
            _add(tar, f"{key}.npy", data.getvalue())
            _add(tar, f"{key}.json", json.dumps(manifest.to_dict()).encode())


def read_arrays(path: Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """(cut id, array) of every member that holds data.

    Raises:
        CorruptFile: damaged or cut off.
    """
    try:
        if path.stat().st_size % tarfile.RECORDSIZE:  # cut between two members, it would read as a shorter one
            raise EOFError("truncated")
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                content = tar.extractfile(member)
                if member.name.endswith(".npy") and content is not None:
                    yield member.name.removesuffix(".npy"), np.load(io.BytesIO(content.read()), allow_pickle=False)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise CorruptFile(f"{path}: not readable ({one_line(error)}); encode the shard again") from error


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member without time stamp or owner, so that equal tokens give equal bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def token_entry(cut: Cut, tokens: TokenSequence) -> Entry:
    """A cut's tokens: in time with its audio where they are frames."""
    array = _placeholder(tokens.codes)
    if tokens.durations is not None:
        return cut.id, tokens.codes, array
    return cut.id, tokens.codes, TemporalArray(array, 0, 1 / tokens.frame_rate_hz, cut.start)


def duration_entry(cut: Cut, tokens: TokenSequence) -> Entry:
    """The durations of a cut's merged tokens."""
    assert tokens.durations is not None
    return cut.id, tokens.durations, _placeholder(tokens.durations)


def _placeholder(array: npt.NDArray[Any]) -> Array:
    return Array(storage_type="shar", storage_path="", storage_key="", shape=list(array.shape))
