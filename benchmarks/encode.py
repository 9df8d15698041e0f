"""Extraction against what dump scripts do: a transformers loop, one utterance at a time, all blocks, layer 6 kept.

HuBERT base at its full size with random weights, on a CPU; every method is a process of its own on the same utterances,
in turns, and its least CPU time counts. Speech comes from VOXTOK_DATA, else it is noise with the rhythm of speech.

    python benchmarks/encode.py                  # CPU time, memory, error, bfloat16 token agreement
    python benchmarks/encode.py --flips 1000000  # tokens of padded batches against those of utterances alone
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.wav2vec2 import Wav2Vec2

LAYER = 6
CODES = 500
SAMPLING_RATE = 16000
METHODS = ("transformers", "voxtok-float32", "voxtok-bfloat16")
Extract = Callable[[torch.Tensor], torch.Tensor]  # (T,) -> (F, D)


def main(argv: list[str]) -> int:
    """Parse the options and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0, help="audio that is timed")
    parser.add_argument("--agreement-seconds", type=float, default=900.0, help="audio on which tokens are compared")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method")
    parser.add_argument("--flips", type=int, default=0, metavar="FRAMES", help="measure batch against alone instead")
    parser.add_argument("--worker", nargs=3, metavar=("METHOD", "MODEL", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if options.worker:
        return work(*options.worker, seconds=options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        if options.flips:
            measure_flips(Path(folder), options.flips)
        else:
            compare(Path(folder), options.seconds, options.rounds)
            measure_agreement(Path(folder), options.agreement_seconds)
    return 0


def compare(folder: Path, seconds: float, rounds: int) -> None:
    """Print CPU time, peak memory and error of every method."""
    save_model(folder, tiny=False)
    rows: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for method in METHODS:
            out = folder / f"{method}.npz"
            words = ["--worker", method, str(folder), str(out), "--seconds", str(seconds)]
            line = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True).stdout
            row = json.loads(line.splitlines()[-1])
            if method not in rows or row["cpu_s"] < rows[method]["cpu_s"]:
                rows[method] = row
    peer = rows[METHODS[0]]
    truth = list(np.load(folder / f"{METHODS[0]}.npz").values())
    print(f"{peer['utterances']} utterances, {peer['audio_s']:.1f} s, HuBERT base (random weights), layer {LAYER}")
    print(f"{'method':16} {'CPU s':>7} {'ratio':>6} {'peak GB':>8} {'max relative error':>19}")
    for method, row in rows.items():
        features = np.load(folder / f"{method}.npz").values()
        error = max(
            float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(features, truth, strict=True)
        )  # of an utterance
        ratio = peer["cpu_s"] / row["cpu_s"]
        print(f"{method:16} {row['cpu_s']:7.2f} {ratio:6.2f} {row['peak_gb']:8.2f} {error:19.1e}")


def work(method: str, model: str, out: str, *, seconds: float) -> int:
    """Be one method: extract all utterances, save the features, print the cost."""
    extract = transformers_loop(model) if method == METHODS[0] else voxtok_loop(model, method.removeprefix("voxtok-"))
    utterances = list(speech(seconds))
    extract(utterances[0])
    start = time.process_time()
    features = [extract(samples) for samples in utterances]
    cpu_s = time.process_time() - start
    np.savez(out, *[frames.numpy() for frames in features])
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    audio_s = sum(map(len, utterances)) / SAMPLING_RATE
    print(json.dumps({"cpu_s": cpu_s, "peak_gb": peak_gb, "audio_s": audio_s, "utterances": len(utterances)}))
    return 0


def transformers_loop(model: str) -> Extract:
    """The peer: the whole model on one normalised utterance, all hidden states, one kept."""
    from transformers import AutoModel

    network = AutoModel.from_pretrained(model, dtype=torch.float32).eval()

    def extract(samples: torch.Tensor) -> torch.Tensor:
        normalized = (samples - samples.mean()) / torch.sqrt(samples.var(correction=0) + 1e-7)
        frames: torch.Tensor = network(normalized[None], output_hidden_states=True).hidden_states[LAYER][0]
        return frames

    return extract


def voxtok_loop(model: str, dtype: Any) -> Extract:
    """This project, through the path that a user takes."""
    upstream = load_upstream(model, device="cpu", dtype=dtype, max_layer=LAYER)

    def extract(samples: torch.Tensor) -> torch.Tensor:
        return upstream.extract(samples[None], torch.tensor([len(samples)]), [LAYER])[0][LAYER][0]

    return extract


def measure_agreement(folder: Path, seconds: float) -> None:
    """Print how many bfloat16 tokens equal the float32 ones, for a codebook fitted on the float32 features."""
    extractors = [voxtok_loop(str(folder), dtype) for dtype in ("float32", "bfloat16")]
    exact, rounded = (torch.cat([extract(samples) for samples in speech(seconds)]) for extract in extractors)
    centroids = fit(exact)
    equal = (nearest(exact, centroids) == nearest(rounded, centroids)).double().mean().item()
    print(f"bfloat16 tokens equal to float32 ones: {100 * equal:.2f} % of {len(exact)} frames, K = {CODES}")


def measure_flips(folder: Path, frames: int) -> None:
    """Print how many tokens change when utterances are computed in padded batches of 16, and the largest error."""
    save_model(folder, tiny=True)
    print(f"HuBERT base at width 64 (random weights), layer {LAYER}, padded batches of 16 against utterances alone")
    for dtype in ("float32", "bfloat16"):
        upstream = load_upstream(str(folder), device="cpu", dtype=dtype, max_layer=LAYER)
        assert isinstance(upstream, Wav2Vec2)
        centroids: torch.Tensor | None = None
        done = flips = 0
        error = 0.0
        batch: list[torch.Tensor] = []
        for samples in speech(frames / 50 * 1.1):
            batch.append(samples)
            if len(batch) < 16:
                continue
            alone, together = both_ways(upstream, batch)
            if centroids is None:
                centroids = fit(alone)
            flips += int((nearest(alone, centroids) != nearest(together, centroids)).sum())
            error = max(error, ((alone - together).norm(dim=1) / alone.norm(dim=1)).max().item())
            done += len(alone)
            batch = []
            if done >= frames:
                break
        print(
            f"{dtype}: {flips} of {done} tokens differ ({flips / done:.1e}), K = {CODES}; worst frame {error:.1e}",
            flush=True,
        )


def both_ways(upstream: Wav2Vec2, batch: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, D) frames of the utterances one by one, and in one padded batch."""
    padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=1.0)
    lengths = torch.tensor([len(samples) for samples in batch])
    results = []
    for upstream.one_by_one in (True, False):
        features, counts = upstream.extract(padded, lengths, [LAYER])
        results.append(torch.cat([row[:count] for row, count in zip(features[LAYER], counts, strict=True)]))
    return results[0], results[1]


def save_model(folder: Path, *, tiny: bool) -> None:
    """Save HuBERT base with random weights, of full or of tiny width, as a user's checkpoint."""
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    small: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "conv_dim": (64,) * 7,
    }
    HubertModel(HubertConfig(**small) if tiny else HubertConfig()).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "sampling_rate": SAMPLING_RATE}))


