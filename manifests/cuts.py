"""Cuts by path: any manifest that Lhotse writes, in the order it is stored, with audio paths that can be opened."""

import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet, load_manifest
from lhotse.cut import Cut, MixedCut, MonoCut, MultiCut
from lhotse.serialization import deserialize_item
from lhotse.utils import fastcopy

from voxtok.manifests.audio import AUDIO_SUFFIXES, describe
from voxtok.manifests.identity import in_memory
from voxtok.runtime.errors import BadAudio, ManifestError
from voxtok.runtime.files import read_jsonl, write_jsonl

SHARD = re.compile(r"cuts\.\d+\.jsonl(\.gz)?")
SUFFIXES = (".jsonl.gz", ".jsonl", ".json.gz", ".json", ".yaml", ".yaml.gz")


def load_cuts(path: Path | str, *, segments: bool = False) -> CutSet:
    """Open cuts of any form; a large manifest is read lazily, again at each iteration.

    Args:
        path: Lhotse cuts; Lhotse recordings, with the supervisions of the same name beside them; a Shar folder; a
            folder that holds one of these; or one audio file.
        segments: False gives a cut as stored, and one cut of every whole recording, with all its supervisions; True
            gives one cut of every supervision, under its id, and nothing where there is none.

    Relative audio paths are taken as given where such a file exists, else from the manifest's folder.

    Raises:
        ManifestError: nothing of that kind is there, or (while iterating) a line of it is damaged.
        BadAudio: `path` is an audio file that cannot be used.
    """
    path = Path(path)
    if not path.exists():
        raise ManifestError(f"{path}: no such file or folder")
    if path.suffix.lower() in AUDIO_SUFFIXES:
        return CutSet.from_cuts([describe(path, str(path)).to_cut()])
    if path.is_dir() and any(SHARD.fullmatch(entry.name) for entry in path.iterdir()):
        cuts = CutSet.from_shar(in_dir=path)
    else:
        manifest = _in_folder(path) if path.is_dir() else path
        cuts = _open(manifest).map(partial(_with_paths, folder=manifest.parent))
    return CutSet(_Lazy(partial(segments_of, cuts))) if segments else cuts


@dataclass
class CorpusSize:
    """Counts what a corpus holds; a recording without supervision counts as one utterance."""

    recordings: int = 0
    utterances: int = 0
    duration_s: float = 0.0
    speakers: set[str] = field(default_factory=set)

    def add(self, cut: Cut) -> None:
        """Count one more cut."""
        self.recordings += 1
        self.utterances += max(len(cut.supervisions), 1)
        self.duration_s += cut.duration
        self.speakers.update(supervision.speaker for supervision in cut.supervisions if supervision.speaker)

    def __str__(self) -> str:
        """Such as `66 utterances in 66 recordings, 21 speakers, 0.10 h`."""
        hours = f"{self.duration_s / 3600:.2f} h"
        return f"{self.utterances} utterances in {self.recordings} recordings, {len(self.speakers)} speakers, {hours}"


def save_cuts(path: Path | str, cuts: Iterable[Cut]) -> CorpusSize:
    """Write cuts to a .jsonl or .jsonl.gz file, whole or not at all; equal cuts give equal bytes.

    Raises:
        ManifestError: a cut's audio lies inside a Shar folder, where a manifest cannot name it.
    """
    size = CorpusSize()

    def rows() -> Iterator[Any]:
        for cut in cuts:
            size.add(cut)
            if in_memory(cut):
                raise ManifestError(
                    f"{cut.id}: its audio lies inside a Shar folder: save it as files first (save_audios)"
                )
            yield cut.to_dict()

    write_jsonl(path, rows())
    return size


def unique_cuts(cuts: Iterable[Cut]) -> Iterator[tuple[Cut, BadAudio | None]]:
    """Pair each cut with None, or with a BadAudio where an earlier cut has the same id."""
    seen: set[str] = set()
    for cut in cuts:
        yield cut, BadAudio(cut.id, "duplicate id", "an earlier cut has this id") if cut.id in seen else None
        seen.add(cut.id)


