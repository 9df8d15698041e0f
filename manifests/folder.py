"""A folder of audio files -> cuts: headers are read, transcripts and speakers found, bad files listed."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from lhotse import Recording, SupervisionSegment
from lhotse.cut import Cut

from voxtok.manifests.audio import AUDIO_SUFFIXES, describe
from voxtok.manifests.cuts import CorpusSize, save_cuts
from voxtok.manifests.transcripts import SIDECAR, Transcripts, canonical
from voxtok.runtime.config import parse
from voxtok.runtime.errors import BadAudio, ConfigError, ManifestError
from voxtok.runtime.files import write_jsonl


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """Index a folder of wav, flac, ogg, opus or mp3 files: cuts.jsonl.gz, and rejected.jsonl of bad files."""

    audio: str
    """Folder of audio files, at any depth."""
    out: str
    """Folder to write."""
    transcripts: str | None = None
    """A TSV file (name, tab, text), a Kaldi `text` file (name, space, text), or the word sidecar: a .txt beside each
    audio file. Names are paths below --audio or bare file names, with or without suffix."""
    speaker: str | None = None
    """Where the speaker stands in the path below --audio, without suffix: '{speaker}/**' (folders of speakers),
    '**/{speaker}_*' (names that begin with one); * stops at a slash, ** does not."""
    language: str | None = None
    """Language of all of it, such as en."""
    strict: bool = False
    """Stop at the first bad file instead of listing it in rejected.jsonl."""
    readers: int = 8
    """Threads that read headers."""

    def __post_init__(self) -> None:
        if self.readers < 1:
            raise ConfigError("--readers must be at least 1")


@dataclass
class Indexed:
    """What `index_folder` found; `unused` counts names among the transcripts that no audio file has."""

    size: CorpusSize = field(default_factory=CorpusSize)
    rejected: list[BadAudio] = field(default_factory=list)
    transcribed: int = 0
    unused: int = 0


def index_folder(config: FolderConfig) -> Indexed:
    """Write the cuts of a folder of audio, in the order of their paths, and rejected.jsonl.

    An id is the path below the folder without suffix, with `_` for white space; where that is not unique, with suffix.

    Raises:
        ConfigError: no such folder, or a speaker pattern or transcripts that fit no file.
        ManifestError: no readable audio file in the folder.
        BadAudio: the first bad file, if strict.
    """
    root = Path(os.path.abspath(config.audio))
    if not root.is_dir():
        raise ConfigError(f"--audio {config.audio}: no such folder")
    speaker = speaker_pattern(config.speaker) if config.speaker else None
    files = sorted(audio_files(root))
    if not files:
        raise ManifestError(f"{root} holds no audio files ({' '.join(AUDIO_SUFFIXES)})")
    if speaker and not any(speaker.fullmatch(_bare(file)) for file in files):
        raise ConfigError(f"--speaker {config.speaker!r} fits no path, such as {_bare(files[0])!r}")
    transcripts = Transcripts(root, files, config.transcripts)
    if config.transcripts and all(transcripts.find(file) is None for file in files):
        raise ConfigError(f"--transcripts {config.transcripts} has nothing for any audio file, such as {files[0]!r}")
    indexed = Indexed()
    out = Path(config.out)
    try:
        indexed.size = save_cuts(out / "cuts.jsonl.gz", _cuts(root, files, transcripts, speaker, config, indexed))
    finally:
        rows = [{"id": bad.cut_id, "reason": bad.reason, "detail": bad.detail} for bad in indexed.rejected]
        write_jsonl(out / "rejected.jsonl", rows)
    indexed.unused = transcripts.unused()
    return indexed


def audio_files(root: Path) -> Iterator[str]:
    """Paths of audio files below a folder, by their suffix in any case; links are followed, hidden files left out."""
    visited = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link back up
            folders.clear()
            continue
        visited.add(real)
        for name in names:
            if name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def name_files(files: Sequence[str]) -> list[str]:
    """Ids of files: the path without suffix, with it where two files would share an id (a.wav and a.flac)."""
    full = ["_".join(canonical(printable(file)).split()) for file in files]
    short = [_bare(name) for name in full]
    count = Counter(short)
    return [name if count[brief] > 1 else brief for name, brief in zip(full, short, strict=True)]


def speaker_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a pattern like `{speaker}/**` for paths without suffix.

    Raises:
        ConfigError: `{speaker}` does not stand in it exactly once.
    """
    if pattern.count("{speaker}") != 1:
        raise ConfigError(f"--speaker {pattern!r} must have {{speaker}} in it once, as in '{{speaker}}/**'")
    meaning = {"{speaker}": "(?P<speaker>[^/]+?)", "**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\{speaker\}|\*\*/|\*\*|\*)", pattern)
    return re.compile("".join(meaning.get(part, re.escape(part)) for part in parts))


def printable(name: str) -> str:
    """The name, with escapes for bytes that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _bare(file: str) -> str:
    return str(PurePosixPath(file).with_suffix(""))


def _cuts(
    root: Path,
    files: Sequence[str],
    transcripts: Transcripts,
    speaker: re.Pattern[str] | None,
    config: FolderConfig,
    indexed: Indexed,
) -> Iterator[Cut]:
    seen: set[str] = set()
    with ThreadPoolExecutor(config.readers) as pool:
        ids = name_files(files)
        for file, name, found in zip(files, ids, pool.map(partial(_describe, root), files, ids), strict=True):
            if name in seen and isinstance(found, Recording):
                found = BadAudio(name, "duplicate id", f"{file}: another file has this id")
            if isinstance(found, BadAudio):
                if config.strict:
                    raise found
                indexed.rejected.append(found)
                continue
            seen.add(name)
            text = transcripts.find(file)
            indexed.transcribed += text is not None
            match = speaker.fullmatch(_bare(file)) if speaker else None
            yield _cut(found, text, match["speaker"] if match else None, config.language)
    if not seen:
        raise ManifestError(f"none of the {len(files)} audio files in {root} can be read: see rejected.jsonl")


def _describe(root: Path, file: str, name: str) -> Recording | BadAudio:
    if printable(file) != file:
        return BadAudio(name, "unreadable", "its name is not UTF-8")
    try:
        return describe(root / file, name)
    except BadAudio as bad:
        return bad


def _cut(recording: Recording, text: str | None, speaker: str | None, language: str | None) -> Cut:
    cut = recording.to_cut()
    if text is not None or speaker is not None:
        cut.supervisions = [
            SupervisionSegment(
                recording.id, recording.id, 0.0, recording.duration, cut.channel, text, language, speaker
            )
        ]
    return cut


def main(argv: Sequence[str]) -> int:
    """The command `voxtok corpus folder`."""
    config = parse(FolderConfig, argv, "voxtok corpus folder")
    indexed = index_folder(config)
    print(f"{Path(config.out) / 'cuts.jsonl.gz'}: {indexed.size}")
    if config.transcripts:
        spare = f"; {indexed.unused} names in it fit no file" if config.transcripts != SIDECAR else ""
        print(f"{config.transcripts}: transcripts of {indexed.transcribed} recordings{spare}")
    if indexed.rejected:
        print(f"{Path(config.out) / 'rejected.jsonl'}: {len(indexed.rejected)} bad files")
    return 0
