"""Unit language models: packing of token stores, and drawing against transformers' generate on the same weights.

Data: a million tokens of utterances as long as LibriSpeech's, from memory-mapped arrays: rows of packed utterances
(voxtok's lm_batches) against the usual way, in which a DataLoader pads batches of 16 in random order. Steps a second
are steps that hold a token; the share of padding is what the model computes in vain.

Drawing: a Llama of 4 blocks of 256 dimensions over 500 units, greedy and without an end, by LlamaForCausalLM.generate
and by draw_utterances, with the key-value cache and without, one utterance and a batch. Both take the same tokens,
which is checked. One process with one thread, CPU time.

On one core of an AMD EPYC shared with other work: padded batches 35 million steps a second, 23 % of them padding;
packed, with inputs, targets and positions, 13 million (0.37 x), 2.5 % padding. Drawing with the cache, one utterance:
generate 132 tokens a second, voxtok 153 (1.16 x); 8 utterances: 796 and 695 (0.87 x); one without it: 67 and 60 (0.91).

    OMP_NUM_THREADS=1 python -m benchmarks.lm
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader
from transformers import LlamaForCausalLM
from transformers.generation.configuration_utils import GenerationConfig

from voxtok.manifests.export import FlatTokens
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.distributed import Ranks
from voxtok.tts.layout import IGNORED, Layout
from voxtok.tts.lm import LmShape, UnitLm
from voxtok.tts.lm_data import lm_batches, unit_documents
from voxtok.tts.sampling import SamplingConfig, draw_utterances, unconditional
from voxtok.tts.stop_rules import StopRules

Ints = npt.NDArray[np.int64]
RATE_HZ = 50.0
VOCAB_SIZE = 500
CONTEXT = 2048
LAYOUT = Layout(
    rows="frames", pattern="parallel", max_duration_frames=0, vocab_sizes=(VOCAB_SIZE,), frame_rate_hz=RATE_HZ,
    fingerprint="benchmark", has_durations=False, pieces=False,
)  # fmt: skip
SHAPE = LmShape(blocks=4, width=256, heads=4, feed_forward=704, context_steps=CONTEXT)


def main(argv: list[str]) -> int:
    """Parse the options and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="tokens of the corpus")
    parser.add_argument("--drawn", type=int, default=200, help="tokens to draw of each utterance")
    parser.add_argument("--batch", type=int, default=8, help="utterances to draw side by side")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        compare_data(mapped_tokens(options.tokens, Path(folder)))
    compare_drawing(options.drawn, options.batch)
    return 0


