"""Transformer blocks of the wav2vec2 family, post-norm (base) and pre-norm (large), with WavLM's relative positions."""

import torch
from torch.nn import functional as F

from voxtok.tokenize.architecture import Architecture
from voxtok.tokenize.relative_position import Gate, RelativePosition
from voxtok.tokenize.weights import WeightReader


class Block:
    """Self-attention and feed-forward, each added to what it reads."""

    def __init__(self, reader: WeightReader, architecture: Architecture, index: int) -> None:
        name = f"encoder.layers.{index}"
        width, inner = architecture.width, architecture.inner
        self.heads = architecture.heads
        self.pre_norm = architecture.pre_norm
        self.epsilon = architecture.norm_epsilon
        projections = [reader.linear(f"{name}.attention.{part}_proj", width, width) for part in "qkv"]
        self.qkv = tuple(torch.cat(parts) for parts in zip(*projections, strict=True))  # one product in place of three
        self.out = reader.linear(f"{name}.attention.out_proj", width, width)
        self.attention_norm = reader.norm(f"{name}.layer_norm", width)
        self.up = reader.linear(f"{name}.feed_forward.intermediate_dense", width, inner)
        self.down = reader.linear(f"{name}.feed_forward.output_dense", inner, width)
        self.final_norm = reader.norm(f"{name}.final_layer_norm", width)
        self.gate = Gate(reader, f"{name}.attention", architecture) if architecture.buckets else None

    def __call__(
        self, hidden: torch.Tensor, padding: torch.Tensor | None, positions: RelativePosition | None
    ) -> torch.Tensor:
        """Compute the block's raw output.

        Args:
            hidden: (B, F, D).
            padding: (B, 1, 1, F) true where a key is beyond its utterance; None if none is.
            positions: WavLM's.

        Returns:
            (B, F, D).
        """
        if self.pre_norm:
            hidden = hidden + self._attend(self._norm(hidden, self.attention_norm), padding, positions)
            return hidden + self._feed_forward(self._norm(hidden, self.final_norm))
        hidden = self._norm(hidden + self._attend(hidden, padding, positions), self.attention_norm)
        return self._norm(hidden + self._feed_forward(hidden), self.final_norm)

    def _norm(self, hidden: torch.Tensor, norm: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.layer_norm(hidden, hidden.shape[-1:], *norm, self.epsilon)

    def _feed_forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(F.gelu(F.linear(hidden, *self.up)), *self.down)

    def _attend(
        self, hidden: torch.Tensor, padding: torch.Tensor | None, positions: RelativePosition | None
    ) -> torch.Tensor:
        batch, length, width = hidden.shape
        qkv = F.linear(hidden, *self.qkv).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (B, H, F, D / H)
        if positions is not None and self.gate is not None:
            context = positions.attend(query, key, value, self.gate(hidden), padding)
        else:
            mask = None if padding is None else ~padding
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return F.linear(context.transpose(1, 2).reshape(batch, length, width), *self.out)
