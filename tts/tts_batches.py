"""Training batches of a text-to-token model: utterances of about equal length, in an order that follows from the seed
and the epoch alone, not from ranks, threads or restarts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch

from voxtok.runtime.distributed import Ranks
from voxtok.tts.synthesizer import padded
from voxtok.tts.utterances import Utterance


@dataclass(frozen=True, eq=False)
class TtsBatch:
    """Utterances, padded with zeros: this rank's part of a batch.

    Attributes:
        ids: (B, P) symbols, 0 on padding.
        durations: (B, P) rows of each symbol.
        codes: (B, R, S) tokens.
        frames: (B, R) frames of each row, 0 on padding.
        speaker: (B,) rows of the speaker table, (B, E) embeddings, or None.
        masks: (B, R, S) in [0, 1): tokens below the utterance's share are given to a masked decoder.
        given: (B,) that share.
        audio_s: seconds of speech.
    """

    ids: torch.Tensor
    durations: torch.Tensor
    codes: torch.Tensor
    frames: torch.Tensor
    speaker: torch.Tensor | None
    masks: torch.Tensor
    given: torch.Tensor
    audio_s: float

    def to(self, device: torch.device) -> "TtsBatch":
        """The same on a device."""
        speaker = None if self.speaker is None else self.speaker.to(device)
        parts = (self.ids, self.durations, self.codes, self.frames)
        ids, durations, codes, frames = (part.to(device) for part in parts)
        masks, given = self.masks.to(device), self.given.to(device)
        return TtsBatch(ids, durations, codes, frames, speaker, masks, given, self.audio_s)


def collated(utterances: Sequence[Utterance], frame_rate_hz: float, seeds: Sequence[Sequence[int]]) -> TtsBatch:
    """At least one utterance as a batch; `seeds` draw what of each is given to a masked decoder.

    A share of 1 - cos(pi / 2 * u) of the tokens is given, u being uniform: as many as in MaskGIT's rounds.
    """
    given, masks = [], []
    for one, seed in zip(utterances, seeds, strict=True):
        rng = np.random.default_rng(list(seed))
        given.append(1 - np.cos(np.pi / 2 * rng.random()))
        masks.append(rng.random(one.codes.shape, dtype=np.float32))
    speaker = None
    if utterances[0].speaker is not None:
        speaker = torch.from_numpy(np.stack([np.asarray(one.speaker) for one in utterances]))
    return TtsBatch(
        ids=padded([one.ids for one in utterances]),
        durations=padded([one.durations for one in utterances]),
        codes=padded([one.codes for one in utterances]),
        frames=padded([one.frames for one in utterances]),
        speaker=speaker,
        masks=padded(masks),
        given=torch.tensor(given, dtype=torch.float32),
        audio_s=sum(int(one.frames.sum()) for one in utterances) / frame_rate_hz,
    )


def plan_epoch(lengths: Sequence[int], batch_frames: int, seed: int, epoch: int) -> list[list[int]]:
    """Every utterance once, in batches of about equal length, in random order; padded, a batch has at most
    `batch_frames` frames, or one utterance.
    """
    rng = np.random.default_rng([seed, epoch])
    order = np.argsort(np.array(lengths) * rng.uniform(0.9, 1.0, len(lengths)), kind="stable")
    found: list[list[int]] = [[]]
    longest = 0
    for item in order.tolist():
        longest = max(longest, lengths[item])
        if found[-1] and (len(found[-1]) + 1) * longest > batch_frames:
            found.append([])
            longest = lengths[item]
        found[-1].append(item)
    return [found[index] for index in rng.permutation(len(found))]


def batches(
    utterances: Sequence[Utterance], frame_rate_hz: float, batch_frames: int, seed: int, ranks: Ranks, begin: int
) -> Iterator[Callable[[], TtsBatch | None]]:
    """Recipes of batches without end, from batch `begin` on; each makes this rank's part, None where it has none."""
    lengths = [int(one.frames.sum()) for one in utterances]
    done = 0
    for epoch in count():
        plan = plan_epoch(lengths, batch_frames, seed, epoch)
        for place in range(max(0, begin - done), len(plan)):
            items = plan[place][ranks.rank :: ranks.world_size]
            yield _Recipe([utterances[item] for item in items], frame_rate_hz, [[seed, epoch, item] for item in items])
        done += len(plan)


@dataclass(frozen=True, eq=False)
class _Recipe:
    utterances: list[Utterance]
    frame_rate_hz: float
    seeds: list[list[int]]

    def __call__(self) -> TtsBatch | None:
        return collated(self.utterances, self.frame_rate_hz, self.seeds) if self.utterances else None
