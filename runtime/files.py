"""Files that are whole or absent: write to a temporary name, fsync, rename; and hashes of what they hold."""

import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from voxtok.runtime.errors import CorruptFile, one_line


@contextmanager
def atomic(path: Path | str) -> Iterator[BinaryIO]:
    """Open `path` for writing so that it appears complete under its name, or not at all.

    The temporary name carries the rank, so that ranks writing the same file do not mix, and no process id, so that a
    killed job run again leaves nothing behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{os.environ.get('RANK', '0')}.partial"
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a whole file atomically."""
    with atomic(path) as file:
        file.write(content)


def write_json(path: Path | str, value: Any) -> None:
    """Write indented UTF-8 JSON atomically; NaN and infinity are refused, since they are not JSON."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        CorruptFile: it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFile(f"{path} is not JSON: {one_line(error)}") from error


def read_description(path: Path | str, file_format: str, version: int, keys: Sequence[str]) -> dict[str, Any]:
    """Read one of our own JSON files, as `checked_description` has it."""
    return checked_description(read_json(path), path, file_format, version, keys)


def checked_description(
    described: Any, path: Path | str, file_format: str, version: int, keys: Sequence[str]
) -> dict[str, Any]:
    """What one of our own files says of itself, once its format, version and keys are right.

    Raises:
        CorruptFile: another format, a version that this release does not know, or a key is missing.
    """
    found = described if isinstance(described, dict) else {}
    if (found.get("format"), found.get("version")) != (file_format, version):
        raise CorruptFile(
            f"{path}: expected {file_format} version {version}, "
            f"found {found.get('format')} version {found.get('version')}"
        )
    missing = [key for key in keys if key not in found]
    if missing:
        raise CorruptFile(f"{path}: damaged, it does not say {', '.join(missing)}")
    return found


def write_jsonl(path: Path | str, rows: Iterable[Any]) -> None:
    """Write one JSON value a line, atomically; a name ending in .gz is compressed without a time stamp.

    So equal rows always give equal bytes.
    """
    path = Path(path)
    with atomic(path) as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as zipped:
                _write_lines(zipped, rows)
        else:
            _write_lines(file, rows)


def _write_lines(file: BinaryIO | gzip.GzipFile, rows: Iterable[Any]) -> None:
    for row in rows:
        file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def read_jsonl(path: Path | str) -> Iterator[Any]:
    """Read one JSON value a line, from plain or gzip text."""
    path = Path(path)
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
    with opened as file:
        for line in file:
            yield json.loads(line)


def sha256(value: Any) -> str:
    """Hash a JSON value: equal values have equal hashes, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hash a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_hash(folder: Path | str | None) -> str | None:
    """Hash of the weights in a model's folder: a run that uses others is another run."""
    return None if folder is None else sha256_file(Path(folder) / "model.safetensors")
