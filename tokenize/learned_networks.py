"""What learned quantizers are while they train: an autoencoder of two small networks around a discrete bottleneck.

vq and fsq come from the package vector-quantize-pytorch. Its Gumbel option samples from distances to codewords that
follow by EMA; vq-wav2vec's Gumbel-softmax has logits and codewords that are learned by gradients, which torch's
`gumbel_softmax` makes a few lines of.
"""

from dataclasses import dataclass
from math import exp, log, prod
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from voxtok.manifests.codebook import Codebook
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.optional import require

Kind = Literal["vq", "gumbel", "fsq"]
DEAD_SHARE = 0.1
"""A codeword of vq with less than this share of an equal share of the frames is put on a random frame."""
FIRST_TEMPERATURE, LAST_TEMPERATURE = 2.0, 0.5
"""Of Gumbel-softmax, which cools down exponentially (vq-wav2vec)."""


@dataclass(frozen=True, kw_only=True)
class LearnedConfig:
    """Options of a learned quantizer."""

    kind: str
    """vq, gumbel or fsq."""
    vocab_size: int
    """K, the number of tokens of each stream; for fsq the product of its levels."""
    levels: tuple[int, ...] = ()
    """Levels of each dimension of fsq."""
    groups: int = 1
    """Streams of gumbel, each with its own codewords."""
    code_width: int = 64
    """d, dimensions of a codeword of vq and gumbel, or the frames' if those are fewer; fsq has one a level."""
    hidden: int = 256
    """Units between the two layers of encoder and decoder; 0 makes each one affine map."""
    steps: int = 3000
    """Updates."""
    batch_frames: int = 2048
    """Frames of an update, or 4 x K for vq if that is more."""
    pool_frames: int = 131072
    """Frames that are held in memory and shuffled together."""
    learning_rate: float = 1e-3
    """Peak learning rate of Adam."""
    decay: float = 0.99
    """Of the moving averages that vq's codewords are."""
    commitment: float = 0.25
    """Weight of vq's commitment loss."""
    diversity: float = 0.1
    """Weight of gumbel's diversity loss (wav2vec 2.0), which keeps all tokens in use."""
    seed: int = 0
    """Of weights, the order of frames, and noise."""

    def __post_init__(self) -> None:
        if self.kind not in ("vq", "gumbel", "fsq"):
            raise ConfigError(f"a learned quantizer is vq, gumbel or fsq, not {self.kind!r}")
        if self.vocab_size < 1 or self.code_width < 1 or self.groups < 1 or self.hidden < 0:
            raise ConfigError("vocab-size, code-width and groups must be at least 1, hidden at least 0")
        if self.groups > 1 and self.kind != "gumbel":
            raise ConfigError("only gumbel has groups")
        if self.code_width % self.groups:
            raise ConfigError(f"code-width {self.code_width} must be a multiple of groups {self.groups}")
        if min(self.steps, self.batch_frames, self.pool_frames) < 1 or self.learning_rate <= 0:
            raise ConfigError("steps, batch-frames, pool-frames and learning-rate must be positive")
        if not 0 < self.decay < 1:
            raise ConfigError("decay must be between 0 and 1")
        if (self.kind == "fsq") != bool(self.levels):
            raise ConfigError("fsq needs levels, such as 8,5,5,5; vq and gumbel have none")
        if self.levels and (min(self.levels) < 3 or prod(self.levels) != self.vocab_size):
            raise ConfigError(
                f"levels are at least 3 each and their product is the vocabulary size: {self.levels} make "
                f"{prod(self.levels)} tokens, not {self.vocab_size}"
            )

    @property
    def update_frames(self) -> int:
        """Frames of an update: enough of them for every codeword of vq to win some."""
        return max(self.batch_frames, 4 * self.vocab_size) if self.kind == "vq" else self.batch_frames

    def temperature(self, step: int) -> float:
        """Of Gumbel-softmax at a step."""
        cooled = log(LAST_TEMPERATURE / FIRST_TEMPERATURE) * step / self.steps
        return FIRST_TEMPERATURE * exp(cooled)


