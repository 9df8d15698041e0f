"""Training batches: crops of utterances in memory, of equal length, with the targets of their frames.

Everything random in a batch follows from the seed, the epoch and the batch's place in it, not from ranks, workers or
restarts: a resumed run, or one on more ranks, sees the same crops.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

import numpy as np
import numpy.typing as npt
import torch
from lhotse.cut import Cut

from voxtok.manifests.audio import read_audio, read_span
from voxtok.manifests.store import TokenStore
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.progress import log
from voxtok.tokenize.architecture import Architecture
from voxtok.tokenize.disguise import Disguise, change_speed
from voxtok.tokenize.masking import span_mask

RATE = 16000
CENTRE_SAMPLES = 200  # frame i of a store is centred at i * hop + 200: MFCC and the wav2vec 2.0 front see 400 samples
UNKNOWN = -1  # the target of a frame that a label store has nothing about; losses pass over it
SHORTEST_S = 0.5  # an utterance; crops of a batch are as long as the shortest
LONGER = 1.25  # utterances in a batch, at most, than its shortest
EPSILON = 1e-7  # of waveform normalisation, as Hugging Face's preprocessor has it

Int16 = npt.NDArray[np.int16]
Codes = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Utterance:
    """One training utterance.

    Attributes:
        cut: where its audio is.
        num_samples: at RATE.
        samples: (num_samples,) kept in memory, or None to read each crop from the file.
        codes: one (frames, streams) array for each store.
    """

    cut: Cut
    num_samples: int
    samples: Int16 | None
    codes: tuple[Codes, ...]

    def span(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Samples from start to stop; zeros beyond the end."""
        stop_here = min(stop, self.num_samples)
        if self.samples is None:
            found = read_span(self.cut, RATE, start, stop_here).astype(np.float64)
        else:
            found = self.samples[start:stop_here] / 32768.0
        return np.pad(found, (0, stop - start - len(found)))


@dataclass(frozen=True, eq=False)
class Corpus:
    """Utterances with the tokens of several stores.

    Attributes:
        utterances: those that every store has and whose audio can be read.
        vocab_sizes: of every stream, in the order of the targets.
        hops: samples per frame of every store.
    """

    utterances: list[Utterance]
    vocab_sizes: tuple[int, ...]
    hops: tuple[float, ...]

    @cached_property
    def others(self) -> list[Utterance]:
        """What other voices and channels come from: unlabelled speech, which is real where labels are synthetic."""
        unlabelled = [item for item in self.utterances if any((codes == UNKNOWN).any() for codes in item.codes)]
        return unlabelled or self.utterances


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """How batches are drawn, masked and disguised."""

    batch_s: float
    """Seconds of audio in a batch, over all ranks."""
    crop_s: float
    """Longest crop, in seconds; longer utterances are cut at random."""
    mask_share: float
    """Frames under spans over all frames, before overlaps: HuBERT's 0.8 masks about half."""
    mask_frames: int
    """Frames of a masked span."""
    disguise: Disguise = field(default_factory=Disguise)
    """Changes of the signal that leave the targets as they are."""

    def __post_init__(self) -> None:
        if not 0 < self.crop_s <= self.batch_s:
            raise ConfigError("crop-s must be positive and at most batch-s")
        if not 0 < self.mask_share or self.mask_frames < 1:
            raise ConfigError("mask-share must be positive and mask-frames at least 1")


@dataclass(frozen=True, eq=False)
class Batch:
    """Crops of equal length: this rank's part of a batch.

    Attributes:
        waveforms: (B, T) float32, each of zero mean and unit variance.
        targets: (B, F, streams) int64.
        mask: (B, F) bool, True where the model must guess.
        clean: (B, T) float32 likewise, the crops without disguise; for a teacher.
    """

    waveforms: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    clean: torch.Tensor

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self.waveforms.numel() / RATE

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return Batch(*(tensor.to(device) for tensor in (self.waveforms, self.targets, self.mask, self.clean)))