def _in_folder(folder: Path) -> Path:
    """The one manifest of a folder: cuts before recordings, and plain names before those of a part."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(SUFFIXES))
    for kind in ("cuts", "recordings"):
        plain = [name for name in names if name.split(".")[0] == kind]
        parts = [name for name in names if kind in name.split(".")[0]]
        if plain or parts:
            found = plain or parts
            if len(found) > 1:
                raise ManifestError(f"{folder} holds several manifests, give the path of one: {', '.join(found)}")
            return folder / found[0]
    if names:
        raise ManifestError(f"{folder} holds neither cuts nor recordings, only {', '.join(names)}")
    raise ManifestError(
        f"{folder} holds no Lhotse manifest; `voxtok corpus folder --audio {folder} --out DIR` makes one of audio files"
    )


def _open(path: Path) -> CutSet:
    kind, items = _items(path)
    if kind is Recording:
        return CutSet(_Lazy(partial(_whole_recordings, items, _supervisions_beside(path))))
    if kind is SupervisionSegment:
        raise ManifestError(f"{path} holds supervisions only, without audio: give the recordings or the cuts")
    if not issubclass(kind, Cut):
        raise ManifestError(f"{path} holds {kind.__name__} items; cuts or recordings are needed")
    return CutSet(items)


def _items(path: Path) -> tuple[type, Iterable[Any]]:
    """The items of any Lhotse manifest and their type, told by the first."""
    if not path.name.endswith(SUFFIXES):
        raise ManifestError(f"{path} is no Lhotse manifest: its name ends in none of {', '.join(SUFFIXES)}")
    items: Iterable[Any]
    if ".jsonl" in path.suffixes:
        items = _Lazy(partial(_lines, path))
    else:
        try:
            items = list(load_manifest(path))
        except Exception as error:  # Lhotse tries every kind and reports any failure as it comes
            raise ManifestError(f"{path}: not a Lhotse manifest ({error})") from error
    first = next(islice(items, 1), None)
    if first is None:
        raise ManifestError(f"{path} is empty")
    return type(first), items


def _lines(path: Path) -> Iterator[Any]:
    number = 0
    try:
        for row in read_jsonl(path):
            yield deserialize_item(row)
            number += 1
    except (ValueError, TypeError, KeyError, AttributeError, EOFError, OSError, zlib.error) as error:
        raise ManifestError(f"{path}: damaged after line {number} ({type(error).__name__}: {error})") from error


def _supervisions_beside(path: Path) -> list[SupervisionSegment]:
    stem = path.name.split(".")[0]
    for suffix in SUFFIXES:
        beside = path.parent / (stem.replace("recordings", "supervisions") + suffix)
        if beside != path and beside.exists():
            return list(_items(beside)[1])
    return []


def pair(recordings: RecordingSet, supervisions: SupervisionSet | None) -> CutSet:
    """One cut of every whole recording, under its id, with its supervisions in their order."""
    return CutSet.from_cuts(_whole_recordings(recordings, supervisions or ()))


def _whole_recordings(recordings: Iterable[Recording], supervisions: Iterable[SupervisionSegment]) -> Iterator[Cut]:
    of_recording: dict[str, list[SupervisionSegment]] = {}
    for supervision in supervisions:
        of_recording.setdefault(supervision.recording_id, []).append(supervision)
    for recording in recordings:
        cut = recording.to_cut()
        cut.supervisions = list(of_recording.get(recording.id, []))
        yield cut


def segments_of(cuts: CutSet) -> Iterator[Cut]:
    """One cut of every supervision. Lhotse moves supervisions to the new start, but not alignments: here both move."""
    for cut in cuts:
        parts = cut.trim_to_supervisions(keep_overlapping=False)
        for part, before in zip(parts, cut.supervisions, strict=True):
            (supervision,) = part.supervisions
            shift = supervision.start - before.start
            alignment = {
                kind: [item.with_offset(shift) for item in items] for kind, items in (before.alignment or {}).items()
            }
            part.supervisions = [fastcopy(supervision, alignment=alignment or None)]
            yield part


def _with_paths(cut: Cut, folder: Path) -> Cut:
    for part in [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]:
        if isinstance(part, MonoCut | MultiCut) and part.has_recording:
            for source in part.recording.sources:
                if source.type == "file" and not os.path.isabs(source.source):
                    source.source = _found(source.source, folder)
    return cut


def _found(path: str, folder: Path) -> str:
    """Where a relative path leads, beside the manifest or else from here; absolute, as it may be read elsewhere."""
    for place in (folder / path, Path(path)):
        if place.exists():
            return str(place.absolute())
    return path


@dataclass(frozen=True)
class _Lazy:
    """An iterable that starts anew at each iteration, and can be sent to worker processes."""

    start: Callable[[], Iterator[Any]]

    def __iter__(self) -> Iterator[Any]:
        return self.start()
