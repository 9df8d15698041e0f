"""The mean of several models."""

from pathlib import Path

import pytest
import torch

from tests.tiny_models import save_tiny
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.average import AverageConfig, average, main
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.weights import read_weights


def test_the_mean_is_a_model(tmp_path: Path) -> None:
    folders = [save_tiny("hubert-base", tmp_path / str(seed), seed=seed) for seed in range(3)]
    out = tmp_path / "mean"
    assert main(["--models", f"[{','.join(map(str, folders))}]", "--out", str(out)]) == 0
    every = [read_weights(folder / "model.safetensors") for folder in folders]
    mean = read_weights(out / "model.safetensors")
    assert set(mean) == set(every[0])
    for name, tensor in mean.items():
        assert tensor.dtype == every[0][name].dtype
        torch.testing.assert_close(tensor, torch.stack([weights[name] for weights in every]).mean(dim=0))
    features, _ = load_upstream(str(out), device="cpu").extract(torch.randn(1, 4000), torch.tensor([4000]), [1])
    assert features[1].isfinite().all()


def test_models_without_a_mean_are_named(tmp_path: Path) -> None:
    base, other = save_tiny("hubert-base", tmp_path / "base"), save_tiny("hubert-large", tmp_path / "large")
    with pytest.raises(ConfigError, match="large is of another shape"):
        average(AverageConfig(models=(str(base), str(other)), out=str(tmp_path / "out")))
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        average(AverageConfig(models=(str(base), str(tmp_path)), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="another folder"):
        AverageConfig(models=(str(base), str(other)), out=str(base))
    with pytest.raises(ConfigError, match="two folders"):
        AverageConfig(models=(str(base), str(base)), out="out")
