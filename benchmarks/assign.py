"""Labelling frames with a codebook: exact nearest centroids per second of CPU time, against faiss and scikit-learn.

One thread; methods take turns on the same blocks, and the least time of each counts. The codebook is fitted first.

    python -m benchmarks.assign --vocab-size 2000
    python -m benchmarks.assign --vocab-size 500 --frames features.npy
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from sklearn.cluster import KMeans

from benchmarks.synthetic_frames import Frames, write_frames
from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.frames import ArrayFrames
from voxtok.tokenize.kmeans import KMeansConfig, fit_kmeans

ROUNDS = 5


def main(argv: list[str]) -> int:
    """Parse the options and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=Path, help="(N, D) float32 .npy instead of synthetic frames")
    parser.add_argument("--gaussian", action="store_true", help="frames without any structure")
    parser.add_argument("--num-frames", type=int, default=200_000, help="to fit to; a tenth of it is labelled")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocab-size", type=int, default=2000)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    frames = load(options)
    config = KMeansConfig(vocab_size=options.vocab_size, exchanges=0, passes=2)
    centroids = fit_kmeans(ArrayFrames(frames, 0), config, Ranks(), torch.device("cpu")).centroids
    compare(frames[-(len(frames) // 10) :], centroids.numpy())
    return 0


def load(options: argparse.Namespace) -> Frames:
    """The frames, in memory."""
    if options.frames is not None:
        return np.ascontiguousarray(np.load(options.frames), np.float32)
    if options.gaussian:
        return np.random.default_rng(0).standard_normal((options.num_frames, options.width), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "frames.npy")
        write_frames(path, options.num_frames, options.width, seed=1)
        frames: Frames = np.load(path)
        return frames


def compare(frames: Frames, centroids: Frames) -> None:
    """Print microseconds a frame, and how often labels differ from voxtok's."""
    methods = prepared(frames, centroids)
    least = dict.fromkeys(methods, float("inf"))
    labels: dict[str, np.ndarray] = {}
    for _ in range(ROUNDS):
        for method, label in methods.items():
            start = time.process_time()
            labels[method] = label()
            least[method] = min(least[method], time.process_time() - start)
    print(f"K = {len(centroids)}, {frames.shape[1]} dimensions, {len(frames)} frames, one thread")
    print("| method | CPU us a frame | voxtok is faster by | labels that differ |")
    print("|---|---|---|---|")
    for method, cpu_s in least.items():
        differ = float((labels[method] != labels["voxtok"]).mean())
        print(f"| {method} | {cpu_s / len(frames) * 1e6:.2f} | {cpu_s / least['voxtok']:.2f} | {differ:.2%} |")


def prepared(frames: Frames, centroids: Frames) -> dict[str, Callable[[], np.ndarray]]:
    """Every method as a function without arguments."""
    assigner = Assigner(torch.from_numpy(centroids))
    index = faiss.IndexFlatL2(frames.shape[1])
    index.add(centroids)
    sklearn = KMeans(len(centroids), n_init=1, max_iter=1, init=centroids).fit(centroids)
    sklearn.cluster_centers_ = centroids
    wide, bias = torch.from_numpy(centroids), -torch.from_numpy(centroids).square().sum(1) / 2
    return {
        "voxtok": lambda: assigner.labels(torch.from_numpy(frames)).numpy(),
        "faiss": lambda: index.search(frames, 1)[1][:, 0],
        "sklearn": lambda: sklearn.predict(frames),
        "torch": lambda: torch.addmm(bias, torch.from_numpy(frames), wide.T).argmax(1).numpy(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