class Autoencoder(torch.nn.Module):
    """Frames of zero mean and unit mean variance -> latents -> codewords -> frames."""

    def __init__(self, config: LearnedConfig, width: int) -> None:
        super().__init__()
        code_width = min(config.code_width, width // config.groups * config.groups) or config.groups
        latents = {"vq": code_width, "gumbel": config.groups * config.vocab_size, "fsq": len(config.levels)}[
            config.kind
        ]
        self.encoder = _network(width, config.hidden, latents)
        self.bottleneck = _bottleneck(config, code_width)
        self.decoder = _network(latents if config.kind != "gumbel" else code_width, config.hidden, width)

    def forward(self, frames: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, D) frames to their (N, D) reconstruction and the bottleneck's own loss."""
        codewords, loss = self.bottleneck(self.encoder(frames), temperature)
        return self.decoder(codewords), loss


def _network(inputs: int, hidden: int, outputs: int) -> torch.nn.Sequential:
    if not hidden:
        return torch.nn.Sequential(torch.nn.Linear(inputs, outputs))
    return torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, outputs))


def _bottleneck(config: LearnedConfig, code_width: int) -> torch.nn.Module:
    match cast(Kind, config.kind):
        case "vq":
            return EmaCodewords(config, code_width)
        case "gumbel":
            return GumbelCodewords(config, code_width)
        case "fsq":
            return FiniteLevels(config.levels)


class EmaCodewords(torch.nn.Module):
    """vq: the package's VectorQuantize; codewords start from k-means of the first batch."""

    def __init__(self, config: LearnedConfig, code_width: int) -> None:
        super().__init__()
        self.quantize = require("vector_quantize_pytorch", "vq").VectorQuantize(
            dim=code_width,
            codebook_size=config.vocab_size,
            decay=config.decay,
            kmeans_init=True,
            threshold_ema_dead_code=DEAD_SHARE * config.update_frames / config.vocab_size,
            commitment_weight=config.commitment,
            rotation_trick=False,
            sync_codebook=False,
        )

    def forward(self, latents: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, d) to the nearest codewords, with straight-through gradients, and the commitment loss."""
        codewords, _, loss = self.quantize(latents[None])
        return codewords[0], loss.sum()


class GumbelCodewords(torch.nn.Module):
    """gumbel: G groups of K logits choose G codewords; one sample forward, the softmax backward."""

    def __init__(self, config: LearnedConfig, code_width: int) -> None:
        super().__init__()
        self.diversity = config.diversity
        self.codewords = torch.nn.Parameter(
            torch.randn(config.groups, config.vocab_size, code_width // config.groups)
        )  # (G, K, d / G)

    def forward(self, latents: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, G x K) logits to (N, d) codewords and the diversity loss, 0 where all tokens are equally likely."""
        logits = latents.view(len(latents), *self.codewords.shape[:2])
        chosen = F.gumbel_softmax(logits, tau=temperature, hard=True)
        mean = logits.softmax(dim=2).mean(dim=0)  # (G, K)
        perplexity = (-mean * (mean + 1e-9).log()).sum(dim=1).exp()
        loss = self.diversity * (1 - perplexity / mean.shape[1]).mean()
        return torch.einsum("ngk,gkd->ngd", chosen, self.codewords).flatten(1), loss


class FiniteLevels(torch.nn.Module):
    """fsq: the package's FSQ."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        # Without indices it builds no table of all the codewords.
        self.quantize = require("vector_quantize_pytorch", "vq").FSQ(list(levels), return_indices=False)

    def forward(self, latents: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, d) to their rounded levels, with straight-through gradients; there is no loss."""
        codewords, _ = self.quantize(latents[None])
        return codewords[0], latents.new_zeros(())


def as_codebook(model: Autoencoder, config: LearnedConfig, mean: torch.Tensor, scale: float) -> Codebook:
    """The trained arrays, with the frames' (D,) mean and their scale folded into the outermost layers."""
    encoder, decoder = _layers(model.encoder), _layers(model.decoder)
    weight, bias = encoder[0]
    encoder[0] = (weight / scale, bias - weight @ mean / scale)
    weight, bias = decoder[-1]
    decoder[-1] = (weight * scale, bias * scale + mean)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, layers in (("encoder", encoder), ("decoder", decoder)):
        for i, (weight, bias) in enumerate(layers):
            arrays[f"{name}.{i}.weight"], arrays[f"{name}.{i}.bias"] = _array(weight), _array(bias)
    bottleneck = model.bottleneck
    if isinstance(bottleneck, EmaCodewords):
        arrays["codewords"] = _array(bottleneck.quantize.codebook)
    elif isinstance(bottleneck, GumbelCodewords):
        arrays["codewords"] = _array(bottleneck.codewords)
    return Codebook(config.kind, {"levels": list(config.levels)} if config.levels else {}, arrays)


def _layers(network: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    return [(layer.weight.detach().cpu().double(), layer.bias.detach().cpu().double()) for layer in found]


def _array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    return tensor.detach().cpu().float().contiguous().numpy()
