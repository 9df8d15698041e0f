"""kNN matching: speed and memory against the original's formula, and whether the four nearest frames are the same.

The formula is kNN-VC's (Baas et al. 2023): all Euclidean distances squared, turned into cosines with both norms, and
the k smallest. Methods take turns on the same frames on one thread, and the least time of each counts. Memory is the
most that a process of its own holds beyond what it held with the frames in memory, interpreter and torch included in
neither. Frames are synthetic (benchmarks/synthetic_frames.py) or those of an SSL model on real speech.

    python -m benchmarks.matching
    python -m benchmarks.matching --upstream mini --layer 2 --reference kathleen --source librispeech_mini
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.synthetic_frames import write_frames
from voxtok.manifests.cuts import load_cuts
from voxtok.tokenize.extract import ExtractConfig
from voxtok.vocoder.features import FeatureConfig, Features
from voxtok.vocoder.matching import Matcher
from voxtok.vocoder.matching_faiss import FaissMatcher

ROUNDS = 3
CPU = torch.device("cpu")
METHODS = ("original", "voxtok, pool given", "voxtok, pool prepared")
FAISS = ("faiss flat", "faiss ivf")
Found = torch.Tensor


def main(argv: list[str]) -> int:
    """Parse the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source-s", type=float, default=30)
    parser.add_argument("--reference-s", type=float, default=600)
    parser.add_argument("--width", type=int, default=1024, help="of synthetic frames")
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--upstream", help="an SSL model, in place of synthetic frames")
    parser.add_argument("--layer", type=int)
    parser.add_argument("--source", help="cuts of the source speech")
    parser.add_argument("--reference", help="cuts of the reference")
    parser.add_argument("--faiss", action="store_true", help="faiss's indexes too, which take a minute to fill")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--frames", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.memory_of:
        print(peak_mb(options.memory_of, options.frames, options.k))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options)
        compare(Path(folder), options)
    return 0


def write(folder: Path, options: argparse.Namespace) -> None:
    """source.npy and reference.npy."""
    counts = {"source": round(options.source_s * 50), "reference": round(options.reference_s * 50)}
    if options.upstream is None:
        write_frames(folder / "all.npy", sum(counts.values()), options.width, seed=1)
        frames = np.load(folder / "all.npy")
        mixed = np.random.default_rng(0).permutation(len(frames))
        np.save(folder / "source.npy", frames[mixed[: counts["source"]]])
        np.save(folder / "reference.npy", frames[mixed[counts["source"] :]])
        return
    wanted = FeatureConfig(upstream=options.upstream, layer=options.layer, normalization="checkpoint")
    features = Features.open(wanted, device="cpu")
    for name, count in counts.items():
        parts: list[torch.Tensor] = []
        for _, frames in features.of_cuts(load_cuts(getattr(options, name)), ExtractConfig(windows=None)):
            assert isinstance(frames, torch.Tensor)
            parts.append(frames)
            if sum(map(len, parts)) >= count:
                break
        np.save(folder / f"{name}.npy", torch.cat(parts)[:count].numpy())


def original(source: torch.Tensor, pool: torch.Tensor, k: int) -> Found:
    """The formula."""
    norms = source.norm(dim=1), pool.norm(dim=1)
    products = (norms[0][:, None] ** 2 + norms[1][None] ** 2 - torch.cdist(source[None], pool[None])[0] ** 2) / 2
    distances: torch.Tensor = 1 - products / (norms[0][:, None] * norms[1][None])
    return distances.topk(k, largest=False).indices


def prepared(method: str, source: torch.Tensor, pool: torch.Tensor, k: int) -> Callable[[], Found]:
    """A method as a function without arguments."""
    if method == "original":
        return lambda: original(source, pool, k)
    if method == "voxtok, pool given":
        return lambda: Matcher(pool, device=CPU).nearest(source, k).indices
    if method == "voxtok, pool prepared":
        matcher = Matcher(pool, device=CPU)
        return lambda: matcher.nearest(source, k).indices
    index = FaissMatcher(pool, index="flat" if method == "faiss flat" else "ivf", probes=32)
    return lambda: index.nearest(source, k).indices


def peak_mb(method: str, folder: Path, k: int) -> float:
    """Most memory of this process while a method runs, beyond what it holds before."""
    frames = {name: torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("source", "reference")}
    original(frames["source"][:8], frames["reference"][:64], k)  # libraries load on first use
    before = _status("VmRSS")
    prepared(method, frames["source"], frames["reference"], k)()
    return (_status("VmHWM") - before) / 1e3


def _status(name: str) -> int:
    """KB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def memory_of(method: str, folder: Path, k: int) -> float:
    """`peak_mb` in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.matching", "--memory-of", method, "--frames", str(folder), "--k", str(k)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Print CPU time, memory and agreement of every method."""
    source, pool = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("source", "reference"))
    print(f"{len(source)} frames against {len(pool)} of {pool.shape[1]} dimensions, k = {options.k}, one thread")
    names = METHODS + FAISS if options.faiss else METHODS
    methods = {method: prepared(method, source, pool, options.k) for method in names}
    least = dict.fromkeys(names, float("inf"))
    found: dict[str, Found] = {}
    for _ in range(options.rounds):
        for method, run in methods.items():
            start = time.process_time()
            found[method] = run()
            least[method] = min(least[method], time.process_time() - start)
    exact = found["voxtok, pool given"]
    print("| method | CPU s | faster than the original | MB | less than the original | equal neighbours |")
    print("|---|---|---|---|---|---|")
    most = memory_of("original", folder, options.k)
    for method in names:
        memory = most if method == "original" else memory_of(method, folder, options.k)
        equal = float((found[method] == exact).float().mean())
        ratios = f"{least['original'] / least[method]:.2f} x | {memory:.0f} | {most / memory:.1f} x"
        print(f"| {method} | {least[method]:.3f} | {ratios} | {equal:.2%} |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
