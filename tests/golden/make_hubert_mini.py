"""Rewrite hubert_mini.safetensors: a saved input, and what the shipped model makes of it. Run where the model changes.

python -m tests.golden.make_hubert_mini
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.toy_corpus import toy_speech
from voxtok.tokenize.load import load_upstream

GOLDEN = Path(__file__).parent / "hubert_mini.safetensors"
VOCAB_SIZE = 50
SAMPLES = 9600


def main() -> None:
    """Frames of every layer, and the tokens of the last one by a codebook of frames of other sounds."""
    upstream = load_upstream("mini", device="cpu")
    samples = torch.from_numpy(toy_speech(SAMPLES / 16000, seed=5)[0])
    layers = list(range(upstream.num_layers + 1))
    features, _ = upstream.extract(samples[None], torch.tensor([SAMPLES]), layers)
    other = torch.from_numpy(toy_speech(4.0, seed=6)[0])
    frames = upstream.extract(other[None], torch.tensor([len(other)]), layers[-1:])[0][layers[-1]][0]
    codebook = frames[torch.linspace(0, len(frames) - 1, VOCAB_SIZE).long()]
    tensors = {f"layer_{layer}": features[layer][0].contiguous() for layer in layers}
    tokens = torch.cdist(tensors[f"layer_{layers[-1]}"], codebook).argmin(dim=1)
    save_file({**tensors, "samples": samples, "codebook": codebook.contiguous(), "tokens": tokens}, GOLDEN)


if __name__ == "__main__":
    main()
