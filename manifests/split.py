"""`voxtok corpus split`: a corpus -> parts that share no speaker, such as training, development and test data."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lhotse.cut import Cut

from voxtok.manifests.cuts import CorpusSize, load_cuts, save_cuts
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Write a corpus as cuts_NAME.jsonl.gz for each part; all utterances of a speaker are in one."""

    cuts: str
    """Lhotse cuts, recordings or Shar folder, with speakers."""
    parts: tuple[str, ...]
    """NAME=SHARE of the audio for each part but the first, which takes the rest, such as train,dev=0.1,test=0.1."""
    out: str
    """Folder to write."""
    seed: int
    """Draws the speakers."""

    def __post_init__(self) -> None:
        if len(self.parts) < 2 or "=" in self.parts[0] or not 0 < sum(self.shares.values()) < 1:
            raise ConfigError("parts are like train,dev=0.1,test=0.1: the first takes what the shares of others leave")
        if min(self.shares.values()) <= 0 or len({self.parts[0], *self.shares}) != len(self.parts):
            raise ConfigError("parts have different names and shares above 0")

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part but the first."""
        try:
            return {name: float(share) for name, share in (part.split("=") for part in self.parts[1:])}
        except ValueError as error:
            raise ConfigError(f"parts after the first are NAME=SHARE, not {', '.join(self.parts[1:])}") from error


def split_by_speaker(cuts: Iterable[Cut], rest: str, shares: dict[str, float], seed: int) -> dict[str, list[Cut]]:
    """Speakers are drawn one by one into each part until it has its share of the audio; `rest` has the others.

    A cut without a speaker is a speaker of its own.
    """
    of_speaker: dict[str, list[Cut]] = {}
    for cut in cuts:
        names = [str(segment.speaker) for segment in cut.supervisions if segment.speaker]
        of_speaker.setdefault(names[0] if names else f"\0{cut.id}", []).append(cut)
    speakers = sorted(of_speaker)
    random.Random(f"split {seed}").shuffle(speakers)
    total_s = sum(cut.duration for own in of_speaker.values() for cut in own)
    parts: dict[str, list[Cut]] = {rest: [], **{name: [] for name in shares}}
    for name, share in shares.items():
        while speakers and sum(cut.duration for cut in parts[name]) < share * total_s:
            parts[name] += of_speaker[speakers.pop()]
    for speaker in speakers:
        parts[rest] += of_speaker[speaker]
    return {name: sorted(chosen, key=lambda cut: str(cut.id)) for name, chosen in parts.items()}


def split(config: SplitConfig) -> dict[str, CorpusSize]:
    """Write the parts; returns their sizes by the name of the file.

    Raises:
        ConfigError: a part has no speaker left.
    """
    found = split_by_speaker(load_cuts(config.cuts), config.parts[0], config.shares, config.seed)
    empty = [name for name, cuts in found.items() if not cuts]
    if empty:
        raise ConfigError(f"{config.cuts} has too few speakers for {len(found)} parts: {', '.join(empty)} got none")
    files = {f"cuts_{name}.jsonl.gz": cuts for name, cuts in found.items()}
    return {file: save_cuts(Path(config.out) / file, cuts) for file, cuts in files.items()}


def main(argv: Sequence[str]) -> int:
    """The command `voxtok corpus split`."""
    config = parse(SplitConfig, argv, "voxtok corpus split")
    for file, size in split(config).items():
        print(f"{Path(config.out) / file}: {size}")
    return 0
