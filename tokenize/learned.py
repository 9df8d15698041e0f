"""Learned quantizers: an encoder, a bottleneck that is discrete, and a decoder, trained to reconstruct frames.

    vq       the nearest of K codewords, which follow the mean of their frames by EMA (van den Oord et al. 2017)
    gumbel   the largest of K logits, trained by Gumbel-softmax (vq-wav2vec; Baevski et al. 2020)
    fsq      every dimension bounded and rounded to a few levels (Mentzer et al. 2023); no codewords at all

What is saved is a Codebook of plain arrays, and this file is all that reads it: tokens need neither the training code
nor the package it uses. Projections are float64, so that rounding, which depends on how many frames are projected at
once, decides no token.
"""

from collections.abc import Iterator
from math import prod
from typing import Protocol

import torch

from voxtok.manifests.codebook import Codebook
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.quantizer import check_frames

BLOCK_FRAMES = 4096
"""Frames projected at once: their float64 logits stay in bounded memory."""
BOUND_MARGIN = 1e-3
"""How far beyond the outermost levels fsq's bound reaches (Mentzer et al., appendix A)."""


class Bottleneck(Protocol):
    """Latents to tokens and back.

    Attributes:
        vocab_sizes: of each stream.
    """

    vocab_sizes: tuple[int, ...]

    def labels(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, d) float64 to (N, streams) int64."""
        ...

    def codewords(self, codes: torch.Tensor) -> torch.Tensor:
        """(N, streams) to (N, d) float64, what the decoder sees."""
        ...


class Learned:
    """A trained quantizer; see Quantizer in tokenize/quantizer.py."""

    def __init__(self, encoder: "Layers", bottleneck: Bottleneck, decoder: "Layers") -> None:
        self.vocab_sizes = bottleneck.vocab_sizes
        self.width = encoder.width
        self._encoder = encoder
        self._bottleneck = bottleneck
        self._decoder = decoder

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """See Quantizer.

        Raises:
            ConfigError: frames of another width, or not finite.
        """
        check_frames(frames, self.width)
        parts = [torch.empty(0, len(self.vocab_sizes), dtype=torch.int64, device=self._encoder.device)]
        for start, block in _blocks(frames.to(self._encoder.device)):
            finite = torch.isfinite(block).all(dim=1)
            if not finite.all():
                raise ConfigError(f"frame {start + int((~finite).nonzero()[0])} is not finite")
            parts.append(self._bottleneck.labels(self._encoder(block)))
        return torch.cat(parts)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """See Quantizer."""
        parts = [torch.empty(0, self.width, device=self._encoder.device)]
        for _, block in _blocks(codes.to(self._encoder.device)):
            parts.append(self._decoder(self._bottleneck.codewords(block)).float())
        return torch.cat(parts)


def _blocks(rows: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    for start in range(0, len(rows), BLOCK_FRAMES):
        yield start, rows[start : start + BLOCK_FRAMES]


class Layers:
    """Affine maps with ReLU between them, in float64: arrays NAME.0.weight (out, in), NAME.0.bias (out,), NAME.1..."""

    def __init__(self, codebook: Codebook, name: str, device: torch.device) -> None:
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        while f"{name}.{len(self._layers)}.weight" in codebook.arrays:
            weight, bias = (codebook.arrays[f"{name}.{len(self._layers)}.{part}"] for part in ("weight", "bias"))
            self._layers.append((torch.from_numpy(weight).to(device).double(), torch.from_numpy(bias).to(device)))
        if not self._layers:
            raise CorruptFile(f"the codebook of kind {codebook.kind!r} has no {name}")
        self.width = self._layers[0][0].shape[1]
        self.device = device

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(N, in) of any float type to (N, out) float64."""
        rows = rows.double()
        for i, (weight, bias) in enumerate(self._layers):
            rows = torch.nn.functional.linear(rows.relu() if i else rows, weight, bias.double())
        return rows


class NearestCodeword:
    """vq: one of (K, d) codewords."""

    def __init__(self, codewords: torch.Tensor, device: torch.device) -> None:
        self.vocab_sizes: tuple[int, ...] = (len(codewords),)
        self._codewords = codewords.to(device).double()
        self._assigner = Assigner(codewords, device)

    def labels(self, latents: torch.Tensor) -> torch.Tensor:
        """See Bottleneck."""
        return self._assigner.labels(latents.float())[:, None]

    def codewords(self, codes: torch.Tensor) -> torch.Tensor:
        """See Bottleneck."""
        return self._codewords[codes[:, 0]]


class LargestLogit:
    """gumbel: latents are G x K logits; the largest of each group chooses one of its (G, K, d) codewords."""

    def __init__(self, codewords: torch.Tensor, device: torch.device) -> None:
        groups, vocab_size, _ = codewords.shape
        self.vocab_sizes: tuple[int, ...] = (vocab_size,) * groups
        self._codewords = codewords.to(device).double()

    def labels(self, latents: torch.Tensor) -> torch.Tensor:
        """See Bottleneck."""
        return latents.view(len(latents), *self._codewords.shape[:2]).argmax(dim=2)

    def codewords(self, codes: torch.Tensor) -> torch.Tensor:
        """See Bottleneck."""
        return torch.cat([words[column] for words, column in zip(self._codewords, codes.T, strict=True)], dim=1)


class RoundedLevels:
    """fsq: each dimension is bounded by tanh and rounded; token = sum of the dimensions' levels x place values.

    Worked: levels (5, 3) have place values (1, 5); latents (0, 0) are the middle levels 2 and 1, token 2 + 5 = 7, and
    codewords are the levels minus their middle over half the width: (0, 0).
    """

    def __init__(self, levels: tuple[int, ...], device: torch.device) -> None:
        self.vocab_sizes: tuple[int, ...] = (prod(levels),)
        self._levels = torch.tensor(levels, device=device)
        self._places = torch.tensor([prod(levels[:i]) for i in range(len(levels))], device=device)

    def labels(self, latents: torch.Tensor) -> torch.Tensor:
        """See Bottleneck."""
        reach = (self._levels - 1).double() * (1 + BOUND_MARGIN) / 2
        offset = torch.where(self._levels % 2 == 0, 0.5, 0.0).double()
        bounded = torch.tanh(latents + torch.atanh(offset / reach)) * reach - offset
        levels = bounded.round().long() + self._levels // 2
        return (levels * self._places).sum(dim=1, keepdim=True)

    def codewords(self, codes: torch.Tensor) -> torch.Tensor:
        """See Bottleneck."""
        levels = codes // self._places % self._levels
        half = self._levels // 2
        return (levels - half).double() / half


def open_learned(codebook: Codebook, device: torch.device) -> Learned:
    """The quantizer that a codebook of kind vq, gumbel or fsq describes.

    Raises:
        CorruptFile: arrays or levels are missing.
    """
    try:
        bottleneck: Bottleneck
        match codebook.kind:
            case "vq":
                bottleneck = NearestCodeword(torch.from_numpy(codebook.arrays["codewords"]), device)
            case "gumbel":
                bottleneck = LargestLogit(torch.from_numpy(codebook.arrays["codewords"]), device)
            case "fsq":
                bottleneck = RoundedLevels(tuple(codebook.settings["levels"]), device)
            case kind:
                raise CorruptFile(f"a codebook of kind {kind!r} is not a learned one")
    except KeyError as error:
        raise CorruptFile(f"the codebook of kind {codebook.kind!r} has no {error.args[0]}") from error
    return Learned(Layers(codebook, "encoder", device), bottleneck, Layers(codebook, "decoder", device))
