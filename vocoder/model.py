"""The network of a vocoder: inputs, generator, and the durations of tokens that come without them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from voxtok.runtime.errors import ConfigError
from voxtok.vocoder.hifigan import HifiganGenerator
from voxtok.vocoder.inputs import FrameInputs, Frames
from voxtok.vocoder.istft import IstftGenerator
from voxtok.vocoder.model_config import Facts, ModelConfig, check_hop
from voxtok.vocoder.source import Place

MAX_DURATION_FRAMES = 100


@dataclass(frozen=True, eq=False)
class Synthesis:
    """What the network makes of a batch.

    Attributes:
        waveforms: (B, N * hop_samples) float32, zero on padding.
        pitch: (B, N, 2) predicted log F0 and voicing logits; None where the generator has no source.
    """

    waveforms: torch.Tensor
    pitch: torch.Tensor | None


class VocoderModel(nn.Module):
    """Frames -> waveforms.

    Attributes:
        config: its shape.
        facts: what it was trained on.
        context_frames: frames on either side that a frame's samples depend on.
    """

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        check_hop(config, facts)
        self.config, self.facts = config, facts
        self.inputs = FrameInputs(config, facts)
        self.generator: IstftGenerator | HifiganGenerator
        if config.generator == "istft":
            self.generator = IstftGenerator(config.istft, config.width, facts.hop_samples, facts.sampling_rate)
        else:
            self.generator = HifiganGenerator(config.hifigan, config.width, plain=config.generator == "plain-hifigan")
        self.durations = Durations(config.width) if config.durations else None
        self.context_frames: int = self.generator.context_frames

    def forward(self, frames: Frames, place: Place | None = None) -> Synthesis:
        """Waveforms of a batch, or of a chunk of a recording that lies at `place`."""
        hidden = self.inputs(frames)
        waveforms, pitch = self.generator(hidden, frames.mask(), frames.f0_hz, place or Place())
        return Synthesis(waveforms, pitch)

    def log_durations(self, frames: Frames) -> torch.Tensor:
        """(B, N) logs of the frames that each token lasts, from the tokens alone; `frames` has one row a token.

        Raises:
            ConfigError: the vocoder was trained without a duration predictor.
        """
        if self.durations is None:
            raise ConfigError(
                "this vocoder does not predict how long tokens last: give durations, or train one with model.durations"
            )
        logs: torch.Tensor = self.durations(self.inputs.content(frames), frames.mask())
        return logs

    def predicted_durations(self, frames: Frames) -> torch.Tensor:
        """(B, N) int64 frames that each token lasts, at least 1, 0 on padding; arguments as in `log_durations`."""
        logs = self.log_durations(frames)
        lengths: torch.Tensor = logs.exp().round().clamp(1, MAX_DURATION_FRAMES).long() * frames.mask()
        return lengths


class Durations(nn.Module):
    """Log duration of each token from its neighbours' embeddings (FastSpeech's predictor, Ren et al. 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv1d(width, width, 3, padding=1) for _ in range(2)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.out = nn.Linear(width, 1)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, N, width) with mask (B, N) to (B, N) logs of frames."""
        keep = mask[..., None].to(hidden.dtype)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = norm(F.relu(convolution((hidden * keep).transpose(1, 2)).transpose(1, 2)))
        logs: torch.Tensor = self.out(hidden).squeeze(-1)
        return logs.float()
