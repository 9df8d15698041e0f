"""`voxtok corpus speed`: a corpus -> the same at several speeds, as further cuts.

Tokens of faster or slower speech must be computed from its audio (Lhotse would only cut out some of the old ones), so
perturbed cuts are encoded like others, and a store holds all speeds side by side (Ko et al. 2015).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lhotse.cut import Cut, MonoCut, MultiCut

from voxtok.manifests.cuts import load_cuts, save_cuts
from voxtok.manifests.identity import bare
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError, ManifestError


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """Write every utterance at several speeds; ids of changed ones end in _sp0.9 and the like."""

    cuts: str
    """Lhotse cuts, recordings or Shar folder."""
    factors: tuple[float, ...]
    """Speeds; 1 is the utterance as it is. The field's are 0.9, 1 and 1.1."""
    out: str
    """Cuts to write, .jsonl.gz; audio is changed as it is read."""

    def __post_init__(self) -> None:
        if not self.factors or not all(0.2 <= factor <= 5 for factor in self.factors):
            raise ConfigError("factors needs at least one speed, each between 0.2 and 5")
        if len(set(self.factors)) != len(self.factors):
            raise ConfigError("factors has a speed twice")


def at_speeds(cuts: Iterable[Cut], factors: Sequence[float]) -> Iterator[Cut]:
    """Every cut at every speed, without its arrays, which belong to the old one.

    Worked: 2 s at speed 0.8 last 2.5 s, and a word from 1.0 to 1.5 s lies from 1.25 to 1.875 s.

    Raises:
        ManifestError: a mixed or padded cut, which has no recording of its own.
    """
    for cut in cuts:
        if not isinstance(cut, MonoCut | MultiCut):
            raise ManifestError(f"{cut.id} is mixed or padded: save its audio as a file first (save_audio)")
        for factor in factors:
            yield cut if factor == 1 else bare(cut).perturb_speed(factor)


def main(argv: Sequence[str]) -> int:
    """The command `voxtok corpus speed`."""
    config = parse(SpeedConfig, argv, "voxtok corpus speed")
    print(f"{config.out}: {save_cuts(config.out, at_speeds(load_cuts(config.cuts), config.factors))}")
    return 0