def speech(seconds: float) -> Iterator[torch.Tensor]:
    """Utterances, each (T,) float32, that last `seconds` together; repeated at other gains when there are too few."""
    left = int(seconds * SAMPLING_RATE)
    generator = np.random.default_rng(0)
    files = sorted(Path(os.environ.get("VOXTOK_DATA", "/nonexistent")).glob("*/audio/*"))
    files = [file for file in files if "librispeech" in str(file)] + [
        file for file in files if "librispeech" not in str(file)
    ]
    turn = 0
    while left > 0:
        if files:
            import soundfile

            samples = soundfile.read(files[turn % len(files)], dtype="float32")[0]
            samples = samples * np.float32(1 - 0.1 * (turn // len(files)))
        else:
            count = int(generator.uniform(2, 16) * SAMPLING_RATE)
            syllables = np.interp(
                np.arange(count) / 3000, np.arange(count // 3000 + 2), generator.random(count // 3000 + 2)
            )
            samples = (0.1 * generator.standard_normal(count) * syllables).astype(np.float32)
        turn += 1
        left -= len(samples)
        yield torch.from_numpy(samples)


def fit(frames: torch.Tensor) -> torch.Tensor:
    """A codebook by ten steps of Lloyd from random frames: (K, D)."""
    centroids = frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))[:CODES]].clone()
    for _ in range(10):
        codes = nearest(frames, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, codes, frames)
        counts = codes.bincount(minlength=CODES)
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centroids)
    return centroids


def nearest(frames: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """(N,) the nearest centroid of each frame."""
    norms = centroids.square().sum(1)
    return torch.cat([(norms - 2 * chunk @ centroids.T).argmin(1) for chunk in frames.split(8192)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
