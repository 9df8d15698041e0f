"""Decoding: the tokens of expanded rows, guessed at once or refined in rounds.

Rounds follow MaskGIT (Chang et al. 2022): of the tokens not yet fixed the surest are kept, so many that after round
i of n a share of 1 - cos(pi / 2 * i / n) is fixed, and the others are guessed again in view of them. Each sentence
draws from a generator of its own: the result does not depend on its batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from voxtok.runtime.errors import ConfigError
from voxtok.tts.network import Expanded, Guess, TtsNetwork


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are chosen."""

    rounds: int = 8
    """Rounds of refinement, for a model with decoder masked; 1 guesses once."""
    temperature: float = 0.0
    """Of the logits that tokens are drawn from; 0 takes the likeliest."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError("rounds must be at least 1")
        if self.temperature < 0:
            raise ConfigError("temperature must not be negative")


@dataclass(frozen=True, eq=False)
class Decoded:
    """Codes (B, R, S) int64 of a batch's rows, and log frames (B, R) where rows are merged; padding means nothing."""

    codes: torch.Tensor
    log_frames: torch.Tensor | None


@torch.inference_mode()
def decode(network: TtsNetwork, rows: Expanded, decoding: Decoding, generators: Sequence[torch.Generator]) -> Decoded:
    """Tokens of a batch of rows; `generators` are on the CPU, one a sentence."""
    rounds = decoding.rounds if network.tokens is not None else 1
    masked = network.masks(rows)
    codes, guess = masked.clone(), Guess((), None)
    for done in range(1, rounds + 1):
        guess = network.guess(rows, codes)
        drawn, sureness = _drawn(guess.logits, decoding.temperature, generators, rows.inside)
        open_ = codes == masked
        filled = drawn.where(open_, codes)
        sureness = sureness.where(open_, math.inf)
        left = math.cos(math.pi / 2 * done / rounds) if done < rounds else 0.0
        codes = torch.stack([_keep_surest(*parts, left) for parts in zip(filled, sureness, masked, rows.inside,
                                                                          strict=True)])  # fmt: skip
    return Decoded(codes, guess.log_frames)


def _keep_surest(
    codes: torch.Tensor, sureness: torch.Tensor, masked: torch.Tensor, inside: torch.Tensor, left: float
) -> torch.Tensor:
    """One sentence's (R, S) codes with a share of the least sure ones masked again; padding stays masked."""
    flat = sureness.masked_fill(~inside[:, None], -math.inf).flatten()
    total = int(inside.sum()) * sureness.shape[1]
    count = flat.numel() - total + math.floor(left * total)  # padding is always among them
    found = codes.flatten().clone()
    again = flat.sort(stable=True).indices[:count]
    found[again] = masked.flatten()[again]
    return found.view_as(codes)


def _drawn(
    logits: Sequence[torch.Tensor], temperature: float, generators: Sequence[torch.Generator], inside: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, R, S) tokens, drawn by the Gumbel trick where there is a temperature, and their log-probabilities."""
    tokens, sureness = [], []
    for stream in logits:
        log_probs = stream.log_softmax(dim=-1)
        scores = log_probs
        if temperature > 0:
            scores = log_probs / temperature + _gumbel(log_probs, generators, inside)
        chosen = scores.argmax(dim=-1)
        tokens.append(chosen)
        sureness.append(log_probs.gather(-1, chosen[..., None])[..., 0])
    return torch.stack(tokens, dim=-1), torch.stack(sureness, dim=-1)


def _gumbel(scores: torch.Tensor, generators: Sequence[torch.Generator], inside: torch.Tensor) -> torch.Tensor:
    """(B, R, V) noise; what a sentence draws depends on its own length alone."""
    noise = torch.zeros(scores.shape)
    for row, generator, length in zip(noise, generators, inside.sum(dim=1).tolist(), strict=True):
        uniform = torch.rand(length, scores.shape[-1], generator=generator).clamp(1e-9, 1 - 1e-7)
        row[:length] = -(-uniform.log()).log()
    return noise.to(scores.device)