def mapped_tokens(count: int, folder: Path) -> FlatTokens:
    """Random tokens on disk; utterances are 1.5-16 s, mostly long, as LibriSpeech's."""
    rng = np.random.default_rng(0)
    lengths = np.round(RATE_HZ * np.clip(16.2 - rng.gamma(1.3, 3.2, count // 300), 1.5, 16.0)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    offsets = offsets[offsets <= count]
    np.save(folder / "tokens.npy", rng.integers(VOCAB_SIZE, size=(int(offsets[-1]), 1)).astype(np.uint16))
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    return FlatTokens(tokens, offsets, "benchmark", RATE_HZ, (VOCAB_SIZE,), None, None)


def compare_data(flat: FlatTokens) -> None:
    """One epoch of batches, made both ways."""
    print(f"{'data':34} {'steps a second':>14} {'ratio':>6} {'padding':>8}")
    peer, padding = padded_epoch(flat)
    print(f"{'DataLoader, padded':34} {peer:14.0f} {1.0:6.2f} {padding:8.1%}", flush=True)
    begun = time.process_time()
    documents = unit_documents([flat], LAYOUT)
    held, computed = 0, 0
    for recipe in lm_batches(documents, LAYOUT, CONTEXT, 4, 0, Ranks(), 0):
        targets = recipe().targets
        held, computed = held + int((targets != IGNORED).sum()), computed + targets.numel()
        if held >= documents.lengths.sum():
            break
    speed = held / (time.process_time() - begun)
    print(f"{'voxtok, packed':34} {speed:14.0f} {speed / peer:6.2f} {1 - held / computed:8.1%}", flush=True)


def padded_epoch(flat: FlatTokens) -> tuple[float, float]:
    """Steps that hold a token, a second, and the share of those that do not."""

    def collate(batch: list[int]) -> torch.Tensor:
        utterances = [torch.from_numpy(flat[i][:, 0].astype(np.int64)) for i in batch]
        return torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True, padding_value=IGNORED)

    begun = time.process_time()
    held, computed = 0, 0
    loader: Any = DataLoader(range(len(flat)), 16, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    for batch in loader:
        held, computed = held + int((batch != IGNORED).sum()), computed + batch.numel()
    return held / (time.process_time() - begun), 1 - held / computed


def compare_drawing(count: int, batch: int) -> None:
    """Tokens a second of both, one utterance and a batch, with the cache and without."""
    torch.manual_seed(0)
    lm = UnitLm(SHAPE, LAYOUT).eval()
    with torch.no_grad():
        for parameter in (*lm.tables.parameters(), *lm.heads.parameters()):
            parameter.mul_(8.0)
        next(lm.heads[0].parameters())[VOCAB_SIZE] = 0.0  # the end is never the most likely
    peer = as_llama(lm)
    rng = np.random.default_rng(1)
    prompts = rng.integers(VOCAB_SIZE, size=(batch, 50))
    print(f"\n{'drawing':34} {'tokens a second':>15} {'ratio':>6}")
    for size, cached in ((1, True), (batch, True), (1, False)):
        steps = count if cached else count // 4
        peer_tokens, peer_speed = timed(partial(generate, peer, prompts[:size], steps, cached))
        own_tokens, own_speed = timed(partial(draw, lm, prompts[:size], steps, cached))
        if not np.array_equal(peer_tokens, own_tokens):
            raise RuntimeError("the two draw different tokens")
        name = f"{size} utterance{'s' if size > 1 else ''}, {'' if cached else 'no '}cache"
        print(f"{'generate: ' + name:34} {peer_speed:15.0f} {1.0:6.2f}")
        print(f"{'voxtok: ' + name:34} {own_speed:15.0f} {own_speed / peer_speed:6.2f}", flush=True)


def timed(run: Callable[[], Ints]) -> tuple[Ints, float]:
    """What `run` draws, and tokens a second of the faster of two calls."""
    spent = []
    for _ in range(2):
        begun = time.process_time()
        tokens = run()
        spent.append(time.process_time() - begun)
    return tokens, tokens.size / min(spent)


def as_llama(lm: UnitLm) -> Any:
    """The same weights in transformers' own model."""
    config = lm.shape.llama()
    config.vocab_size = VOCAB_SIZE + 1
    model = LlamaForCausalLM(config).eval()
    state = {f"model.{name.removeprefix('body.')}": kept for name, kept in lm.state_dict().items() if "body" in name}
    tables, heads = next(lm.tables[0].parameters()), next(lm.heads[0].parameters())
    model.load_state_dict(state | {"model.embed_tokens.weight": tables, "lm_head.weight": heads})
    return model


def generate(model: Any, prompts: Ints, count: int, cached: bool) -> Ints:
    """(B, count) by transformers."""
    begun = torch.from_numpy(np.concatenate([np.full((len(prompts), 1), VOCAB_SIZE), prompts], axis=1))
    config = GenerationConfig(max_new_tokens=count, do_sample=False, use_cache=cached, pad_token_id=VOCAB_SIZE)
    found = model.generate(begun, attention_mask=torch.ones_like(begun), generation_config=config)
    return np.asarray(found[:, begun.shape[1] :])


def draw(lm: UnitLm, prompts: Ints, count: int, cached: bool) -> Ints:
    """(B, count) by voxtok."""
    given = [unconditional(lm, TokenSequence(row[:, None].astype(np.uint16), RATE_HZ, "benchmark")) for row in prompts]
    rules = StopRules(max_s=count / RATE_HZ, loop_s=1e9, stuck_tokens=0)
    size = len(prompts)
    found = draw_utterances(lm, given, SamplingConfig(temperature=0.0), [rules] * size, [0] * size, use_cache=cached)
    return np.stack([one.tokens.codes[prompts.shape[1] :, 0] for one in found])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
