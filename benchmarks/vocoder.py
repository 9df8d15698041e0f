"""How fast vocoders synthesize: the iSTFT generator against unit HiFi-GAN V1, and the vocoder that is installed.

    python -m benchmarks.vocoder --threads 1
    python -m benchmarks.vocoder --threads 2

CPU time of one thread, or wall time of several, on the same 10 s of tokens; weights are random, which changes no speed.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from voxtok.manifests.tokens import TokenSequence
from voxtok.vocoder.model import VocoderModel
from voxtok.vocoder.model_config import Facts, IstftConfig, ModelConfig
from voxtok.vocoder.vocoder import Vocoder, mini_folder

FRAMES = 500
TOKENIZER = "t" * 64


def random_vocoder(config: ModelConfig) -> Vocoder:
    """A vocoder of 500 tokens at 50 Hz."""
    facts = Facts(sampling_rate=16000, hop_samples=320, inputs="tokens", vocab_sizes=(500,), tokenizer=TOKENIZER)
    return Vocoder(VocoderModel(config, facts).eval())


def seconds(run: Callable[[], object], clock: Callable[[], float], repeats: int) -> float:
    """The fastest of several runs, after one to warm up."""
    run()
    found = []
    for _ in range(repeats):
        begin = clock()
        run()
        found.append(clock() - begin)
    return min(found)


def main() -> None:
    """Print a line for each vocoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    codes = np.random.default_rng(0).integers(0, 500, (FRAMES, 1)).astype(np.uint16)
    contenders = {
        "unit HiFi-GAN V1": random_vocoder(ModelConfig(generator="hifigan", width=128)),
        "iSTFT, Vocos' head, 512 x 8": random_vocoder(ModelConfig(istft=IstftConfig(source="none"))),
        "iSTFT, harmonic source, 512 x 8": random_vocoder(ModelConfig()),
    }
    runs: dict[str, Callable[[], object]] = {}
    tokens = TokenSequence(codes, 50.0, TOKENIZER)
    for name, vocoder in contenders.items():
        runs[name] = lambda vocoder=vocoder: vocoder.from_tokens(tokens)  # type: ignore[misc]
    if (mini_folder() / "vocoder.json").exists():
        mini = Vocoder.load("mini", device="cpu")
        own = TokenSequence(codes, 50.0, mini.facts.tokenizer or "")
        speaker = np.zeros(mini.facts.speaker_width, dtype=np.float32)
        runs["vocoder-mini"] = lambda: mini.from_tokens(own, speaker=speaker)
    first = None
    for name, run in runs.items():
        speed = FRAMES / 50 / seconds(run, clock, options.repeats)
        first = first or speed
        print(f"{name:34} {speed:7.1f} x real time, {speed / first:5.1f} x {next(iter(runs))}", flush=True)


if __name__ == "__main__":
    main()
