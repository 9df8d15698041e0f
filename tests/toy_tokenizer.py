"""A tokenizer over MFCC whose centroids are frames of the toy corpus: real enough for everything but quality."""

from pathlib import Path

import torch

from tests.toy_corpus import toy_speech
from voxtok.manifests.codebook import kmeans_codebook
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.tokenizer_folder import TokenizerConfig
from voxtok.tokenize.windows import WindowConfig


def toy_tokenizer(vocab_size: int = 20, upstream: str = "mfcc", layer: int = 0, dedup: bool = False) -> Tokenizer:
    """An untrained tokenizer of any upstream; windows of 2 s, so that toy recordings can be long."""
    model = load_upstream(upstream, device="cpu", max_layer=layer)
    samples = torch.from_numpy(toy_speech(4.0, seed=99)[0])[None]
    features, _ = model.extract(samples, torch.tensor([samples.shape[1]]), [layer])
    frames = features[layer][0]
    chosen = torch.linspace(0, len(frames) - 1, vocab_size).long()
    config = TokenizerConfig(
        upstream=upstream,
        layers=(layer,),
        normalization="checkpoint",
        dtype="float32",
        windows=WindowConfig(window_s=2.0, overlap_s=0.5),
        dedup=dedup,
    )
    return Tokenizer(config, model, kmeans_codebook(frames[chosen].contiguous().numpy()))


def saved_toy_tokenizer(folder: Path) -> Path:
    """The toy tokenizer's folder."""
    toy_tokenizer().save(folder)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
