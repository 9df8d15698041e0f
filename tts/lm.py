"""The unit language model: a small Llama of transformers over steps of tokens, and its folder.

    lm.json              format version, shape, layout of the tokens with the fingerprint of their tokenizer
    model.safetensors    weights
    tokenizer/           a copy of the tokenizer, where the model was trained on token stores

Each column of a step has an embedding table and a head of its own; the embeddings of a step are added up.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import ConfigError, CorruptFile, one_line
from voxtok.runtime.files import read_description, write_bytes, write_json
from voxtok.tts.layout import Layout

if TYPE_CHECKING:  # Llama takes seconds to import, which commands without a language model need not wait for
    from transformers import LlamaConfig
    from transformers.cache_utils import DynamicCache

FORMAT = "voxtok-lm"
VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LmShape:
    """The shape of a Llama (Touvron et al. 2023): rotary positions, RMS norms, gated feed-forward layers."""

    blocks: int
    """Transformer blocks."""
    width: int
    """Dimensions of a step."""
    heads: int
    """Attention heads."""
    feed_forward: int
    """Hidden width of the feed-forward layers; 8/3 of the width is usual."""
    context_steps: int
    """Most steps that are read at once; longer utterances are cut for training."""
    kv_heads: int | None = None
    """Heads of keys and values, fewer for a smaller cache; null has as many as attention heads."""
    dropout: float = 0.0
    """Of embeddings, attention and the last hidden states."""

    def __post_init__(self) -> None:
        if min(self.blocks, self.width, self.heads, self.feed_forward, self.context_steps) < 1:
            raise ConfigError("model.blocks, width, heads, feed-forward and context-steps must be positive")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ConfigError("model.width must be an even number of dimensions for each of model.heads")
        if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
            raise ConfigError("model.heads must be a multiple of model.kv-heads")
        if not 0 <= self.dropout < 1:
            raise ConfigError("model.dropout is a share: from 0 to below 1")

    def llama(self) -> "LlamaConfig":
        """The same for transformers; tables and heads are the columns' own."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=1,
            hidden_size=self.width,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.blocks,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads or self.heads,
            max_position_embeddings=self.context_steps,
            attention_dropout=self.dropout,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )


class UnitLm(nn.Module):
    """Steps of tokens -> logits of the next step.

    Example:
        lm = UnitLm.load("exp/lm")
        continued = continuations(lm, [tokens], SamplingConfig(...), seed=0)

    Attributes:
        shape: of the network.
        layout: how utterances become steps.
        symbols: numbers above the boundary of column 0, for what utterances are conditioned on.
    """

    def __init__(self, shape: LmShape, layout: Layout, symbols: int = 0) -> None:
        from transformers import LlamaModel

        super().__init__()
        self.shape, self.layout, self.symbols = shape, layout, symbols
        sizes = [boundary + 1 for boundary in layout.boundaries]
        sizes[0] += symbols
        self.tables = nn.ModuleList([nn.Embedding(size, shape.width) for size in sizes])
        self.dropout = nn.Dropout(shape.dropout)
        self.body = LlamaModel(shape.llama())
        self.body.set_input_embeddings(nn.Identity())  # the tables above take its place
        self.heads = nn.ModuleList([nn.Linear(shape.width, size, bias=False) for size in sizes])
        for module in (*self.tables, *self.heads):
            nn.init.normal_(module.weight, std=self.body.config.initializer_range)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer whose tokens it reads and writes."""
        return self.layout.fingerprint

    def empty_cache(self) -> "DynamicCache":
        """Keys and values of no step yet, for `forward` to keep those of the steps that it reads."""
        from transformers.cache_utils import DynamicCache

        return DynamicCache(config=self.body.config)

    def forward(
        self,
        steps: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None = None,
        cache: "DynamicCache | None" = None,
    ) -> tuple[torch.Tensor, ...]:
        """Logits of what follows each step, (B, T, values) float32 for each column.

        Args:
            steps: (B, T, columns) int64.
            positions: (B, T) place of each step in its utterance. Where they begin anew, so does attention: several
                utterances may stand in one row without seeing each other. Not so with a mask or a cache.
            mask: (B, steps in the cache + T) 0 on padding; None where there is none on the left.
            cache: keys and values of the steps before, which grows by these.
        """
        embedded = torch.stack([table(steps[..., i]) for i, table in enumerate(self.tables)]).sum(dim=0)
        hidden = self.body(
            inputs_embeds=self.dropout(embedded),
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        hidden = self.dropout(hidden)
        return tuple(head(hidden).float() for head in self.heads)

    def save(self, folder: Path | str, dtype: Literal["float32", "float16"] = "float32") -> None:
        """Write the folder; lm.json comes last, so that one that opens is complete."""
        folder = Path(folder)
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        kept = {name: tensor.to(getattr(torch, dtype)) for name, tensor in kept.items()}
        write_bytes(folder / "model.safetensors", save_tensors(kept))
        described = {"format": FORMAT, "version": VERSION, "fingerprint": self.fingerprint}
        parts = {"shape": asdict(self.shape), "layout": asdict(self.layout), "symbols": self.symbols}
        write_json(folder / "lm.json", described | parts)

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto") -> "UnitLm":
        """Open a folder, ready to be used.

        Raises:
            CorruptFile: not a language model's folder, or damaged.
        """
        folder = Path(folder)
        if not (folder / "lm.json").exists():
            raise CorruptFile(f"{folder}: not a language model's folder (no lm.json)")
        described = read_description(folder / "lm.json", FORMAT, VERSION, ("shape", "layout", "symbols"))
        try:
            lm = cls(_filled(LmShape, described["shape"]), _filled(Layout, described["layout"]), described["symbols"])
            tensors = load_tensors((folder / "model.safetensors").read_bytes())
            lm.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        except (OSError, RuntimeError, SafetensorError, TypeError) as error:
            raise CorruptFile(f"{folder}: damaged, or of another release: {one_line(error)}") from error
        return lm.eval().to(pick_device(device))


def _filled(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass from its JSON, which has lists for tuples and must have every field."""
    wanted = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if set(values) != wanted:
        raise TypeError(f"{kind.__name__} has {sorted(wanted)}, not {sorted(values)}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
