"""Frames of features beside the audio that they shall become: what a vocoder of features is trained on.

frames.json       format version, fingerprint of the features, width, hop, what they were made of
frames.npy        (N, D) float16, utterance after utterance, read through a memory map
cuts.jsonl.gz     one line an utterance: its cut, and where its frames lie
progress.jsonl    one line a finished part, while the store is being written: a killed run goes on after the last
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from lhotse.cut import Cut, MonoCut, MultiCut
from lhotse.serialization import deserialize_item

from voxtok.manifests.identity import bare, in_memory
from voxtok.runtime.errors import BadAudio, ConfigError, CorruptFile, one_line
from voxtok.runtime.files import read_description, read_jsonl, sha256, write_json, write_jsonl
from voxtok.runtime.progress import Progress

FORMAT = "voxtok-frames"
VERSION = 1
HEADER_BYTES = 128

Frames16 = npt.NDArray[np.float16]
Part = Callable[[], Iterable[tuple[Cut, torch.Tensor | BadAudio]]]
"""The unit of work and of resuming: computes cuts with their (N, D) frames, or with what is wrong with them."""


@dataclass(frozen=True, kw_only=True)
class FrameInfo:
    """What is true of every frame."""

    features: str
    """Fingerprint of the features (`features.features_fingerprint`); those of prematched frames are the pool's."""
    width: int
    """Dimensions of a frame."""
    sampling_rate: int
    """Of the audio that the features were computed from, Hz."""
    hop_samples: int
    """Samples from one frame to the next."""
    made_of: str
    """Hash of all that the frames were made of, by which a rerun knows them."""


