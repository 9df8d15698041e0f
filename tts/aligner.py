"""The aligner: how long each symbol of a sentence lasts in its tokens, from a small CTC network and its best path.

The network is trained here, on the corpus itself: first on sentences cut into equal parts, without which CTC says
nothing for long, then by CTC. Its scores are divided by how frequent each label is, to a power, in training and on the
path: without that, labels shrink to single frames and their times mean little (Huang et al. 2024, Less Peaky and More
Accurate CTC Forced Alignment by Label Priors). Marks between words are not trained on; the path's blanks between two
words are their time, which may be none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.functional as audio
from torch import nn

from voxtok.runtime.errors import ConfigError
from voxtok.runtime.progress import log
from voxtok.tts.utterances import Ints, fill_gaps

BLANK = 0
FLAT_SHARE = 0.2
"""Of the steps, on equal parts; ..."""
FLAT_BLANKS = 0.3
"""... of which this share counts as blanks, so that pauses can be found."""
PRIOR_MEMORY = 0.99
"""Share of the old frequencies that a batch leaves."""


@dataclass(frozen=True, kw_only=True)
class AlignerConfig:
    """How the aligner is trained."""

    steps: int = 1500
    """Batches."""
    batch_frames: int = 4000
    """Frames of a batch."""
    width: int = 128
    """Channels of its three convolutions, which together see 7 frames."""
    peak_lr: float = 2e-3
    """Highest learning rate of Adam; it falls to zero linearly."""
    prior_power: float = 0.5
    """Power of the labels' frequencies that scores are divided by; 0 is plain CTC."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_frames < 1 or self.width < 1:
            raise ConfigError("aligner.steps, batch-frames and width must be at least 1")
        if not 0 <= self.prior_power <= 1:
            raise ConfigError("aligner.prior-power is between 0 and 1")


@dataclass(frozen=True, eq=False)
class Spoken:
    """What is aligned: ids (P,) of symbols, marks among them, and codes (T, S), one row a frame."""

    ids: Ints
    codes: Ints


