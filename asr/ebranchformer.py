"""The E-Branchformer layer (Kim et al. 2023), of SpeechBrain's parts: a Branchformer between two half feed-forwards.

The two branches are merged by a depthwise convolution over both. It is ESPnet's encoder for tokens; SpeechBrain 1.1 has
the Branchformer alone.
"""

from typing import Any

import torch
from torch import nn


class EBranchformerLayer(nn.Module):
    """One layer; `branchformer` is one of SpeechBrain's, whose two branches are used, and its merge is replaced."""

    def __init__(
        self, branchformer: Any, merge: nn.Module, halves: tuple[nn.Module, nn.Module], width: int, dropout: float
    ) -> None:
        super().__init__()
        self.branches = branchformer
        self.merge = merge
        self.before, self.after = halves
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, hidden: torch.Tensor, src_key_padding_mask: torch.Tensor, pos_embs: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        """(B, T, width) from the same, in the form of SpeechBrain's layers."""
        hidden = hidden + 0.5 * self.before(hidden)
        normed = self.branches.norm_mhsa(hidden)
        attended, _ = self.branches.mha_layer(
            normed, normed, normed, key_padding_mask=src_key_padding_mask, pos_embs=pos_embs
        )
        gated = self.branches.convolution_branch(self.branches.norm_conv(hidden))
        both = torch.cat([self.dropout(attended), self.dropout(gated)], dim=-1)  # (B, T, 2 width)
        hidden = hidden + self.dropout(self.branches.merge_proj(both + self.merge(both)))
        return self.norm(hidden + 0.5 * self.after(hidden)), None


def half_forward(width: int, inner: int, dropout: float) -> nn.Module:
    """A feed-forward part that is added by half."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, inner),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(inner, width),
        nn.Dropout(dropout),
    )
