"""Multi-head attention whose keys and values can be kept: a search and a fused input make them once."""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Multi-head attention whose keys and values are made apart, so that they can be kept."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, width)
        self.pairs = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.dropout = dropout

    def keys_values(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two of (N, heads, T, d) from (N, T, width)."""
        keys, values = self.pairs(frames).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(
        self, frames: torch.Tensor, pairs: tuple[torch.Tensor, torch.Tensor], seen: torch.Tensor
    ) -> torch.Tensor:
        """(N, S, width) from queries (N, S, width); `seen` (..., S, T) bool says what each may look at."""
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(
            self._split(self.queries(frames)), *pairs, attn_mask=seen, dropout_p=dropout
        )
        mixed: torch.Tensor = self.out(found.transpose(1, 2).flatten(2))
        return mixed

    def _split(self, frames: torch.Tensor) -> torch.Tensor:
        split: torch.Tensor = frames.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return split
