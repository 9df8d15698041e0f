"""From a name to an upstream: filter banks, Hugging Face checkpoints, torchaudio bundles."""

from typing import TYPE_CHECKING

import torch

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.upstream import Dtype, Normalization, Upstream

if TYPE_CHECKING:
    from voxtok.tokenize.checkpoint import Checkpoint


def load_upstream(
    name: str,
    *,
    device: torch.device | str,
    dtype: Dtype = "float32",
    normalization: Normalization = "checkpoint",
    max_layer: int | None = None,
) -> Upstream:
    """Open what turns waveforms into frames.

    Args:
        name: "mfcc"; "logmel"; a folder that `save_pretrained` wrote; a hub id such as "facebook/hubert-base-ls960",
            with "@revision" if wanted; or "torchaudio:HUBERT_BASE", with "=path" for a checkpoint file of one's own.
        device: where it computes.
        dtype: of weights and activations.
        normalization: of the waveform; "checkpoint" does what its preprocessor does. kNN-VC's features need "none".
        max_layer: blocks above it are not kept in memory; None keeps all.

    Raises:
        ConfigError: the name leads nowhere, or the model is of a kind that is not known; the message says what is.
    """
    device = torch.device(device)
    if name in ("mfcc", "logmel"):
        from voxtok.tokenize.filterbank import load_filterbank

        return load_filterbank(name, device)
    if name.startswith("torchaudio:"):
        from voxtok.tokenize.torchaudio_bundle import load_bundle

        return load_bundle(
            name.removeprefix("torchaudio:"),
            device=device,
            dtype=dtype,
            normalization=normalization,
            max_layer=max_layer,
        )
    from voxtok.tokenize.checkpoint import open_checkpoint

    return load_checkpoint(
        open_checkpoint(name), device=device, dtype=dtype, normalization=normalization, max_layer=max_layer
    )


def load_checkpoint(
    checkpoint: "Checkpoint",
    *,
    device: torch.device,
    dtype: Dtype,
    normalization: Normalization,
    max_layer: int | None,
) -> Upstream:
    """Choose the family by config.json's `model_type`; every family's `load` has this very signature."""
    match checkpoint.model_type:
        case "hubert" | "wavlm" | "wav2vec2" | "data2vec-audio" | "unispeech" | "unispeech-sat":
            from voxtok.tokenize.wav2vec2 import load
        case "wav2vec2-bert":
            from voxtok.tokenize.wav2vec2_bert import load
        case "whisper":
            from voxtok.tokenize.whisper import load
        case other:
            raise ConfigError(
                f"{checkpoint.name}: models of type {other!r} are not known; known are hubert, wavlm, wav2vec2,"
                " data2vec-audio, unispeech, unispeech-sat, wav2vec2-bert and whisper"
            )
    return load(checkpoint, device=device, dtype=dtype, normalization=normalization, max_layer=max_layer)
