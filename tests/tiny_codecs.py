"""Tiny neural codecs with random weights of the real architectures, saved as a user's checkpoint would be."""

from pathlib import Path
from typing import Any

import torch
import transformers

CODECS = ("encodec", "dac", "mimi")
HOPS = {"encodec": 320, "dac": 320, "mimi": 1920}
SAMPLING_RATES = {"encodec": 24000, "dac": 16000, "mimi": 24000}
STREAMS = {"encodec": 6, "dac": 5, "mimi": 4}


def babble(num_samples: int, seed: int = 0) -> torch.Tensor:
    """(num_samples,) noise and tones of all loudnesses and pitches, so that frames differ."""
    generator = torch.Generator().manual_seed(seed)
    segments = num_samples // 1500 + 1
    loudness, pitch, noisiness = (
        torch.rand(segments, generator=generator).repeat_interleave(1500)[:num_samples] for _ in range(3)
    )
    tone = torch.sin((0.005 + 0.3 * pitch.square()).cumsum(0))
    noise = torch.randn(num_samples, generator=generator)
    return loudness * (noisiness * noise + (1 - noisiness) * tone)


def codec_config(family: str) -> Any:
    """Few channels; the real strides, frame rates and kinds of layers."""
    match family:
        case "encodec":
            # Bandwidths are streams x 5 bits x 75 Hz: 2 and 6 streams.
            return transformers.EncodecConfig(
                hidden_size=16, num_filters=4, codebook_size=32, target_bandwidths=[0.75, 2.25]
            )
        case "dac":
            return transformers.DacConfig(
                encoder_hidden_size=4, decoder_hidden_size=64, downsampling_ratios=[2, 4, 5, 8],
                codebook_size=32, codebook_dim=4, n_codebooks=5, sampling_rate=16000,
            )  # fmt: skip
        case "mimi":
            return transformers.MimiConfig(
                hidden_size=32, num_filters=4, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
                intermediate_size=48, codebook_size=32, codebook_dim=16, vector_quantization_hidden_dimension=16,
                num_quantizers=4, upsample_groups=32, sliding_window=20,
            )  # fmt: skip
    raise ValueError(family)


def tiny_codec(family: str, seed: int = 0) -> Any:
    """A transformers model whose codewords lie where its latents are, so that every stage has a choice."""
    classes: dict[str, Any] = {
        "encodec": transformers.EncodecModel,
        "dac": transformers.DacModel,
        "mimi": transformers.MimiModel,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = classes[family](codec_config(family)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() < 2 or "original0" in name:
                    parameter.add_(0.2 * torch.randn(parameter.shape))
                elif family == "dac":
                    # Its own initial weights are so small that all latents are alike.
                    parameter.copy_(torch.randn(parameter.shape) * (1.5 / parameter[0].numel() ** 0.5))
            _choose_codewords(model, babble(96000, seed)[None, None])
    return model


def _choose_codewords(model: Any, waveform: torch.Tensor) -> None:
    """Codewords of each residual stage are some of the vectors that reach it."""
    match model.config.model_type:
        case "encodec":
            groups = [(model.quantizer.layers, model.encoder(waveform))]
        case "mimi":
            quantizer, latents = model.quantizer, model.encoder(waveform).latents
            parts = (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer)
            groups = [(part.layers, part.input_proj(latents)) for part in parts]
        case _:
            return
    for stages, residual in groups:
        vectors = residual[0].T.clone()  # (frames, d)
        for stage in stages:
            words = vectors[torch.randperm(len(vectors))[:32]]
            if model.config.model_type == "mimi":
                stage.codebook.cluster_usage.copy_(0.5 + torch.rand(32))
                stage.codebook.embed_sum.copy_(words * stage.codebook.cluster_usage[:, None])
                stage.codebook._embed = None
            else:
                stage.codebook.embed.copy_(words)
            vectors = vectors - words[torch.cdist(vectors, words).argmin(dim=1)]


def save_codec(family: str, folder: Path, seed: int = 0) -> Path:
    """Save a tiny codec and its preprocessor as `save_pretrained` does; returns the folder."""
    tiny_codec(family, seed).save_pretrained(folder)
    if family == "dac":
        transformers.DacFeatureExtractor(sampling_rate=16000, hop_length=320).save_pretrained(folder)
    else:
        transformers.EncodecFeatureExtractor(sampling_rate=24000).save_pretrained(folder)
    return folder


def own_codes(model: Any, samples: torch.Tensor, streams: int) -> torch.Tensor:
    """(frames, streams) codes of one utterance by the model's own `encode`, after its own preprocessor's padding."""
    family = model.config.model_type
    with torch.no_grad():
        if family == "encodec":
            bandwidth = {2: 0.75, 6: 2.25}[streams]
            codes = model.encode(samples[None, None], bandwidth=bandwidth).audio_codes[0, 0]
        elif family == "dac":
            extractor = transformers.DacFeatureExtractor(sampling_rate=16000, hop_length=320)
            values = extractor(samples.numpy(), sampling_rate=16000, return_tensors="pt")["input_values"]
            codes = model.encode(values, n_quantizers=streams).audio_codes[0]
        else:
            codes = model.encode(samples[None, None], num_quantizers=streams).audio_codes[0]
    return codes.T  # type: ignore[no-any-return]


def own_decode(model: Any, codes: torch.Tensor) -> torch.Tensor:
    """(num_samples,) of (frames, streams) codes by the model's own `decode`."""
    with torch.no_grad():
        if model.config.model_type == "encodec":
            found = model.decode(codes.T[None, None], [None])
        else:
            found = model.decode(audio_codes=codes.T[None])
    return found.audio_values.flatten()  # type: ignore[no-any-return]
