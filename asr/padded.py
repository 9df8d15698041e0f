"""Sequences of different lengths in one array."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True, eq=False)
class Padded:
    """A batch of sequences, padded to the longest.

    Attributes:
        values: (B, T, ...); what lies beyond a sequence's length means nothing.
        lengths: (B,) int64, at most T.
    """

    values: torch.Tensor
    lengths: torch.Tensor

    @property
    def inside(self) -> torch.Tensor:
        """(B, T) bool, True where a value belongs to a sequence."""
        places = torch.arange(self.values.shape[1], device=self.values.device)
        return places < self.lengths[:, None]

    def zeroed(self) -> torch.Tensor:
        """The values with zeros beyond each sequence: (B, T, ...)."""
        inside = self.inside.reshape(*self.values.shape[:2], *[1] * (self.values.ndim - 2))
        return self.values.masked_fill(~inside, 0)

    def to(self, device: torch.device) -> "Padded":
        """The same on a device."""
        return Padded(self.values.to(device), self.lengths.to(device))


def pad(sequences: Sequence[torch.Tensor]) -> Padded:
    """At least one (T, ...) sequence, as one batch with zeros beyond their ends."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    longest = int(lengths.max())
    rows = [F.pad(row, [0, 0] * (row.ndim - 1) + [0, longest - len(row)]) for row in sequences]
    return Padded(torch.stack(rows), lengths)