class Network(nn.Module):
    """Scores of labels for each frame, from the tokens around it."""

    prior: torch.Tensor

    def __init__(self, vocab_sizes: Sequence[int], labels: int, width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(size, width) for size in vocab_sizes])
        self.convolutions = nn.ModuleList([nn.Conv1d(width, width, 3, padding=1) for _ in range(3)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.out = nn.Linear(width, labels)
        self.register_buffer("prior", torch.full((labels,), 1 / labels))

    def forward(self, codes: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """(B, T, labels) log-probabilities of (B, T, S) codes, inside (B, T) of their sentences."""
        keep = inside[..., None]
        hidden = torch.stack([table(codes[..., s]) for s, table in enumerate(self.tables)]).sum(dim=0)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = hidden + F.gelu(convolution((norm(hidden) * keep).transpose(1, 2)).transpose(1, 2))
        scores: torch.Tensor = self.out(hidden).log_softmax(dim=-1)
        return scores

    def scaled(self, log_probs: torch.Tensor, power: float) -> torch.Tensor:
        """Log-probabilities over the labels' frequencies, to a power."""
        return log_probs - power * self.prior.log()


def align(
    spoken: Sequence[Spoken],
    marks: frozenset[int],
    vocab_sizes: Sequence[int],
    labels: int,
    config: AlignerConfig,
    seed: int,
) -> list[Ints | None]:
    """Durations (P,) in frames of each sentence's symbols, which add up to its frames; None where it has too few.

    Args:
        spoken: the corpus, which the network is trained on.
        marks: ids that may last no time; every other lasts at least one frame.
        vocab_sizes: of the tokens' streams.
        labels: number of different ids; 0 is none.
        config: of the training.
        seed: of weights and batches.

    Raises:
        ConfigError: no sentence has as many frames as phones.
    """
    usable = [index for index, one in enumerate(spoken) if _fits(one, marks)]
    if not usable:
        raise ConfigError("no sentence has as many frames as symbols: are these tokens the speech of these texts?")
    network = train_aligner([spoken[index] for index in usable], marks, vocab_sizes, labels, config, seed)
    found: list[Ints | None] = [None] * len(spoken)
    for index in usable:
        found[index] = best_path(network, spoken[index], marks, config.prior_power)
    return found


def train_aligner(
    spoken: Sequence[Spoken],
    marks: frozenset[int],
    vocab_sizes: Sequence[int],
    labels: int,
    config: AlignerConfig,
    seed: int,
) -> Network:
    """Train a network on sentences that all have enough frames; equal arguments give equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(vocab_sizes, labels, config.width)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.peak_lr, betas=(0.9, 0.98))
    for step, batch in zip(range(config.steps), _batches(spoken, config.batch_frames, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = config.peak_lr * min(1.0, (step + 1) / 50) * (1 - step / config.steps)
        flat = step < FLAT_SHARE * config.steps
        loss = _loss(network, [spoken[index] for index in batch], marks, config.prior_power, flat)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        if (step + 1) % 250 == 0:
            log.info("aligner: step %d of %d, loss %.3f", step + 1, config.steps, loss.item())
    return network.eval()


@torch.inference_mode()
def best_path(network: Network, one: Spoken, marks: frozenset[int], power: float) -> Ints:
    """Durations (P,) of a sentence's symbols on the best path, in frames."""
    codes = torch.from_numpy(one.codes)[None]
    log_probs = network.scaled(network(codes, torch.ones(codes.shape[:2], dtype=torch.bool)), power)
    sounding = torch.from_numpy(_sounding(one.ids, marks))[None]
    path, _ = audio.forced_align(log_probs, sounding, blank=BLANK)
    return spread(path[0].numpy(), one.ids, marks)


def spread(path: Ints, ids: Ints, marks: frozenset[int]) -> Ints:
    """Durations of all symbols from a path of labels and blanks, one a frame.

    Blanks go to the mark between the labels around them where there is one, else half to either.

    Worked: path `0 a a 0 0 b 0 0 c 0` of `^ a _ b c .` with marks ^ _ and . gives 1 2 2 2 2 1.
    """
    places = [place for place, symbol in enumerate(ids.tolist()) if symbol not in marks]
    begins = (path != BLANK) & np.concatenate([[True], path[1:] != path[:-1]])
    ends = (path != BLANK) & np.concatenate([path[1:] != path[:-1], [True]])
    limits = np.stack([np.flatnonzero(begins), np.flatnonzero(ends) + 1], axis=1)
    return fill_gaps(limits, places, len(ids), len(path))


def _loss(network: Network, batch: Sequence[Spoken], marks: frozenset[int], power: float, flat: bool) -> torch.Tensor:
    """Of equal parts, or CTC over scaled scores, for each frame."""
    lengths = torch.tensor([len(one.codes) for one in batch])
    codes = nn.utils.rnn.pad_sequence([torch.from_numpy(one.codes) for one in batch], batch_first=True)
    inside = torch.arange(codes.shape[1])[None] < lengths[:, None]
    log_probs = network(codes, inside)
    with torch.no_grad():
        frequencies = log_probs.exp()[inside].mean(dim=0)
        network.prior.mul_(PRIOR_MEMORY).add_((1 - PRIOR_MEMORY) * frequencies).clamp_min_(1e-6)
    targets = [torch.from_numpy(_sounding(one.ids, marks)) for one in batch]
    if flat:
        return _flat_loss(log_probs[inside], targets, lengths.tolist())
    scaled = network.scaled(log_probs, power)
    sizes = torch.tensor([len(target) for target in targets])
    loss = F.ctc_loss(scaled.transpose(0, 1), torch.cat(targets), lengths, sizes, blank=BLANK, reduction="sum")
    # ctc_loss takes its scores for a distribution and adds their exponentials to the gradient; this takes them away.
    excess = scaled.exp()[inside].sum()
    return (loss - (excess - excess.detach())) / inside.sum()


def _flat_loss(log_probs: torch.Tensor, targets: Sequence[torch.Tensor], lengths: Sequence[int]) -> torch.Tensor:
    """Cross-entropy of frames (N, labels) to sentences cut into equal parts, with a share of blanks everywhere."""
    parts = [
        target[torch.arange(length) * len(target) // length] for target, length in zip(targets, lengths, strict=True)
    ]
    said = F.nll_loss(log_probs, torch.cat(parts))
    return (1 - FLAT_BLANKS) * said - FLAT_BLANKS * log_probs[:, BLANK].mean()


def _batches(spoken: Sequence[Spoken], batch_frames: int, seed: int) -> Iterator[list[int]]:
    """Indices of sentences of about equal length, without end."""
    rng = np.random.default_rng(seed)
    lengths = np.array([len(one.codes) for one in spoken])
    while True:
        order = np.argsort(lengths * rng.uniform(0.9, 1.0, len(lengths)), kind="stable")
        size = max(1, int(batch_frames / lengths.mean()))
        batches = [order[start : start + size].tolist() for start in range(0, len(order), size)]
        yield from (batches[index] for index in rng.permutation(len(batches)))


def _sounding(ids: Ints, marks: frozenset[int]) -> Ints:
    return np.array([symbol for symbol in ids.tolist() if symbol not in marks], dtype=np.int64)


def _fits(one: Spoken, marks: frozenset[int]) -> bool:
    """Whether there are frames for all labels; equal neighbours need a blank between them."""
    sounding = _sounding(one.ids, marks)
    return len(sounding) > 0 and len(one.codes) >= len(sounding) + int((sounding[1:] == sounding[:-1]).sum())