def load_corpus(stores: Sequence[TokenStore], labels: Sequence[TokenStore], memory_gb: float) -> Corpus:
    """Join stores by cut id; utterances that a store lacks are left out, those that `labels` lack are UNKNOWN there.

    Raises:
        ConfigError: a store with dedup, or no utterance that all stores have.
    """
    for store in (*stores, *labels):
        if store.info.has_durations:
            raise ConfigError(f"{store.folder}: one token must be one frame; encode with --dedup false --bpe false")
    others = [{cut.id: tokens.codes for cut, tokens in store} for store in stores[1:]]
    guides = [{cut.id: tokens.codes for cut, tokens in store} for store in labels]
    unknown = [np.full((1, len(store.info.vocab_sizes)), UNKNOWN) for store in labels]

    def labelled(cut_id: str) -> list[Codes]:
        return [guide.get(cut_id, no) for guide, no in zip(guides, unknown, strict=True)]

    joined = (
        (cut, (tokens.codes, *(other[cut.id] for other in others), *labelled(cut.id)))
        for cut, tokens in stores[0]
        if all(cut.id in other for other in others)
    )
    return Corpus(
        read_utterances(joined, memory_gb),
        tuple(size for store in (*stores, *labels) for size in store.info.vocab_sizes),
        tuple(RATE / store.info.frame_rate_hz for store in (*stores, *labels)),
    )


def read_utterances(cuts: Iterable[tuple[Cut, tuple[Codes, ...]]], memory_gb: float) -> list[Utterance]:
    """Cuts and their codes, with the audio in memory as far as `memory_gb` goes; the rest stays on disk.

    What is shorter than SHORTEST_S or cannot be read is left out, with a warning.

    Raises:
        ConfigError: there is none, or none that can be read.
    """
    utterances: list[Utterance] = []
    left = memory_gb * 2**30
    for cut, codes in cuts:
        try:
            utterance = read_utterance(cut, codes, keep=left > 0)
        except BadAudio as error:
            log.warning("left out: %s", error)
            continue
        left -= 0 if utterance.samples is None else utterance.samples.nbytes
        utterances.append(utterance)
    if not utterances:
        raise ConfigError("there is no utterance to train on; several stores must be of one corpus")
    return utterances


def read_utterance(cut: Cut, codes: tuple[Codes, ...], *, keep: bool) -> Utterance:
    """One utterance, its samples in memory as 16-bit integers if `keep`.

    Raises:
        BadAudio: it is shorter than SHORTEST_S, or cannot be read; of one that is not kept the end is tried.
    """
    if cut.duration < SHORTEST_S:
        raise BadAudio(cut.id, "too short", f"{cut.duration:.2f} s, training needs {SHORTEST_S} s")
    if not keep:
        num_samples = round(cut.duration * RATE)
        read_span(cut, RATE, num_samples - CENTRE_SAMPLES, num_samples)
        return Utterance(cut, num_samples, None, codes)
    samples = np.clip(np.round(read_audio(cut, RATE) * 32768.0), -32768, 32767).astype(np.int16)
    return Utterance(cut, len(samples), samples, codes)


def plan_epoch(lengths: Sequence[int], config: CropConfig, seed: int, epoch: int) -> list[list[int]]:
    """Every utterance once, in batches of about equal length, in random order."""
    rng = np.random.default_rng([seed, epoch])
    limit = config.crop_s * RATE
    used = np.minimum(lengths, limit)
    order = np.argsort(used * rng.uniform(0.95, 1.0, len(used)), kind="stable")
    batches: list[list[int]] = []
    for item in order.tolist():
        # Batches hold equal crops, as long as the shortest: the first, since the order is by length.
        shortest = used[batches[-1][0]] if batches else 0
        if used[item] <= LONGER * shortest and (len(batches[-1]) + 1) * shortest <= config.batch_s * RATE:
            batches[-1].append(item)
        else:
            batches.append([item])
    return [batches[i] for i in rng.permutation(len(batches))]


