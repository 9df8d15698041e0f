"""kNN-VC's checkpoint: the published layout of names and shapes, and the published arithmetic, written out here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.tiny_models import save_tiny
from voxtok.runtime.commands import main
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.vocoder.import_knnvc import PUBLISHED, ImportKnnvcConfig, import_knnvc, read_shape
from voxtok.vocoder.vocoder import Vocoder

Weights = dict[str, torch.Tensor]
JSON = {
    "resblock": "1",
    "upsample_rates": [10, 8, 2, 2],
    "upsample_kernel_sizes": [20, 16, 4, 4],
    "upsample_initial_channel": 512,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "hubert_dim": 1024,
    "hifi_dim": 512,
}
SMALL = JSON | {"upsample_initial_channel": 32, "hubert_dim": 12, "hifi_dim": 8}


def normed(name: str, shape: tuple[int, ...], biases: int, generator: torch.Generator) -> Weights:
    """One layer under torch's weight normalisation, whose lengths lie along the first dimension."""
    size = (shape[1] * shape[2]) ** -0.5
    return {
        f"{name}.bias": 0.1 * torch.randn(biases, generator=generator),
        f"{name}.weight_g": 0.7 + 0.2 * torch.rand(shape[0], 1, 1, generator=generator),
        f"{name}.weight_v": size * torch.randn(shape, generator=generator),
    }