@dataclass(frozen=True)
class FrameStore:
    """An open store; iterating gives every cut with its (N, D) float16 frames, not yet read from disk.

    Example: `for cut, frames in FrameStore.open("exp/frames"): ...`
    """

    folder: Path
    info: FrameInfo
    frames: Frames16

    def __iter__(self) -> Iterator[tuple[Cut, Frames16]]:
        for row in read_jsonl(self.folder / "cuts.jsonl.gz"):
            yield deserialize_item(row["cut"]), self.frames[row["start"] : row["start"] + row["frames"]]

    @classmethod
    def open(cls, folder: Path | str) -> "FrameStore":
        """Open a finished store.

        Raises:
            CorruptFile: not a store, not finished, or damaged.
        """
        folder = Path(folder)
        if not (folder / "frames.json").exists():
            raise CorruptFile(f"{folder}: not a finished store of frames (no frames.json)")
        names = [field.name for field in fields(FrameInfo)]
        described = read_description(folder / "frames.json", FORMAT, VERSION, names)
        info = FrameInfo(**{name: described[name] for name in names})
        try:
            frames = np.load(folder / "frames.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CorruptFile(f"{folder}/frames.npy cannot be read: {one_line(error)}") from error
        if frames.dtype != np.float16 or frames.ndim != 2 or frames.shape[1] != info.width:
            raise CorruptFile(f"{folder}/frames.npy holds {frames.dtype}{frames.shape}, not (N, {info.width}) float16")
        return cls(folder, info, frames)


def require_files(cuts: Iterable[Cut]) -> None:
    """Check that a store can keep where the audio of cuts is, since training reads it again.

    Raises:
        ConfigError: a cut's audio is in memory, as that of Shar folders is, or mixed of others; names it.
    """
    for cut in cuts:
        if cut.has_recording and (not isinstance(cut, MonoCut | MultiCut) or in_memory(cut)):
            raise ConfigError(
                f"{cut.id} has no audio file of its own for training to read: its audio is in a Shar folder or mixed "
                "of others; save it to files first, with lhotse's CutSet.save_audios"
            )


def is_made(folder: Path | str, info: FrameInfo) -> bool:
    """Whether a finished store is there that was made of the same."""
    try:
        return FrameStore.open(folder).info == info
    except CorruptFile:
        return False


def write_frames(folder: Path | str, info: FrameInfo, parts: Sequence[Part]) -> FrameStore:
    """Write a store, part by part; frames.json comes last, so that one that opens is complete.

    A killed run goes on after its last whole part, and ends with the bytes of one that was not.

    Args:
        folder: to write.
        info: what is true of every frame; `made_of` also decides what the parts are.
        parts: called in order, unless their frames are there already. Cuts with a BadAudio for frames go to
            rejected.jsonl, as do those beyond float16.

    Raises:
        ConfigError: no utterance has frames.
    """
    folder = Path(folder)
    (folder / "frames.json").unlink(missing_ok=True)
    key, journal = sha256(asdict(info)), folder / "progress.jsonl"
    done = _done_parts(folder, key, info.width)
    write_jsonl(journal, done)
    if not done:  # a new file, since an open store may still read the one of before
        (folder / "frames.npy").unlink(missing_ok=True)
    with (
        Progress("frames", None) as progress,
        open(folder / "frames.npy", "r+b" if done else "w+b") as file,
        open(journal, "ab") as lines,
    ):
        _header(file, 0, info.width)
        file.seek(HEADER_BYTES + _bytes_of(done, info.width))
        file.truncate()
        for part in parts[len(done) :]:
            done.append({"of": key, **_write_part(file, part(), progress)})
            _sync(file)
            lines.write(json.dumps(done[-1], ensure_ascii=False).encode() + b"\n")
            _sync(lines)
        rows = [row for part in done for row in part["rows"]]
        if rows:
            file.seek(0)
            _header(file, sum(row["frames"] for row in rows), info.width)
            _sync(file)
    if rows:
        _describe(folder, info, rows, [row for part in done for row in part["rejected"]])
    journal.unlink()
    if not rows:
        raise ConfigError("no utterance has frames: there is nothing to train on")
    return FrameStore.open(folder)


def _done_parts(folder: Path, key: str, width: int) -> list[dict[str, Any]]:
    """What a killed run of the same says of its whole parts, whose frames are there; nothing where there is none."""
    done: list[dict[str, Any]] = []
    try:
        for line in (folder / "progress.jsonl").read_bytes().splitlines():
            done.append(json.loads(line))
    except (FileNotFoundError, ValueError):  # the last line may have been cut off
        pass
    frames = folder / "frames.npy"
    if any(part["of"] != key for part in done) or not frames.exists():
        return []
    return done if frames.stat().st_size >= HEADER_BYTES + _bytes_of(done, width) else []


def _bytes_of(done: Sequence[dict[str, Any]], width: int) -> int:
    num_frames: int = sum(row["frames"] for part in done for row in part["rows"])
    return 2 * width * num_frames


def _write_part(
    file: BinaryIO, utterances: Iterable[tuple[Cut, torch.Tensor | BadAudio]], progress: Progress
) -> dict[str, Any]:
    """Append a part's frames; returns its cuts with their numbers of frames, and why others have none."""
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    for cut, found in utterances:
        frames = _half(cut, found)
        if isinstance(frames, BadAudio):
            rejected.append(frames.row())
            continue
        file.write(np.ascontiguousarray(frames.numpy(), dtype="<f2").tobytes())
        rows.append({"cut": bare(cut).to_dict(), "frames": len(frames)})
        progress.add(cut.duration)
    return {"rows": rows, "rejected": rejected}


def _describe(folder: Path, info: FrameInfo, rows: list[dict[str, Any]], rejected: list[dict[str, str]]) -> None:
    """Write all that goes with frames.npy."""
    starts = np.cumsum([0, *(row["frames"] for row in rows)]).tolist()
    placed = [
        {"cut": row["cut"], "start": start, "frames": row["frames"]} for row, start in zip(rows, starts, strict=False)
    ]
    write_jsonl(folder / "cuts.jsonl.gz", placed)
    write_jsonl(folder / "rejected.jsonl", rejected)
    write_json(folder / "frames.json", {"format": FORMAT, "version": VERSION, **asdict(info)})


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _half(cut: Cut, frames: torch.Tensor | BadAudio) -> torch.Tensor | BadAudio:
    if isinstance(frames, BadAudio):
        return frames
    half = frames.half()
    return half if bool(half.isfinite().all()) else BadAudio(cut.id, "non-finite", "features are beyond float16")


def _header(file: BinaryIO, count: int, width: int) -> None:
    """The head of a .npy file of HEADER_BYTES, whatever the count: it is written again once that is known."""
    described = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({count}, {width}), }}"
    file.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + described.ljust(117).encode() + b"\n")
