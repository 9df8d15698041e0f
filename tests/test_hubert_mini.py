"""The shipped model: small, an ordinary checkpoint, and the same on every machine."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel

from voxtok.manifests.codebook import kmeans_codebook
from voxtok.tokenize.load import load_upstream, mini_folder
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.tokenizer_folder import TokenizerConfig

GOLDEN = Path(__file__).parent / "golden" / "hubert_mini.safetensors"


def test_features_and_tokens_are_the_saved_ones() -> None:
    """Made by tests/golden/make_hubert_mini.py."""
    saved = load_file(GOLDEN)
    upstream = load_upstream("mini", device="cpu")
    samples = saved["samples"]
    layers = list(range(upstream.num_layers + 1))
    features, _ = upstream.extract(samples[None], torch.tensor([len(samples)]), layers)
    for layer in layers:
        torch.testing.assert_close(features[layer][0], saved[f"layer_{layer}"], rtol=1e-3, atol=1e-3)
    config = TokenizerConfig(
        upstream="mini", layers=(layers[-1],), normalization="checkpoint", dtype="float32", windows=None, dedup=False
    )
    tokens = Tokenizer(config, upstream, kmeans_codebook(saved["codebook"].numpy())).encode(samples.numpy(), 16000)
    flips = (torch.from_numpy(tokens.codes[:, 0].astype(int)) != saved["tokens"]).double().mean()
    assert flips <= 1e-3


def test_transformers_loads_it_and_computes_the_same() -> None:
    model = AutoModel.from_pretrained(mini_folder(), dtype=torch.float32).eval()
    samples = load_file(GOLDEN)["samples"]
    normal = (samples - samples.mean()) / torch.sqrt(samples.var(correction=0) + 1e-7)
    with torch.inference_mode():
        hidden = model(normal[None], output_hidden_states=True).hidden_states
    upstream = load_upstream("mini", device="cpu")
    features, _ = upstream.extract(samples[None], torch.tensor([len(samples)]), [1, upstream.num_layers])
    for layer, found in features.items():
        torch.testing.assert_close(found[0], hidden[layer][0], rtol=1e-4, atol=1e-3)


def test_it_fits_in_ten_megabytes_and_says_where_it_comes_from() -> None:
    folder = mini_folder()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000_000
    assert json.loads((folder / "preprocessor_config.json").read_text())["do_normalize"] is True
    card = (folder / "README.md").read_text()
    for word in ("LibriSpeech", "CC BY 4.0", "VCTK", "speechocean762", "espeak-ng"):
        assert word in card
