"""WavLM's gated relative position bias (Chen et al. 2022, section III-B), added to attention's scores.

The bias depends on the distance between key and query only, so one row of 2 F - 1 numbers a head holds it. What is
added to the scores is that times a gate a query, B x H x F x F numbers: queries are taken a few at a time, to keep
memory bounded on long utterances.
"""

import math

import torch
from torch.nn import functional as F

from voxtok.tokenize.architecture import Architecture
from voxtok.tokenize.weights import WeightReader

MAX_SCORES = 1 << 26
"""Scores held at once: 256 MB of float32."""


class Gate:
    """How strongly each query of a block heeds positions."""

    def __init__(self, reader: WeightReader, name: str, architecture: Architecture) -> None:
        self.heads = architecture.heads
        size = architecture.width // architecture.heads
        weight = reader.take(f"{name}.gru_rel_pos_linear.weight", (8, size)).view(2, 4, size).sum(1)
        bias = reader.take(f"{name}.gru_rel_pos_linear.bias", (8,)).view(2, 4).sum(1)
        self.linear = reader.cast(weight, bias)  # eight outputs are summed in fours, so two do
        constant = reader.take(f"{name}.gru_rel_pos_const", (1, self.heads, 1, 1))
        self.constant = constant.to(reader.dtype)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, F, D) -> (B, H, F, 1)."""
        batch, length, _ = hidden.shape
        by_head = hidden.view(batch, length, self.heads, -1).transpose(1, 2)
        update, reset = torch.sigmoid(F.linear(by_head, *self.linear)).split(1, dim=-1)
        gate: torch.Tensor = update * (reset * self.constant - 1.0) + 2.0
        return gate


class RelativePosition:
    """The bias of every distance within F frames."""

    def __init__(self, embedding: torch.Tensor, length: int, max_distance: int) -> None:
        """Look the distances up.

        Args:
            embedding: (buckets, H), block 1's, which all blocks share.
            length: F.
            max_distance: see Architecture.
        """
        buckets = bucket(torch.arange(1 - length, length), len(embedding), max_distance)  # on the CPU: logs may differ
        by_distance = embedding[buckets.to(embedding.device)].T.contiguous()  # (H, 2 F - 1)
        # Row F - 1 - query holds the biases of that query's keys: windows of one row, taking no memory.
        self.reversed_rows = by_distance.unfold(1, length, 1)  # (H, F, F)

    # The loop depends on the length: each length would be compiled anew.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        gate: torch.Tensor,
        padding: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attention with the gated bias.

        Args:
            query: (B, H, F, d).
            key: likewise.
            value: likewise.
            gate: (B, H, F, 1).
            padding: (B, 1, 1, F) true where a key is beyond its utterance.

        Returns:
            (B, H, F, d).
        """
        batch, heads, length, _ = query.shape
        step = max(1, MAX_SCORES // (batch * heads * length))
        contexts = []
        for start in range(0, length, step):
            end = min(start + step, length)
            bias = self.reversed_rows[:, length - end : length - start].flip(1) * gate[:, :, start:end]
            if padding is not None:
                bias = bias.masked_fill(padding, -torch.inf)
            contexts.append(F.scaled_dot_product_attention(query[:, :, start:end], key, value, attn_mask=bias))
        return torch.cat(contexts, dim=2)


def bucket(distances: torch.Tensor, buckets: int, max_distance: int) -> torch.Tensor:
    """T5's bucket of each signed distance: exact when near, logarithmic when far, one for all beyond max_distance.

    Worked, with 32 buckets and max_distance 80: 16 buckets a sign, of which 8 are exact; 0 is bucket 0, -3 is 3, +3 is
    16 + 3, -40 is 8 + floor(8 ln(40 / 8) / ln(80 / 8)) = 13, and -80 or less is 15.
    """
    half = buckets // 2
    exact = half // 2
    size = distances.abs()
    far = torch.log(size.clamp_min(1).float() / exact) / math.log(max_distance / exact) * (half - exact)
    far = (exact + far).long().clamp_max(half - 1)
    return torch.where(distances > 0, half, 0) + torch.where(size < exact, size, far)
