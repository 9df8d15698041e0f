"""Augmentation: changes of the input in training that leave the text as it is; each can be turned off.

Token replacement and BPE-dropout change tokens. Time warp, frame masking and dimension masking change the frames behind
the front, so they serve tokens and features alike; the defaults are icefall's for tokens (DiscretizedInputAugment). All
that is drawn for an utterance follows from its own seed, not from its batch or rank.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from voxtok.asr.examples import Codes
from voxtok.asr.padded import Padded
from voxtok.manifests.subwords import Subwords
from voxtok.runtime.errors import ConfigError

_SENTENCEPIECE = threading.Lock()
"""Its random state is one for the process."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How inputs are changed in training; a probability or number of 0 turns a change off."""

    probability: float = 0.9
    """Of time warp, frame masks and dimension masks, each by itself."""
    time_warp: int = 80
    """Frames that a random point of the utterance moves at most; frames before and after are stretched to fit."""
    frame_masks: int = 10
    """Masked spans of frames at most."""
    mask_frames: int = 100
    """Frames in such a span at most."""
    masked_share: float = 0.15
    """Masked frames over all frames at most."""
    dim_masks: int = 2
    """Masked spans of dimensions."""
    mask_dims: int = 27
    """Dimensions in such a span at most; icefall's 27 are of 80."""
    replace: float = 0.0
    """Probability that a token becomes another, drawn from all."""
    bpe_dropout: float = 0.0
    """For stores of subwords: probability that a merge is left out (bpe), or exponent of probabilities (unigram)."""

    def __post_init__(self) -> None:
        shares = (self.probability, self.masked_share, self.replace, self.bpe_dropout)
        if not all(0 <= share <= 1 for share in shares):
            raise ConfigError("augment.probability, masked-share, replace and bpe-dropout are between 0 and 1")
        if min(self.time_warp, self.frame_masks, self.dim_masks) < 0 or min(self.mask_frames, self.mask_dims) < 1:
            raise ConfigError("augment: numbers of masks and time-warp are at least 0, sizes of masks at least 1")

    @property
    def changes_frames(self) -> bool:
        """Whether anything is done behind the front."""
        return self.probability > 0 and bool(self.time_warp or self.frame_masks or self.dim_masks)


def change_tokens(
    codes: Codes, vocab_sizes: Sequence[int], subwords: Subwords | None, config: AugmentConfig, seed: Sequence[int]
) -> Codes:
    """An utterance's (T, streams) tokens after BPE-dropout and replacement; the number of subwords may grow."""
    if subwords is not None and config.bpe_dropout:
        units = subwords.decode(codes[:, 0])
        drawn = int(np.random.default_rng([*seed, 1]).integers(2**31))
        with _SENTENCEPIECE:
            (pieces,) = subwords.sample_batch([units], alpha=config.bpe_dropout, seed=drawn)
        codes = pieces[:, None]
    if config.replace:
        rng = np.random.default_rng([*seed, 2])
        others = np.stack([rng.integers(size, size=len(codes)) for size in vocab_sizes], axis=1)
        codes = np.where(rng.random(codes.shape) < config.replace, others, codes.astype(np.int64))
    return codes


@dataclass(frozen=True, eq=False)
class FrameAugment:
    """What is done behind the front to one batch: `recognizer.encode(inputs, augment)` calls it.

    Attributes:
        config: how.
        seeds: of each utterance of the batch.
    """

    config: AugmentConfig
    seeds: Sequence[Sequence[int]]

    def __call__(self, frames: Padded) -> Padded:
        """Warped and masked (B, T, D) frames of the same lengths."""
        longest, width = frames.values.shape[1:]
        device = frames.values.device
        places, hidden, dims = (
            np.zeros((len(self.seeds), longest), dtype=np.float32),
            np.zeros((len(self.seeds), longest), dtype=np.bool_),
            np.zeros((len(self.seeds), width), dtype=np.bool_),
        )
        for row, (seed, length) in enumerate(zip(self.seeds, frames.lengths.tolist(), strict=True)):
            rng = np.random.default_rng([*seed, 3])
            places[row, :length], hidden[row, :length], dims[row] = self._draw(length, width, rng)
        values = interpolated(frames.values, torch.from_numpy(places).to(device))
        masked = torch.from_numpy(hidden[..., None] | dims[:, None]).to(device)
        return Padded(values.masked_fill(masked, 0), frames.lengths)

    def _draw(
        self, num_frames: int, width: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Where each frame is taken from (T,), which are masked (T,), and which dimensions are (D,)."""
        config = self.config
        places = np.arange(num_frames, dtype=np.float32)
        masked, dims = np.zeros(num_frames, dtype=np.bool_), np.zeros(width, dtype=np.bool_)
        if rng.random() < config.probability:
            places = warped(num_frames, config.time_warp, rng)
        if rng.random() < config.probability:
            masked = frame_mask(num_frames, config, rng)
        if rng.random() < config.probability:
            for _ in range(config.dim_masks):
                dims |= span(width, int(rng.integers(config.mask_dims + 1)), rng)
        return places, masked, dims


def warped(num_frames: int, factor: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Where each frame is taken from: one inner point moves by up to `factor` frames (SpecAugment, Park et al. 2019).

    Utterances too short for that stay. Worked: of 5 frames, point 2 moved to 3 gives 0, 2/3, 4/3, 2, 4: what lay before
    it takes longer, what lay behind is over faster.
    """
    places = np.arange(num_frames, dtype=np.float32)
    if factor == 0 or num_frames - factor <= factor + 1:
        return places
    point = int(rng.integers(factor + 1, num_frames - factor))
    moved = int(rng.integers(point - factor, point + factor)) + 1
    return warp(num_frames, point, min(moved, num_frames - 1))


def warp(num_frames: int, point: int, moved: int) -> npt.NDArray[np.float32]:
    """(num_frames,) places so that frame `moved` is taken from `point`, and the ends from the ends."""
    known = np.array([0, moved, num_frames - 1]), np.array([0, point, num_frames - 1])
    places: npt.NDArray[np.float32] = np.interp(np.arange(num_frames), *known).astype(np.float32)
    return places


def frame_mask(num_frames: int, config: AugmentConfig, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """(T,) True where a frame is hidden: up to `frame_masks` spans, `masked_share` of the frames in all (as Lhotse)."""
    masked = np.zeros(num_frames, dtype=np.bool_)
    allowed = config.masked_share * num_frames
    spans = min(config.frame_masks, int(np.ceil(allowed / config.mask_frames)))
    if spans == 0 or allowed < 1:
        return masked
    longest = min(config.mask_frames, int(allowed // spans))
    for _ in range(spans):
        masked |= span(num_frames, int(rng.integers(1, longest + 1)) if longest else 0, rng)
    return masked


def span(size: int, length: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """(size,) True in one run of `length` at a random place."""
    found = np.zeros(size, dtype=np.bool_)
    length = min(length, size)
    start = int(rng.integers(size - length + 1))
    found[start : start + length] = True
    return found


def interpolated(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, T, D) values at fractional places (B, T), between the two frames next to each."""
    low = places.floor().long()
    high = (low + 1).clamp(max=values.shape[1] - 1)
    share = (places - low)[..., None].to(values.dtype)

    def taken(at: torch.Tensor) -> torch.Tensor:
        return values.gather(1, at[..., None].expand(-1, -1, values.shape[2]))

    return taken(low) * (1 - share) + taken(high) * share
