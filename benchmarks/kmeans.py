"""Fitting a codebook: CPU time to equal held-out inertia, against scikit-learn and faiss on the same frames.

Every method is a process of its own with one thread. voxtok's held-out inertia is noted from when its centroids are
those of whole frames (the end of the work on a sample), and after every pass over everything: so the table says after
what CPU time it was as good as each of the others. What noting takes is not counted.

    python -m benchmarks.kmeans                                             # 1 M x 768, K = 500: half an hour
    python -m benchmarks.kmeans --methods faiss-default voxtok --vocab-size 2000
    python -m benchmarks.kmeans --num-frames 100000 --width 256 --vocab-size 200
    python -m benchmarks.kmeans --frames features.npy --heldout other.npy   # real features
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.synthetic_frames import Frames, write_frames
from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.frames import ArrayFrames
from voxtok.tokenize.kmeans import KMeansConfig, fit_kmeans
from voxtok.tokenize.kmeans_state import State
from voxtok.tokenize.lloyd import tally

METHODS = ("sklearn-minibatch", "sklearn-lloyd", "faiss-default", "faiss-all", "voxtok")
DEFAULTS = ["sklearn-minibatch", "faiss-default", "voxtok"]
HELDOUT_FRAMES = 50_000


def main(argv: list[str]) -> int:
    """Parse the options and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=Path, help="(N, D) float32 .npy to fit to, instead of synthetic frames")
    parser.add_argument("--heldout", type=Path, help="more of the same")
    parser.add_argument("--num-frames", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocab-size", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=DEFAULTS)
    parser.add_argument("--worker", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        print(json.dumps(work(options.worker, options)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if options.frames is None:
            options.frames, options.heldout = Path(folder, "frames.npy"), Path(folder, "heldout.npy")
            write_frames(options.frames, options.num_frames, options.width, seed=1)
            write_frames(options.heldout, HELDOUT_FRAMES, options.width, seed=2)
        results = {method: run(method, options) for method in options.methods}
    report(results, options)
    return 0


def run(method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one method in a process of its own."""
    words = ["--frames", options.frames, "--heldout", options.heldout]
    words += ["--vocab-size", options.vocab_size, "--seed", options.seed, "--worker", method]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.kmeans", *map(str, words)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{method}: {result['cpu_s']:.1f} s, {result['heldout']:.4f}", file=sys.stderr)
    return result


def report(results: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table."""
    ours = sorted(point for result in results.values() for point in result["trace"])
    print(f"K = {options.vocab_size}, {next(iter(results.values()))['frames']} frames, one thread")
    print("| method | CPU s | inertia | held-out inertia | GB beyond the frames | voxtok is as good after | ratio |")
    print("|---|---|---|---|---|---|---|")
    for method, result in results.items():
        reached = [cpu_s for cpu_s, inertia in ours if inertia <= result["heldout"]]
        after = f"{reached[0]:.1f} s | {result['cpu_s'] / reached[0]:.1f}" if reached else "never | -"
        inertias = f"{result['inertia']:.3f} | {result['heldout']:.3f}"
        print(f"| {method} | {result['cpu_s']:.1f} | {inertias} | {result['gb']:.2f} | {after} |")


def work(method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fit with one method: CPU seconds, held-out inertia, memory, and the trace of voxtok."""
    torch.set_num_threads(1)
    frames = np.ascontiguousarray(np.load(options.frames), np.float32)
    heldout = torch.from_numpy(np.ascontiguousarray(np.load(options.heldout), np.float32))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trace: list[tuple[float, float]] = []
    aside_s = 0.0

    def inertia(centroids: Frames | torch.Tensor, of: torch.Tensor = heldout) -> float:
        return tally(ArrayFrames(of, 0).chunks(), Assigner(torch.as_tensor(centroids)), Ranks()).inertia

    def note(state: State) -> None:
        nonlocal aside_s
        now = time.process_time()
        if state.phase in ("polish", "pass", "done"):
            trace.append((now - start - aside_s, inertia(state.centroids)))
            aside_s += time.process_time() - now

    fit = prepared(method, frames, options.vocab_size, options.seed, note)
    start = time.process_time()
    centroids = fit()
    cpu_s = time.process_time() - start - aside_s
    gb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    both = {"inertia": inertia(centroids, torch.from_numpy(frames)), "heldout": inertia(centroids)}
    return {"frames": len(frames), "cpu_s": cpu_s, "gb": gb, "trace": trace, **both}


def prepared(
    method: str, frames: Frames, vocab_size: int, seed: int, note: Callable[[State], None]
) -> Callable[[], Frames | torch.Tensor]:
    """The fit as a function without arguments; what it imports is not timed."""
    match method:
        case "sklearn-minibatch":  # as fairseq's and ESPnet's learn_kmeans.py set it
            from sklearn.cluster import MiniBatchKMeans

            settings = {"batch_size": 10000, "n_init": 20, "max_iter": 100, "tol": 0.0, "max_no_improvement": 100}
            batches = MiniBatchKMeans(vocab_size, **settings, reassignment_ratio=0.0, random_state=seed)
            return lambda: batches.fit(frames).cluster_centers_
        case "sklearn-lloyd":
            from sklearn.cluster import KMeans

            lloyd = KMeans(vocab_size, n_init=1, max_iter=25, random_state=seed, copy_x=False)
            return lambda: lloyd.fit(frames).cluster_centers_
        case "faiss-default" | "faiss-all":
            import faiss

            faiss.omp_set_num_threads(1)
            most = 256 if method == "faiss-default" else len(frames)
            kmeans = faiss.Kmeans(frames.shape[1], vocab_size, niter=25, seed=seed, max_points_per_centroid=most)

            def train() -> Frames:
                kmeans.train(frames)
                return np.array(kmeans.centroids)

            return train
        case _:
            source, config = ArrayFrames(frames, seed), KMeansConfig(vocab_size=vocab_size, seed=seed)
            return lambda: fit_kmeans(source, config, Ranks(), torch.device("cpu"), on_step=note).centroids


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
