"""Frames of features beside the audio that they shall become: what a vocoder of features is trained on.

frames.json       format version, fingerprint of the features, width, hop, what they were made of
frames.npy        (N, D) float16, utterance after utterance, read through a memory map
cuts.jsonl.gz     one line an utterance: its cut, and where its frames lie
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from voxtok.manifests.identity import bare
from voxtok.runtime.errors import BadAudio, ConfigError, CorruptFile, one_line
from voxtok.runtime.files import atomic, read_description, read_jsonl, write_json, write_jsonl
from voxtok.runtime.progress import Progress

FORMAT = "voxtok-frames"
VERSION = 1

Frames16 = npt.NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class FrameInfo:
    """What is true of every frame."""

    features: str
    """Fingerprint of the features (`vocoder.features_fingerprint`); those of prematched frames are the pool's."""
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


def is_made(folder: Path | str, info: FrameInfo) -> bool:
    """Whether a finished store is there that was made of the same."""
    try:
        return FrameStore.open(folder).info == info
    except CorruptFile:
        return False


def write_frames(
    folder: Path | str, info: FrameInfo, utterances: Iterable[tuple[Cut, torch.Tensor | BadAudio]]
) -> FrameStore:
    """Write a store; frames.json comes last, so that one that opens is complete.

    Args:
        folder: to write.
        info: what is true of every frame.
        utterances: each cut with its (N, D) frames; those with a BadAudio in their place go to rejected.jsonl, as do
            those beyond float16.

    Raises:
        ConfigError: no utterance has frames.
    """
    folder = Path(folder)
    (folder / "frames.json").unlink(missing_ok=True)
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    total = 0
    with Progress("frames", None) as progress, atomic(folder / "frames.npy") as file:
        _header(file, 0, info.width)
        for cut, found in utterances:
            frames = _half(cut, found)
            if isinstance(frames, BadAudio):
                rejected.append(frames.row())
                continue
            file.write(np.ascontiguousarray(frames.numpy(), dtype="<f2").tobytes())
            rows.append({"cut": bare(cut).to_dict(), "start": total, "frames": len(frames)})
            total += len(frames)
            progress.add(cut.duration)
        if not rows:
            raise ConfigError("no utterance has frames: there is nothing to train on")
        file.seek(0)
        _header(file, total, info.width)
    write_jsonl(folder / "cuts.jsonl.gz", rows)
    write_jsonl(folder / "rejected.jsonl", rejected)
    write_json(folder / "frames.json", {"format": FORMAT, "version": VERSION, **asdict(info)})
    return FrameStore.open(folder)


def _half(cut: Cut, frames: torch.Tensor | BadAudio) -> torch.Tensor | BadAudio:
    if isinstance(frames, BadAudio):
        return frames
    half = frames.half()
    return half if bool(half.isfinite().all()) else BadAudio(cut.id, "non-finite", "features are beyond float16")


def _header(file: Any, count: int, width: int) -> None:
    """The head of a .npy file of 128 bytes, whatever the count: it is written again once that is known."""
    described = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({count}, {width}), }}"
    file.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + described.ljust(117).encode() + b"\n")
