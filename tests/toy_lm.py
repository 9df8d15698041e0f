"""Tiny unit language models and token stores of toy languages."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet, MonoCut
from lhotse.cut import Cut

from voxtok.manifests.store import StoreInfo, TokenStore
from voxtok.manifests.tokens import TokenSequence
from voxtok.tokenize.patterns import PatternName
from voxtok.tts.layout import Layout, Rows
from voxtok.tts.lm import LmShape, UnitLm

RATE_HZ = 50.0
FINGERPRINT = "f" * 64


def toy_layout(
    rows: Rows = "frames", pattern: PatternName = "parallel", vocab_sizes: tuple[int, ...] = (7,), **facts: bool
) -> Layout:
    return Layout(
        rows=rows,
        pattern=pattern,
        max_duration_frames=4 if rows == "timed" else 0,
        vocab_sizes=vocab_sizes,
        frame_rate_hz=RATE_HZ,
        fingerprint=FINGERPRINT,
        has_durations=facts.get("has_durations", False),
        pieces=facts.get("pieces", False),
    )


def toy_lm(layout: Layout, *, context_steps: int = 64, symbols: int = 0, seed: int = 0, loud: float = 8.0) -> UnitLm:
    """Random weights; `loud` makes its choices differ from uniform."""
    torch.manual_seed(seed)
    lm = UnitLm(LmShape(blocks=2, width=16, heads=2, feed_forward=24, context_steps=context_steps), layout, symbols)
    with torch.no_grad():
        for parameter in (*lm.tables.parameters(), *lm.heads.parameters()):
            parameter.mul_(loud)
    return lm.eval()


def first_head(lm: UnitLm) -> torch.Tensor:
    """(values, width) weights of the first column's logits."""
    return next(lm.heads[0].parameters())


def toy_tokens(num_frames: int, vocab_sizes: tuple[int, ...] = (7,), seed: int = 0, run: float = 1.6) -> TokenSequence:
    """Random frames that stay the same for about `run` frames."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(size, size=num_frames) for size in vocab_sizes], axis=1)
    kept = np.maximum.accumulate(np.where(rng.random(num_frames) < 1 / run, np.arange(num_frames), 0))
    return TokenSequence(codes[kept].astype(np.uint8), RATE_HZ, FINGERPRINT)


def write_store(folder: Path, utterances: Sequence[TokenSequence], vocab_sizes: tuple[int, ...] = (7,)) -> Path:
    """A finished token store without a tokenizer beside it."""
    durations = bool(utterances) and utterances[0].durations is not None
    info = StoreInfo(
        fingerprint=FINGERPRINT, frame_rate_hz=RATE_HZ, vocab_sizes=vocab_sizes, dedup=durations, shard_size=1000
    )
    store = TokenStore.create(folder, info)
    cuts: list[Cut] = [
        MonoCut(id=f"utt{i:03d}", start=0, duration=tokens.duration_s, channel=0, supervisions=[])
        for i, tokens in enumerate(utterances)
    ]
    assert len(CutSet.from_cuts(cuts)) == len(utterances)
    store.write_shard(0, list(zip(cuts, utterances, strict=True)), [], "inputs")
    assert store.finish(["inputs"])
    return folder