def published_layout(config: dict[str, object], seed: int = 0) -> Weights:
    """Random weights with the names and shapes that the published training script saves."""
    generator = torch.Generator().manual_seed(seed)
    width, features, first = config["hifi_dim"], config["hubert_dim"], config["upsample_initial_channel"]
    assert isinstance(width, int) and isinstance(features, int) and isinstance(first, int)
    weights = {
        "lin_pre.weight": torch.randn(width, features, generator=generator) * features**-0.5,
        "lin_pre.bias": 0.1 * torch.randn(width, generator=generator),
        **normed("conv_pre", (first, width, 7), first, generator),
    }
    for i, kernel in enumerate((20, 16, 4, 4)):
        above, below = first // 2**i, first // 2 ** (i + 1)
        weights |= normed(f"ups.{i}", (above, below, kernel), below, generator)
        for j, size in enumerate((3, 7, 11)):
            for part in ("convs1", "convs2"):
                for step in range(3):
                    name = f"resblocks.{3 * i + j}.{part}.{step}"
                    weights |= normed(name, (below, below, size), below, generator)
    return weights | normed("conv_post", (1, first // 16, 7), 1, generator)


def by_hand(weights: Weights, frames: torch.Tensor) -> torch.Tensor:
    """The published generator on (N, D) frames, layer after layer."""

    def layer(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        direction = weights[f"{name}.weight_v"]
        norm = direction.square().sum(dim=(1, 2), keepdim=True).sqrt()
        return weights[f"{name}.weight_g"] * direction / norm, weights[f"{name}.bias"]

    x = (frames @ weights["lin_pre.weight"].T + weights["lin_pre.bias"]).T[None]
    x = F.conv1d(x, *layer("conv_pre"), padding=3)
    for i, (rate, kernel) in enumerate(((10, 20), (8, 16), (2, 4), (2, 4))):
        x = F.conv_transpose1d(F.leaky_relu(x, 0.1), *layer(f"ups.{i}"), stride=rate, padding=(kernel - rate) // 2)
        total = torch.zeros_like(x)
        for j, size in enumerate((3, 7, 11)):
            y = x
            for step, dilation in enumerate((1, 3, 5)):
                name = f"resblocks.{3 * i + j}"
                pad = (size - 1) // 2
                z = F.conv1d(
                    F.leaky_relu(y, 0.1), *layer(f"{name}.convs1.{step}"), dilation=dilation, padding=pad * dilation
                )
                y = y + F.conv1d(F.leaky_relu(z, 0.1), *layer(f"{name}.convs2.{step}"), padding=pad)
            total = total + y
        x = total / 3
    return torch.tanh(F.conv1d(F.leaky_relu(x, 0.01), *layer("conv_post"), padding=3))[0, 0]


def saved(folder: Path, config: dict[str, object]) -> tuple[Path, Weights]:
    weights = published_layout(config)
    torch.save({"generator": weights}, folder / "g.pt")
    (folder / "shape.json").write_text(json.dumps(config))
    return folder / "g.pt", weights


def test_the_published_layout_loads_and_computes_what_was_published(tmp_path: Path) -> None:
    """512 channels, factors 10, 8, 2, 2, features of 1024: the very shape of prematch_g_02500000.pt."""
    path, weights = saved(tmp_path, JSON)
    import_knnvc(ImportKnnvcConfig(checkpoint=str(path), out=str(tmp_path / "vocoder")))
    vocoder = Vocoder.load(tmp_path / "vocoder", device="cpu")
    assert (vocoder.width, vocoder.hop_samples, vocoder.sampling_rate, vocoder.fingerprint) == (1024, 320, 16000, "")
    frames = torch.randn(4, 1024, generator=torch.Generator().manual_seed(1))
    expected = by_hand(weights, frames).numpy()
    assert np.abs(expected).max() > 0.01
    assert np.abs(vocoder.from_features(frames) - expected).max() < 1e-5


def test_a_shape_of_ones_own_in_chunks_and_whole(tmp_path: Path) -> None:
    path, weights = saved(tmp_path, SMALL)
    shape = str(tmp_path / "shape.json")
    vocoder = import_knnvc(ImportKnnvcConfig(checkpoint=str(path), shape=shape, out=str(tmp_path / "vocoder")))
    frames = torch.randn(60, 12, generator=torch.Generator().manual_seed(1))
    whole = vocoder.from_features(frames)
    assert np.abs(whole - by_hand(weights, frames).numpy()).max() < 1e-5
    stream = vocoder.stream(chunk_frames=7)
    together = np.concatenate([*(stream.push(part) for part in frames.split(11)), stream.finish()])
    assert np.abs(together - whole).max() < 1e-5


def test_the_shape_in_the_published_config_is_ours(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(JSON))
    assert read_shape(tmp_path / "c.json") == PUBLISHED
    (tmp_path / "c.json").write_text(json.dumps(JSON | {"resblock": "2"}))
    with pytest.raises(ConfigError, match="type 1"):
        read_shape(tmp_path / "c.json")
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(CorruptFile, match="not a config of HiFi-GAN"):
        read_shape(tmp_path / "c.json")


def test_the_features_it_takes_can_be_pinned(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, SMALL | {"hubert_dim": 32})
    model = str(save_tiny("wavlm-large", tmp_path / "wavlm", do_normalize=False))
    known: dict[str, Any] = {"checkpoint": str(path), "shape": str(tmp_path / "shape.json"), "out": str(tmp_path / "v")}
    pinned = import_knnvc(ImportKnnvcConfig(**known, upstream=model, layer=2, normalization="none"))
    assert len(pinned.fingerprint) == 64
    with pytest.raises(ConfigError, match="192 dimensions every 320 samples, the checkpoint is for 32"):
        import_knnvc(ImportKnnvcConfig(**known, upstream="mini", layer=2, normalization="none"))
    with pytest.raises(ConfigError, match="given together"):
        ImportKnnvcConfig(**known, upstream=model)


def test_other_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, weights = saved(tmp_path, SMALL)
    words = ["import-knnvc", "--checkpoint", str(path), "--out", str(tmp_path / "v")]
    assert main(words) == 2
    assert "not a generator of this shape" in capsys.readouterr().err
    shaped = [*words, "--shape", str(tmp_path / "shape.json")]
    assert main(shaped) == 0
    assert "12-dimensional" in capsys.readouterr().out
    for content, message in (
        ({"model": weights}, "no state dict under 'generator'"),
        ({"generator": {"a": torch.zeros(1)}}, "no lin_pre.weight"),
        ({"generator": {k: v for k, v in weights.items() if k != "ups.1.weight_g"}}, "ups.1.weight_v and not"),
        ({"generator": {k: v for k, v in weights.items() if k != "ups.1.bias"}}, "not a generator of this shape"),
    ):
        torch.save(content, path)
        assert main(shaped) == 2
        assert message in capsys.readouterr().err
    path.write_bytes(b"text")
    assert main(shaped) == 2
