"""CTC's log-probability that a text begins with a prefix, for the hypotheses of an attention decoder's beam.

As in Watanabe et al. 2017 (hybrid CTC/attention, algorithm 2), but the recursion over frames is a cumulative sum: the
paths that have said a number since frame s are those that reached s, times the number's probabilities from s on.
"""

from dataclasses import dataclass

import torch

from voxtok.asr.hypothesis import NEVER
from voxtok.asr.padded import Padded
from voxtok.asr.text import BLANK

LEAST = -1e4
"""Log-probabilities are at least this, so that differences of sums stay numbers."""


@dataclass(frozen=True, eq=False)
class CtcPrefixes:
    """K prefixes of each of B utterances, N = B K, each with the paths that say it within the first t frames.

    Attributes:
        log_probs: (B, T, V) of the utterances.
        lengths: (B,) their frames.
        label: (N, T + 1) float64 log-probability of the paths that end in the last number.
        blank: (N, T + 1) float64 of those that end in blank.
        last: (N,) last number, BLANK where the prefix is empty.
    """

    log_probs: torch.Tensor
    lengths: torch.Tensor
    label: torch.Tensor
    blank: torch.Tensor
    last: torch.Tensor

    def select(self, rows: torch.Tensor) -> "CtcPrefixes":
        """The prefixes `rows`, as many of each utterance and in the order of utterances."""
        return CtcPrefixes(self.log_probs, self.lengths, self.label[rows], self.blank[rows], self.last[rows])

    def whole(self) -> torch.Tensor:
        """(N,) log-probability that the prefix is the whole text."""
        ends = self._each(self.lengths)[:, None]
        return torch.logaddexp(self.label, self.blank).gather(1, ends)[:, 0]

    def scores(self, numbers: torch.Tensor) -> torch.Tensor:
        """(N, C) log-probability that the text begins with each prefix and one more of (N, C) numbers."""
        paths = self._before(numbers) + self._said(numbers)  # (N, T, C)
        inside = torch.arange(paths.shape[1], device=paths.device) < self._each(self.lengths)[:, None]
        return paths.masked_fill(~inside[..., None], NEVER).logsumexp(dim=1)

    def grown(self, numbers: torch.Tensor) -> "CtcPrefixes":
        """Each prefix with one more of (N,) numbers."""
        label = _held(self._before(numbers[:, None]), self._said(numbers[:, None]))
        blank = _held(label[:, :-1, None], self._said(torch.full_like(numbers, BLANK)[:, None]))
        return CtcPrefixes(self.log_probs, self.lengths, label, blank, numbers)

    def _each(self, of_utterances: torch.Tensor) -> torch.Tensor:
        """(B,) values, for each prefix (N,)."""
        return of_utterances.repeat_interleave(len(self.last) // len(of_utterances))

    def _said(self, numbers: torch.Tensor) -> torch.Tensor:
        """(N, T, C) log-probabilities of (N, C) numbers at each frame."""
        batch, frames, _ = self.log_probs.shape
        wanted = numbers.reshape(batch, 1, -1).expand(batch, frames, -1)  # (B, T, K C)
        said = self.log_probs.gather(2, wanted).view(batch, frames, len(numbers) // batch, numbers.shape[1])
        return said.transpose(1, 2).flatten(0, 1).double().clamp(min=LEAST)

    def _before(self, numbers: torch.Tensor) -> torch.Tensor:
        """(N, T, C) of the paths that may go on with a number at each frame; after itself, it needs a blank between."""
        total = torch.logaddexp(self.label, self.blank)[:, :-1, None]
        repeats = (numbers == self.last[:, None])[:, None]
        return torch.where(repeats, self.blank[:, :-1, None], total)


def start_prefixes(log_probs: Padded, beam: int) -> CtcPrefixes:
    """`beam` empty prefixes for each utterance of (B, T, V) log-probabilities."""
    silence = log_probs.values[..., BLANK].double().clamp(min=LEAST).cumsum(dim=1)
    blank = torch.nn.functional.pad(silence, (1, 0)).repeat_interleave(beam, dim=0)
    last = torch.full((len(blank),), BLANK, device=blank.device)
    return CtcPrefixes(log_probs.values, log_probs.lengths, torch.full_like(blank, NEVER), blank, last)


def _held(entered: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """(N, T + 1) of the paths that have entered a symbol before frame t and say it since; nothing before frame 0.

    Args:
        entered: (N, T, 1) of the paths that may enter it at each frame.
        said: (N, T, 1) log-probability of the symbol.
    """
    sums = said.cumsum(dim=1)
    held = sums + torch.logcumsumexp(entered - (sums - said), dim=1)
    return torch.nn.functional.pad(held[..., 0], (1, 0), value=NEVER)
