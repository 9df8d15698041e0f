"""A job killed with SIGKILL at random points and run again ends with the bytes of an uninterrupted one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.toy_corpus import write_toy_corpus
from tests.toy_tokenizer import saved_toy_tokenizer, tree

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_corpus(tmp_path_factory.mktemp("corpus"), [0.5 + 0.05 * (i % 30) for i in range(60)])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_toy_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def encode_words(corpus: Path, tokenizer: Path, out: Path) -> list[str]:
    options = ["--tokenizer", str(tokenizer), "--cuts", str(corpus), "--shard-size", "2", "--device", "cpu"]
    return ["encode", *options, "--out", str(out)]


def fit_words(corpus: Path, out: Path) -> list[str]:
    options = ["--upstream", "mfcc", "--layer", "0", "--vocab-size", "16", "--dedup", "false", "--heldout", "0.1"]
    return ["fit", "--cuts", str(corpus), *options, "--cache", "disk", "--device", "cpu", "--out", str(out)]


def start(words: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "voxtok.runtime.commands", *words]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def run_whole(words: list[str], begun: Path) -> float:
    """Run to the end; the seconds from the first sign of work on disk to the end."""
    job = start(words)
    while not begun.exists() and job.poll() is None:
        time.sleep(0.005)
    began = time.monotonic()
    assert job.wait(timeout=300) == 0
    return time.monotonic() - began


def run_killed(words: list[str], begun: Path, after_s: float) -> bool:
    """Kill a run `after_s` seconds after its first sign of work; whether it was still running."""
    job = start(words)
    while not begun.exists() and job.poll() is None:
        time.sleep(0.005)
    time.sleep(after_s)
    running = job.poll() is None
    job.send_signal(signal.SIGKILL)
    job.wait()
    return running


def killed_and_rerun(words: list[str], begun: Path, work_s: float, kills: int, seed: int) -> int:
    """Kill `kills` times, then run to the end; how many kills hit a running job."""
    rng = random.Random(seed)
    hits = sum(run_killed(words, begun, rng.uniform(0, work_s / 2)) for _ in range(kills))
    run_whole(words, begun)
    return hits


def check_encode(corpus: Path, tokenizer: Path, folder: Path, kills: int, seed: int) -> int:
    whole, killed = folder / "whole", folder / "killed"
    work_s = run_whole(encode_words(corpus, tokenizer, whole), whole / "store.json")
    hits = killed_and_rerun(encode_words(corpus, tokenizer, killed), killed / "store.json", work_s, kills, seed)
    assert tree(killed) == tree(whole)
    return hits


def check_fit(corpus: Path, folder: Path, kills: int, seed: int) -> int:
    whole, killed = folder / "whole", folder / "killed"
    work_s = run_whole(fit_words(corpus, whole), whole / "work")
    hits = killed_and_rerun(fit_words(corpus, killed), killed / "work", work_s, kills, seed)
    compared = ("tokenizer.json", "codebook.safetensors", "rejected.jsonl", "done.json")
    assert {name: tree(killed)[name] for name in compared} == {name: tree(whole)[name] for name in compared}
    assert set(tree(killed)) == set(tree(whole))
    return hits


def test_encode_killed_three_times(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    assert check_encode(corpus, tokenizer, tmp_path, kills=3, seed=0) >= 1


def test_fit_killed_three_times(corpus: Path, tmp_path: Path) -> None:
    assert check_fit(corpus, tmp_path, kills=3, seed=0) >= 1


def killed_while_running(check: Callable[[Path, int], int], folder: Path, kills: int) -> None:
    """Check in rounds until `kills` of them hit a running job: one resumed near its end may be done before."""
    hits = rounds = 0
    while hits < kills:
        assert rounds < kills, "kills come too late"
        hits += check(folder / str(rounds), rounds)
        rounds += 1


@pytest.mark.slow
def test_encode_killed_twenty_times(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    killed_while_running(lambda folder, seed: check_encode(corpus, tokenizer, folder, 5, seed), tmp_path, 20)


@pytest.mark.slow
def test_fit_killed_twenty_times(corpus: Path, tmp_path: Path) -> None:
    killed_while_running(lambda folder, seed: check_fit(corpus, folder, 5, seed), tmp_path, 20)
