"""From a name to an upstream: filter banks, Hugging Face checkpoints, torchaudio bundles."""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import torch

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.upstream import Dtype, Normalization, Upstream, forbid_tf32

if TYPE_CHECKING:
    from voxtok.tokenize.checkpoint import Checkpoint


def load_upstream(
    name: str,
    *,
    device: torch.device | str,
    dtype: Dtype = "float32",
    normalization: Normalization = "checkpoint",
    max_layer: int | None = None,
    compiled: bool = False,
) -> Upstream:
    """Open what turns waveforms into frames.

    Args:
        name: "mfcc", "logmel", or either with "-cmn"; "mini", the model that is installed with voxtok; a folder that
            `save_pretrained` wrote; a hub id such as "facebook/hubert-base-ls960", with "@revision" if wanted; or
            "torchaudio:HUBERT_BASE", with "=path" for a checkpoint file of one's own. "pooled:" before any of these
            takes means of segments; "predicted:STREAM:RUN" is what a run of `voxtok pretrain` predicts.
        device: where it computes.
        dtype: of weights and activations.
        normalization: of the waveform; "checkpoint" does what its preprocessor does. kNN-VC's features need "none".
        max_layer: blocks above it are not kept in memory; None keeps all.
        compiled: let torch.compile fuse the transformer blocks (the wav2vec2 family only). The first passes then take
            a minute, and rounding changes a little, as it does between devices.

    Raises:
        ConfigError: the name leads nowhere, or the model is of a kind that is not known; the message says what is.
    """
    if dtype not in get_args(Dtype) or normalization not in get_args(Normalization):
        raise ConfigError(
            f"dtype {dtype!r} must be one of {get_args(Dtype)}, normalization {normalization!r} of"
            f" {get_args(Normalization)}"
        )
    if torch.device(device).type == "cuda":
        forbid_tf32()
    upstream = _load(name, torch.device(device), dtype, normalization, max_layer)
    if compiled:
        from voxtok.tokenize.wav2vec2 import Wav2Vec2

        if not isinstance(upstream, Wav2Vec2):
            raise ConfigError(f"{name}: only models of the wav2vec2 family can be compiled")
        upstream.compile()
    return upstream


def _load(
    name: str, device: torch.device, dtype: Dtype, normalization: Normalization, max_layer: int | None
) -> Upstream:
    if name in ("mfcc", "logmel", "mfcc-cmn", "logmel-cmn"):
        from voxtok.tokenize.filterbank import load_filterbank

        return load_filterbank(name, device)
    if name.startswith("pooled:"):
        from voxtok.tokenize.pooled import Pooled

        return Pooled(_load(name.removeprefix("pooled:"), device, dtype, normalization, max_layer))
    if name.startswith("predicted:"):
        from voxtok.tokenize.predicted import Predicted

        stream, _, run = name.removeprefix("predicted:").partition(":")
        if not stream.isdigit() or not run:
            raise ConfigError(f"{name}: write predicted:STREAM:RUN, such as predicted:1:exp/iter6")
        return Predicted(_load(f"{run}/model", device, dtype, normalization, None), Path(run), int(stream))
    if name.startswith("torchaudio:"):
        from voxtok.tokenize.torchaudio_bundle import load_bundle

        bundle = name.removeprefix("torchaudio:")
        return load_bundle(bundle, device=device, dtype=dtype, normalization=normalization, max_layer=max_layer)
    from voxtok.tokenize.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(str(mini_folder()) if name == "mini" else name)
    return load_checkpoint(checkpoint, device=device, dtype=dtype, normalization=normalization, max_layer=max_layer)


def mini_folder() -> Path:
    """The folder of hubert-mini, the small model that is installed with voxtok."""
    return Path(__file__).parents[1] / "models" / "hubert-mini"  # in a checkout as in an installed package


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
            from voxtok.tokenize import wav2vec2

            return wav2vec2.load(
                checkpoint, device=device, dtype=dtype, normalization=normalization, max_layer=max_layer
            )
        case "wav2vec2-bert":
            from voxtok.tokenize import wav2vec2_bert

            return wav2vec2_bert.load(
                checkpoint, device=device, dtype=dtype, normalization=normalization, max_layer=max_layer
            )
        case "whisper":
            from voxtok.tokenize import whisper

            return whisper.load(
                checkpoint, device=device, dtype=dtype, normalization=normalization, max_layer=max_layer
            )
        case "encodec" | "dac" | "mimi":
            from voxtok.tokenize import codec

            return codec.load(checkpoint, device=device, dtype=dtype, normalization=normalization, max_layer=max_layer)
        case other:
            raise ConfigError(
                f"{checkpoint.name}: models of type {other!r} are not known; known are hubert, wavlm, wav2vec2,"
                " data2vec-audio, unispeech, unispeech-sat, wav2vec2-bert, whisper, encodec, dac and mimi"
            )
