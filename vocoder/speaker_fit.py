"""`voxtok fit-speaker`: cuts with speakers -> the linear discriminant behind the light speaker embedding.

Pieces of utterances are points; the directions kept are those in which speakers differ most beside how much the pieces
of one speaker differ (Fisher's linear discriminant), each scaled to unit variance within speakers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut

from voxtok.manifests.audio import read_audio
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.config import parse
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.progress import Progress, log
from voxtok.vocoder.speaker import RATE, StatisticsSpeaker, speech_statistics

Statistics = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FitSpeakerConfig:
    """Fit the light speaker embedding to a corpus with speakers."""

    cuts: str
    """Lhotse cuts, recordings or Shar folder, with supervisions that name speakers."""
    out: str
    """Folder to write."""
    width: int
    """Dimensions of an embedding, below the number of speakers."""
    piece_s: float = 3.0
    """Length of the pieces that utterances are split into."""
    max_pieces: int = 40
    """Pieces of one speaker that count, so that none outweighs the others."""
    shrink: float = 0.05
    """Share of the mean variance that is added to every direction within speakers."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.piece_s < 1 or self.max_pieces < 2 or not 0 < self.shrink <= 1:
            raise ConfigError("width must be positive, piece-s at least 1, max-pieces at least 2, shrink in 0 .. 1")


def collect(cuts: Iterable[Cut], piece_s: float, max_pieces: int) -> dict[str, list[Statistics]]:
    """Statistics of each speaker's pieces; cuts without speaker, or that cannot be read, are left out."""
    found: dict[str, list[Statistics]] = {}
    with Progress("fit-speaker", None) as progress:
        for cut in cuts:
            speaker = cut.supervisions[0].speaker if cut.supervisions else None
            if speaker is None or len(found.get(speaker, ())) >= max_pieces:
                continue
            try:
                samples = read_audio(cut, RATE)
            except BadAudio as error:
                log.warning("left out: %s", error)
                continue
            count = max(1, round(len(samples) / (piece_s * RATE)))
            left = max_pieces - len(found.get(speaker, ()))
            for piece in np.array_split(samples, count)[:: -(-count // left)]:  # from all over a long recording
                try:
                    found.setdefault(speaker, []).append(speech_statistics(piece))
                except ConfigError as error:
                    log.warning("left out: %s: %s", cut.id, error)
            progress.add(cut.duration)
    return found


def discriminant(speakers: Sequence[Sequence[Statistics]], width: int, shrink: float) -> StatisticsSpeaker:
    """The linear discriminant of speakers' statistics.

    Raises:
        ConfigError: fewer than width + 1 speakers with at least two pieces.
    """
    usable = [np.stack(pieces).astype(np.float64) for pieces in speakers if len(pieces) > 1]
    if len(usable) <= width:
        raise ConfigError(f"{len(usable)} speakers with two pieces or more cannot give {width} dimensions")
    means = np.stack([pieces.mean(axis=0) for pieces in usable])
    within = np.concatenate([pieces - mean for pieces, mean in zip(usable, means, strict=True)])
    scatter = within.T @ within / (len(within) - len(usable))
    # Statistics have different units: shrink towards the diagonal.
    scatter = (1 - shrink) * scatter + shrink * np.diag(np.diag(scatter))
    whiten = np.linalg.inv(np.linalg.cholesky(scatter)).T  # (S, S)
    _, directions = np.linalg.eigh(np.cov((means @ whiten).T))
    projection = whiten @ directions[:, ::-1][:, :width]
    return StatisticsSpeaker(means.mean(axis=0).astype(np.float32), projection.astype(np.float32))


def main(argv: Sequence[str]) -> int:
    """`voxtok fit-speaker --cuts CUTS --out FOLDER --width N`."""
    config = parse(FitSpeakerConfig, argv, "voxtok fit-speaker")
    speakers = collect(load_cuts(config.cuts), config.piece_s, config.max_pieces)
    model = discriminant(list(speakers.values()), config.width, config.shrink)
    model.save(Path(config.out))
    print(f"{len(speakers)} speakers, {sum(map(len, speakers.values()))} pieces -> {config.out}")
    return 0
