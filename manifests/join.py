"""`voxtok corpus join`: several corpora -> one, without the utterances of another, such as an evaluation set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lhotse.cut import Cut

from voxtok.manifests.cuts import CorpusSize, load_cuts, save_cuts
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError, ManifestError


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """Write the cuts of several corpora, one after another, to one manifest; audio stays where it is."""

    cuts: tuple[str, ...]
    """Lhotse cuts, recordings or Shar folders."""
    out: str
    """Manifest to write: a .jsonl or .jsonl.gz file."""
    without: str | None = None
    """Cuts whose ids are left out."""
    without_others: bool = False
    """Whether `without` may have cuts that none of the corpora has."""
    repeat: int = 1
    """Times that each cut is there, to train more on some speech; more than 1 give ids that end in _repeat0, _repeat1
    and so on, as Lhotse's CutSet.repeat does."""

    def __post_init__(self) -> None:
        if not self.cuts:
            raise ConfigError("cuts needs at least one corpus")
        if self.repeat < 1:
            raise ConfigError("repeat must be at least 1")


def join(config: JoinConfig) -> CorpusSize:
    """Write the joined manifest.

    Raises:
        ManifestError: two corpora have a cut of the same id, or `without` has one that no corpus has and
            `without_others` is false.
    """
    left_out = {cut.id for cut in load_cuts(config.without)} if config.without else set()
    seen: dict[str, str] = {}

    def kept() -> Iterator[Cut]:
        for corpus in config.cuts:
            for cut in load_cuts(corpus):
                if cut.id in seen:
                    raise ManifestError(f"{cut.id} is in {seen[cut.id]} and in {corpus}: ids must differ")
                seen[cut.id] = corpus
                if cut.id not in left_out:
                    yield from _repeated(cut, config.repeat)
        missing = left_out - seen.keys()
        if missing and not config.without_others:  # here, so that a manifest of before stays as it is
            raise ManifestError(
                f"{config.without}: {len(missing)} cuts, such as {min(missing)}, are in none of the corpora"
            )

    return save_cuts(config.out, kept())


def _repeated(cut: Cut, times: int) -> Iterator[Cut]:
    if times == 1:
        yield cut
        return
    yield from (cut.with_id(f"{cut.id}_repeat{time}") for time in range(times))


def main(argv: Sequence[str]) -> int:
    """`voxtok corpus join --out FILE [--without CUTS] --cuts "[CUTS, ...]"`."""
    config = parse(JoinConfig, argv, "voxtok corpus join")
    print(f"{config.out}: {join(config)}")
    return 0
