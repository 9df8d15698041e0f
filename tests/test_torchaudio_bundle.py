"""torchaudio's architectures, from a local state dict, against torchaudio's own extract_features of one utterance."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from safetensors.torch import save_file

from tests.tiny_models import randomize
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.wav2vec2 import Wav2Vec2

LAYERS = 3
LENGTHS = (16000, 9000, 40000, 405)


def params(mode: str, norm_first: bool, **more: Any) -> dict[str, Any]:
    """Arguments of torchaudio.models.wav2vec2_model for a tiny model."""
    return {
        "extractor_mode": mode,
        "extractor_conv_layer_config": [(24, 10, 5)] + [(24, 3, 2)] * 4 + [(24, 2, 2)] * 2,
        "extractor_conv_bias": mode == "layer_norm",
        "encoder_embed_dim": 32,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 128,
        "encoder_pos_conv_groups": 4,
        "encoder_num_layers": LAYERS,
        "encoder_num_heads": 4,
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 48,
        "encoder_ff_interm_dropout": 0.1,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": norm_first,
        "encoder_layer_drop": 0.1,
        "aux_num_out": None,
        **more,
    }


BUNDLES = {
    "HUBERT_BASE": ("Wav2Vec2", params("group_norm", False), False),
    "HUBERT_LARGE": ("Wav2Vec2", params("layer_norm", True), True),
    "WAV2VEC2_XLSR_300M": ("Wav2Vec2", params("layer_norm", True), True),
    "WAVLM_BASE": ("WavLM", params("group_norm", False, encoder_num_buckets=32, encoder_max_distance=80), False),
    "WAVLM_LARGE": ("WavLM", params("layer_norm", True, encoder_num_buckets=32, encoder_max_distance=80), True),
}


@pytest.fixture(params=BUNDLES)
def bundle(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, torch.nn.Module, bool]:
    """A bundle of torchaudio's made tiny: its name, a model of it, whether it normalises waveforms."""
    kind, arguments, normalize = BUNDLES[request.param]
    small = torchaudio.pipelines.Wav2Vec2Bundle("none.pth", arguments, 16000, normalize, kind)
    monkeypatch.setattr(torchaudio.pipelines, request.param, small)
    factory = torchaudio.models.wavlm_model if kind == "WavLM" else torchaudio.models.wav2vec2_model
    model = factory(**arguments).eval()
    randomize(model, seed=3)
    return request.param, model, normalize


def load(name: str, **options: Any) -> Wav2Vec2:
    """Load as a user does."""
    upstream = load_upstream(name, device="cpu", **options)
    assert isinstance(upstream, Wav2Vec2)
    return upstream


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_each_layer_equals_torchaudio(bundle: tuple[str, torch.nn.Module, bool], suffix: str, tmp_path: Path) -> None:
    """extract_features()[L - 1] is layer L; alone and in a padded batch, which torchaudio itself gets wrong."""
    name, model, normalize = bundle
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(model.state_dict(), path)
    upstream = load(f"torchaudio:{name}={path}")
    generator = torch.Generator().manual_seed(1)
    samples = [0.1 * torch.randn(count, generator=generator) + 0.05 for count in LENGTHS]
    batch = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True, padding_value=torch.nan)
    for upstream.one_by_one in (True, False):
        features, counts = upstream.extract(batch, torch.tensor(LENGTHS), range(1, LAYERS + 1))
        for row, utterance in enumerate(samples):
            prepared = torch.nn.functional.layer_norm(utterance, utterance.shape) if normalize else utterance
            with torch.no_grad():
                expected, _ = model.extract_features(prepared[None])  # type: ignore[operator]
            for layer in range(1, LAYERS + 1):
                found, truth = features[layer][row, : counts[row]], expected[layer - 1][0]
                assert ((found - truth).norm(dim=1) / truth.norm(dim=1)).max() < 1e-5


def test_the_waveform_normalisation_can_be_chosen(bundle: tuple[str, torch.nn.Module, bool], tmp_path: Path) -> None:
    """kNN-VC takes WavLM large without it."""
    name, model, normalize = bundle
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    own = load(f"torchaudio:{name}={tmp_path / 'weights.pth'}").identity
    without = load(f"torchaudio:{name}={tmp_path / 'weights.pth'}", normalization="none").identity
    assert own["normalization"] == ("utterance" if normalize else "none")
    assert without["normalization"] == "none"
    assert (own == without) is not normalize


def test_wrong_names_and_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such bundle, no such file, nothing downloaded, weights of another model, and a pickle that would run code."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match=r"no bundle 'HUBERT_TINY'; it has .*HUBERT_BASE"):
        load("torchaudio:HUBERT_TINY")
    with pytest.raises(ConfigError, match="no such checkpoint file"):
        load(f"torchaudio:HUBERT_BASE={tmp_path / 'none.pth'}")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        load("torchaudio:HUBERT_BASE")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CorruptFile, match="has no tensor"):
        load(f"torchaudio:HUBERT_BASE={tmp_path / 'other.pth'}")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(CorruptFile, match="cannot be read as weights"):
        load(f"torchaudio:HUBERT_BASE={tmp_path / 'module.pth'}")