def batches(
    corpus: Corpus,
    config: CropConfig,
    seed: int,
    ranks: Ranks,
    shape: Architecture,
    begin: int,
) -> Iterator[Callable[[], Batch]]:
    """Recipes of batches without end, from batch `begin` on; each makes this rank's part of one.

    Args:
        corpus: what to draw from.
        config: how.
        seed: of everything drawn.
        ranks: every world_size-th crop of a batch is this rank's.
        shape: of the model: its frames are counted and placed as it says.
        begin: batches done before.
    """
    lengths = [utterance.num_samples for utterance in corpus.utterances]
    done = 0
    for epoch in count():
        plan = plan_epoch(lengths, config, seed, epoch)
        for place in range(max(0, begin - done), len(plan)):
            yield _Recipe(corpus, config, seed, ranks, shape, epoch, place, plan[place])
        done += len(plan)


@dataclass(frozen=True, eq=False)
class _Recipe:
    corpus: Corpus
    config: CropConfig
    seed: int
    ranks: Ranks
    shape: Architecture
    epoch: int
    place: int
    items: list[int]

    def __call__(self) -> Batch:
        utterances = [self.corpus.utterances[item] for item in self.items]
        length = min(round(self.config.crop_s * RATE), *(utterance.num_samples for utterance in utterances))
        mine = range(self.ranks.rank, len(utterances), self.ranks.world_size)
        crops = [self._crop(utterances[i], length, i) for i in mine]
        frames, streams = self.shape.num_frames(length), len(self.corpus.vocab_sizes)

        def stacked(part: int, dtype: type, *shape: int) -> torch.Tensor:
            # Shaped explicitly: a rank may have no crop of a small batch.
            return torch.from_numpy(np.array([crop[part] for crop in crops], dtype=dtype).reshape(len(crops), *shape))

        return Batch(
            waveforms=stacked(0, np.float32, length),
            targets=stacked(1, np.int64, frames, streams),
            mask=stacked(2, np.bool_, frames),
            clean=stacked(3, np.float32, length),
        )

    def _crop(self, utterance: Utterance, length: int, index: int) -> tuple[npt.NDArray[np.generic], ...]:
        """The waveform, targets, mask and clean waveform of one crop."""
        rng = np.random.default_rng([self.seed, self.epoch, self.place, index])
        disguise = self.config.disguise
        speed = min(disguise.draw_speed(rng), utterance.num_samples / length)
        needed = min(int(np.ceil(length * speed)) + 1, utterance.num_samples)
        start = int(rng.integers(utterance.num_samples - needed + 1))
        clean = change_speed(utterance.span(start, start + needed), speed, length)
        other = self.corpus.others[rng.integers(len(self.corpus.others))]
        begin = int(rng.integers(max(1, other.num_samples - length)))
        noisy = disguise.apply(clean, other.span(begin, begin + length), RATE, rng) if disguise.is_active else clean
        frames = self.shape.num_frames(length)
        mask = span_mask(frames, share=self.config.mask_share, span_frames=self.config.mask_frames, rng=rng)
        targets = targets_of(utterance.codes, self.corpus.hops, frames, self.shape, start, speed)
        return normalized(noisy), targets, mask, normalized(clean)


def targets_of(
    codes: Sequence[Codes], hops: Sequence[float], frames: int, shape: Architecture, start: int, speed: float
) -> npt.NDArray[np.int64]:
    """The tokens under the centre of each frame of a crop, as (frames, streams).

    Worked: a crop from sample 640 at speed 1, a hop of 320 and frames that see 400 samples. Frame 1 is centred at
    640 + 320 + 200 samples, which is where frame 6 of a store with a hop of 160 (MFCC) is centred: 6 * 160 + 200.
    """
    centre = start + speed * (np.arange(frames) * shape.hop_samples + shape.min_samples / 2)
    columns = [
        store[np.clip(np.round((centre - CENTRE_SAMPLES) / hop).astype(np.int64), 0, len(store) - 1)]
        for store, hop in zip(codes, hops, strict=True)
    ]
    return np.concatenate([np.zeros((frames, 0)), *columns], axis=1).astype(np.int64)


def normalized(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Zero mean and unit variance, as Hugging Face's preprocessor does with `do_normalize`."""
    result: npt.NDArray[np.float64] = (samples - samples.mean()) / np.sqrt(samples.var() + EPSILON)
    return result
