"""Vocoders with random weights, small enough to run in milliseconds."""

from pathlib import Path

import torch

from voxtok.vocoder.model import VocoderModel
from voxtok.vocoder.model_config import Facts, HifiganConfig, IstftConfig, ModelConfig, SpeakerInput
from voxtok.vocoder.vocoder import Vocoder

HOP = 320
ISTFT = IstftConfig(width=16, expansion=2, coarse_blocks=1, fine_blocks=1, bands=12)
PHASES = IstftConfig(width=16, expansion=2, coarse_blocks=1, fine_blocks=1, source="none")
HIFIGAN = HifiganConfig(channels=32, block_kernels=(3,), block_dilations=(1, 2, 3))


def tiny_config(kind: str, speaker: SpeakerInput = "none", **changes: object) -> ModelConfig:
    """A small shape: "harmonic", "phases" or "hifigan"."""
    shape = {"width": 16, "speaker": speaker, "istft": PHASES if kind == "phases" else ISTFT, "hifigan": HIFIGAN}
    return ModelConfig(generator="hifigan" if kind == "hifigan" else "istft", **{**shape, **changes})  # type: ignore[arg-type]


def tiny_vocoder(config: ModelConfig, facts: Facts, seed: int = 0) -> Vocoder:
    """A vocoder whose weights are random everywhere, so that every input matters."""
    torch.manual_seed(seed)
    model = VocoderModel(config, facts).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("pitch.out.weight"):
                parameter.normal_(0, 0.3)
    return Vocoder(model)


def token_facts(vocab_sizes: tuple[int, ...] = (10,), tokenizer: str = "t" * 64, **more: object) -> Facts:
    """Facts of a vocoder of tokens."""
    known = {"sampling_rate": 16000, "hop_samples": HOP, "vocab_sizes": vocab_sizes, "tokenizer": tokenizer}
    return Facts(inputs="tokens", **{**known, **more})  # type: ignore[arg-type]


def feature_facts(width: int = 8, features: str | None = None, **more: object) -> Facts:
    """Facts of a vocoder of features."""
    known = {"sampling_rate": 16000, "hop_samples": HOP, "feature_width": width, "features": features}
    return Facts(inputs="features", **{**known, **more})  # type: ignore[arg-type]


def save_tiny_feature_vocoder(folder: Path, width: int = 8, features: str | None = None) -> Path:
    """The folder of a small vocoder of features, without a speaker input."""
    tiny_vocoder(tiny_config("harmonic"), feature_facts(width, features)).save(folder)
    return folder
