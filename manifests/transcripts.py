"""Transcripts of a folder of audio: from a TSV file, a Kaldi `text` file, or a .txt beside each audio file."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from voxtok.runtime.errors import ConfigError, ManifestError

SIDECAR = "sidecar"


class Transcripts:
    """Finds the text of an audio file by its path below the folder, or by its bare name where that is unique."""

    def __init__(self, root: Path, files: Sequence[str], where: str | None) -> None:
        """Read the file `where`; None means no transcripts, `sidecar` a .txt beside each audio file."""
        self._root = root
        self._sidecar = where == SIDECAR
        self._texts = {} if where in (None, SIDECAR) else read_transcripts(Path(where))
        self._used: set[str] = set()
        self._count = Counter(stem for file in files for stem in _bare_names(file))

    def find(self, file: str) -> str | None:
        """Text of the audio file at this path below the folder, None where there is none."""
        if self._sidecar:
            return self._beside(self._root / file)
        path = canonical(file)
        names = [path, str(PurePosixPath(path).with_suffix(""))]
        names += [name for name in _bare_names(file) if self._count[name] == 1]
        for name in names:
            if name in self._texts:
                self._used.add(name)
                return self._texts[name]
        return None

    def unused(self) -> int:
        """How many names of the file were never found."""
        return len(self._texts) - len(self._used)

    def _beside(self, file: Path) -> str | None:
        for path in (file.with_suffix(".txt"), file.with_name(file.name + ".txt")):
            try:
                return " ".join(path.read_text(encoding="utf-8-sig").split())
            except (OSError, UnicodeDecodeError):
                continue
        return None


def read_transcripts(path: Path) -> dict[str, str]:
    """Read `name TAB text` or Kaldi's `name text` lines: a file is TSV if every line has a tab.

    Raises:
        ConfigError: the file cannot be read.
        ManifestError: a name has two texts.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--transcripts {path}: {error}") from error
    separator = "\t" if all("\t" in line for line in lines) else None
    texts: dict[str, str] = {}
    for line in lines:
        name, *rest = line.strip().split(separator, 1)
        name, text = canonical(name), " ".join("".join(rest).split())
        if texts.setdefault(name, text) != text:
            raise ManifestError(f"{path}: {name!r} has two transcripts, {texts[name]!r} and {text!r}")
    return texts


def canonical(name: str) -> str:
    """One spelling for names that look the same: composed characters, no leading `./`."""
    return unicodedata.normalize("NFC", name.strip()).removeprefix("./")


def _bare_names(file: str) -> list[str]:
    path = PurePosixPath(canonical(file))
    return list(dict.fromkeys([path.name, path.stem]))
