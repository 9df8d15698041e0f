"""Learned quantizers against k-means of the same size, on the MFCC of a corpus: error, use of tokens, CPU time.

    python benchmarks/learned.py CUTS --steps 1000 --vocab-size 500 --levels 10,10,5

Errors are mean squared distances over the variance of the frames; a tenth of the utterances is held out. On 52 minutes
of LibriSpeech (279818 frames):

            error heldout perplexity  CPU s
kmeans      0.336    0.382      445.5    9.4
vq          0.346    0.389      477.9   30.0
gumbel      0.379    0.415      466.3   70.4
fsq         0.525    0.564      303.1   13.5
"""

import argparse
import time
from typing import Any

import torch

from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.extract import ExtractConfig, extract
from voxtok.tokenize.frames import ArrayFrames
from voxtok.tokenize.kmeans import KMeansConfig, fit_kmeans
from voxtok.tokenize.learned_fit import fit_autoencoder
from voxtok.tokenize.learned_networks import LearnedConfig
from voxtok.tokenize.load import load_upstream

CPU = torch.device("cpu")


def features(cuts: str) -> list[torch.Tensor]:
    """(frames, 39) MFCC of every readable utterance."""
    upstream = load_upstream("mfcc", device=CPU)
    results = extract(load_cuts(cuts), upstream, [0], lambda layers: layers[0], ExtractConfig(windows=None))
    return [frames for _, frames in results if isinstance(frames, torch.Tensor)]


def row(name: str, report: dict[str, Any], variance: float, began_s: float) -> str:
    """One line of the table."""
    errors = [f"{report[key] / variance:8.3f}" for key in ("inertia", "heldout_inertia")]
    return f"{name:8} {errors[0]} {errors[1]} {report['perplexity']:10.1f} {time.process_time() - began_s:6.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cuts")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--levels", required=True, help="of fsq, such as 10,10,5")
    options = parser.parse_args()
    torch.set_num_threads(1)
    utterances = features(options.cuts)
    split = len(utterances) * 9 // 10
    frames, heldout = (ArrayFrames(torch.cat(part), 0) for part in (utterances[:split], utterances[split:]))
    every = torch.cat(utterances[:split])
    variance = float((every - every.mean(0)).square().sum(1).mean())
    print(f"{len(every)} frames, {options.vocab_size} tokens, {options.steps} steps")
    print("            error heldout perplexity  CPU s")
    began_s = time.process_time()
    kmeans = KMeansConfig(vocab_size=options.vocab_size)
    print(row("kmeans", fit_kmeans(frames, kmeans, Ranks(), CPU, heldout=heldout).report, variance, began_s))
    for kind in ("vq", "gumbel", "fsq"):
        levels = tuple(map(int, options.levels.split(","))) if kind == "fsq" else ()
        config = LearnedConfig(kind=kind, vocab_size=options.vocab_size, levels=levels, steps=options.steps)
        began_s = time.process_time()
        _, report = fit_autoencoder(frames, config, Ranks(), CPU, heldout=heldout)
        print(row(kind, report, variance, began_s), flush=True)


if __name__ == "__main__":
    main()
