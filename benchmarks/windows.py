"""Tokens of one long recording computed in overlapping windows against those of the whole file.

The recording is one speaker's utterances end to end (VOXTOK_DATA's kathleen), or noise where that is unset. Networks
are HuBERT base and WavLM base at full size with random weights: as initialised, where attention is nearly uniform and
everything in reach counts alike, and with queries and keys twice as large, where every frame prefers some others, near
or far alike; trained weights may reach less or more far. The codebook is fitted on the whole file's features. The row
"cut" is what scripts do that cut long files: pieces of 30 s, each on its own.

In the default run, windows of 30 s changed 0.06-0.16 % of the tokens, windows of 60 s 0.06-0.14 %, whatever the
overlap, and cuts 0.75-1.03 %; of mfcc's, windows none and cuts 0.06 %. With an overlap of 4 s no frame was much worse
than the average one.

    python benchmarks/windows.py                                        # about 20 minutes of one CPU core
    python benchmarks/windows.py --minutes 10 --model FOLDER --layer 9  # a checkpoint of your own
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.upstream import Upstream
from voxtok.tokenize.windows import WindowConfig, extract_samples

SAMPLING_RATE = 16000
WINDOWS = [(window_s, overlap_s) for window_s in (30.0, 60.0) for overlap_s in (1.0, 2.0, 4.0)]
CUT_S = 30
Samples = npt.NDArray[np.float32]


def main(argv: list[str]) -> int:
    """Parse the options and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="length of the recording")
    parser.add_argument("--model", help="a checkpoint instead of random weights")
    parser.add_argument("--layer", type=int, default=6)
    parser.add_argument("--vocab", type=int, default=100, help="tokens of the codebook")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    samples = recording(options.minutes)
    print(
        f"{len(samples) / SAMPLING_RATE / 60:.1f} minutes, K = {options.vocab}; tokens that differ from the whole file"
    )
    print(f"{'upstream':24} {'window s':>8} {'overlap s':>9} {'differ %':>9} {'mean error':>10} {'worst error':>11}")
    compare("mfcc", load_upstream("mfcc", device="cpu"), 0, samples, options.vocab)
    for name, folder in models(options.model):
        upstream = load_upstream(str(folder), device="cpu", max_layer=options.layer)
        compare(name, upstream, options.layer, samples, options.vocab)
    return 0


def models(given: str | None) -> Iterator[tuple[str, Path]]:
    """The user's checkpoint, or random ones that live as long as they are used."""
    if given:
        yield Path(given).name, Path(given)
        return
    for kind, gain in (("hubert", 1.0), ("hubert", 2.0), ("wavlm", 1.0)):
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder), kind, gain)
            yield f"{kind} base, random x {gain:g}", Path(folder)


def save_model(folder: Path, kind: str, gain: float) -> None:
    """Random weights at full size; queries and keys are `gain` times larger than at initialisation."""
    from transformers import HubertConfig, HubertModel, WavLMConfig, WavLMModel

    torch.manual_seed(0)
    model = HubertModel(HubertConfig()) if kind == "hubert" else WavLMModel(WavLMConfig())
    for name, parameter in model.named_parameters():
        if "q_proj.weight" in name or "k_proj.weight" in name:
            parameter.mul_(gain)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "sampling_rate": SAMPLING_RATE}))


def compare(name: str, upstream: Upstream, layer: int, samples: Samples, vocab: int) -> None:
    """Print one row a window and overlap."""
    whole = extract_samples(upstream, samples, [layer], None)[layer]
    centroids = fit(whole, vocab)
    tokens = nearest(whole, centroids)
    cut = CUT_S * SAMPLING_RATE
    pieces = [
        extract_samples(upstream, samples[at : at + cut], [layer], None)[layer] for at in range(0, len(samples), cut)
    ]
    print_row(name, f"cut {CUT_S}", "-", *aligned(pieces, whole, cut // upstream.hop_samples), tokens, centroids)
    for window_s, overlap_s in WINDOWS:
        windows = WindowConfig(window_s=window_s, overlap_s=overlap_s)
        frames = extract_samples(upstream, samples, [layer], windows)[layer]
        print_row(name, f"{window_s:g}", f"{overlap_s:g}", frames, whole, tokens, centroids)


def aligned(pieces: list[torch.Tensor], whole: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pieces end to end; a frame that falls between two pieces is missing and its place is left out on both sides."""
    places = torch.cat([torch.arange(len(piece)) + index * step for index, piece in enumerate(pieces)])
    full = torch.full_like(whole, torch.nan)
    full[places] = torch.cat(pieces)
    return full, whole


def print_row(
    name: str,
    window: str,
    overlap: str,
    frames: torch.Tensor,
    whole: torch.Tensor,
    tokens: torch.Tensor,
    centroids: torch.Tensor,
) -> None:
    """Share of tokens that differ, and the frames' relative error; a missing frame is a token that differs."""
    there = ~frames.isnan().any(1)
    equal = (nearest(frames[there], centroids) == tokens[there]).sum().item()
    errors = (frames[there] - whole[there]).norm(dim=1) / whole[there].norm(dim=1)
    differ = 100 * (1 - equal / len(whole))
    print(f"{name:24} {window:>8} {overlap:>9} {differ:9.3f} {errors.mean().item():10.1e} {errors.max().item():11.1e}")
    sys.stdout.flush()


def recording(minutes: float) -> Samples:
    """One speaker's utterances end to end, or noise with the rhythm of speech."""
    length = int(minutes * 60 * SAMPLING_RATE)
    files = sorted(Path(os.environ.get("VOXTOK_DATA", "/nonexistent")).glob("kathleen/audio/*"))
    if not files:
        generator = np.random.default_rng(0)
        level = np.interp(np.arange(length) / 3000, np.arange(length // 3000 + 2), generator.random(length // 3000 + 2))
        return (0.1 * level * generator.standard_normal(length)).astype(np.float32)
    import soundfile

    parts: list[Samples] = []
    for file in files:
        if sum(map(len, parts)) < length:
            parts.append(soundfile.read(file, dtype="float32")[0])
    return np.concatenate(parts)[:length]


def fit(frames: torch.Tensor, vocab: int) -> torch.Tensor:
    """A codebook by twenty steps of Lloyd from random frames: (K, D)."""
    centroids = frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))[:vocab]].clone()
    for _ in range(20):
        codes = nearest(frames, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, codes, frames)
        counts = codes.bincount(minlength=vocab)
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centroids)
    return centroids


def nearest(frames: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """(N,) the nearest centroid of each frame."""
    norms = centroids.square().sum(1)
    return torch.cat([(norms - 2 * chunk @ centroids.T).argmin(1) for chunk in frames.split(8192)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
