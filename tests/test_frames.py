"""Streams of frames: keys that depend on the frame alone, chunks of bounded size, caches that are whole or absent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from tests.toy_frames import gaussian_frames
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.frame_cache import cached
from voxtok.tokenize.frames import (
    CHUNK_FRAMES,
    EVERY_KEY,
    ArrayFrames,
    Chunk,
    FrameSource,
    UtteranceFrames,
    frame_keys,
)
from voxtok.tokenize.sample import draw_sample

CPU = torch.device("cpu")


def whole(source: FrameSource) -> Chunk:
    chunks = list(source.chunks())
    return Chunk(torch.cat([chunk.frames for chunk in chunks]), torch.cat([chunk.keys for chunk in chunks]))


def utterances(lengths: list[int]) -> UtteranceFrames:
    def read() -> Iterator[tuple[int, torch.Tensor]]:
        for index, length in enumerate(lengths):
            yield index, gaussian_frames(length, 3, index)

    return UtteranceFrames(3, read, seed=4)


def test_keys_are_those_of_the_published_generator() -> None:
    """SplitMix64's first output from the state 0 is 0xE220A8397B1DCDAF; ours hashes twice and drops the lowest bit."""

    def splitmix(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    assert splitmix(0) == 0xE220A8397B1DCDAF
    stream = splitmix(splitmix(7) ^ 12)
    assert frame_keys(7, 12, 5, 8).tolist() == [splitmix(stream + frame) >> 1 for frame in (5, 6, 7)]


def test_keys_are_uniform_and_differ() -> None:
    keys = torch.cat([frame_keys(seed, utterance, 0, 500) for seed in (0, 1) for utterance in range(40)])
    assert len(keys.unique()) == len(keys)
    counts = torch.histc(keys.double() / 2**63, bins=20, min=0, max=1)
    assert float(counts.sum()) == len(keys)
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 50  # chi-squared of 19 degrees of freedom, p = 1e-4


def test_short_utterances_are_joined_and_long_ones_cut() -> None:
    source = utterances([5, 0, 2 * CHUNK_FRAMES + 1, 7])
    sizes = [len(chunk) for chunk in source.chunks()]
    assert sum(sizes) == 2 * CHUNK_FRAMES + 13
    assert max(sizes) < 2 * CHUNK_FRAMES
    assert torch.equal(whole(source).keys[-7:], frame_keys(4, 3, 0, 7))
    assert torch.equal(whole(source).frames[:5], gaussian_frames(5, 3, 0))


def test_bad_utterances_are_named() -> None:
    def read() -> Iterator[tuple[int, torch.Tensor]]:
        yield 0, torch.zeros(4, 3)
        yield 17, torch.tensor([[0.0, 1.0, 2.0], [0.0, float("nan"), 2.0]])

    with pytest.raises(ConfigError, match="utterance 17: frame 1 is not finite"):
        list(UtteranceFrames(3, read, 0).chunks())
    with pytest.raises(ConfigError, match=r"utterance 0: frames are \(n, 2\), not \(4, 3\)"):
        list(UtteranceFrames(2, read, 0).chunks())


def test_shares_of_an_array_have_the_keys_of_the_whole() -> None:
    array = gaussian_frames(100, 2, 1).numpy()
    array.flags.writeable = False
    keys = whole(ArrayFrames(array, 3)).keys
    assert torch.equal(
        keys, torch.cat([whole(ArrayFrames(array[i:j], 3, start=i)).keys for i, j in [(0, 30), (30, 100)]])
    )


class Pieces:
    """One chunk in pieces of another size, whose number is told or not."""

    largest_key = EVERY_KEY

    def __init__(self, everything: Chunk, size: int, num_frames: int | None) -> None:
        self.width, self.num_frames = everything.frames.shape[1], num_frames
        self._everything, self._size = everything, size

    def chunks(self) -> Iterator[Chunk]:
        parts = zip(self._everything.frames.split(self._size), self._everything.keys.split(self._size), strict=True)
        return (Chunk(*part) for part in parts)


@pytest.mark.parametrize("count", [1, 50, 100, 1000])
def test_sample_is_of_the_smallest_keys_whatever_the_chunks(count: int) -> None:
    everything = whole(ArrayFrames(gaussian_frames(700, 3, 1), 9))
    expected = everything.frames[everything.keys.argsort()[:count]]
    for num_frames in (None, 700):
        for size in (1, 33, 700):
            sample = draw_sample(Pieces(everything, size, num_frames), count, torch.float32, Ranks(), CPU)
            assert torch.equal(sample.frames[sample.order], expected)
            assert sample.num_seen == 700


def test_sample_that_overflows_its_format_is_named() -> None:
    with pytest.raises(ConfigError, match=r"too large for torch\.float16"):
        draw_sample(ArrayFrames(torch.full((9, 2), 1e6), 0), 5, torch.float16, Ranks(), CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_cache_keeps_every_frame(where: Literal["memory", "disk"], dtype: torch.dtype, tmp_path: Path) -> None:
    source = utterances([400, 3, CHUNK_FRAMES, 900])
    kept = whole(cached(source, "memory" if where == "memory" else tmp_path / "cache", dtype, 10**9))
    assert torch.equal(kept.frames, whole(source).frames.to(dtype))
    assert torch.equal(kept.keys, whole(source).keys)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_cache_beyond_its_bound_keeps_the_smallest_keys(
    where: Literal["memory", "disk"], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """30000 frames of 3 float32 and a key take 20 bytes each; the bound holds 10000, so a quarter stays."""
    source = utterances([3000] * 10)
    few = cached(source, "memory" if where == "memory" else tmp_path / "cache", torch.float32, 200_000)
    assert few.largest_key == EVERY_KEY // 4
    everything, kept = whole(source), whole(few)
    assert 7000 < len(kept) < 8000
    assert torch.equal(kept.frames, everything.below(EVERY_KEY // 4).frames)
    assert torch.equal(kept.keys, everything.below(EVERY_KEY // 4).keys)
    assert f"leaves {len(kept)} of 30000 frames" in caplog.text


def test_complete_cache_on_disk_is_reused_and_a_half_one_is_not(tmp_path: Path) -> None:
    passes = []

    def read(stop_at: int) -> Iterator[tuple[int, torch.Tensor]]:
        passes.append(stop_at)
        for index in range(4):
            if index == stop_at:
                raise KeyboardInterrupt
            yield index, gaussian_frames(CHUNK_FRAMES, 2, index)

    with pytest.raises(KeyboardInterrupt):
        cached(UtteranceFrames(2, lambda: read(3), 0), tmp_path, torch.float16, 10**9)
    assert list(tmp_path.glob("*.safetensors"))
    first = whole(cached(UtteranceFrames(2, lambda: read(9), 0), tmp_path, torch.float16, 10**9))
    again = whole(cached(UtteranceFrames(2, lambda: read(0), 0), tmp_path, torch.float16, 10**9))
    assert len(first) == 4 * CHUNK_FRAMES
    assert torch.equal(first.frames, again.frames)
    assert passes == [3, 9]
    other = cached(UtteranceFrames(2, lambda: read(8), 0), tmp_path, torch.float32, 10**9)
    assert next(other.chunks()).frames.dtype == torch.float32
    assert passes == [3, 9, 8]


def test_cache_that_overflows_its_format_is_named() -> None:
    source = ArrayFrames(np.full((3, 2), 1e5, np.float32), 0)
    with pytest.raises(ConfigError, match=r"100000 does not fit a torch\.float16 cache"):
        cached(source, "memory", torch.float16, 10**6)
    with pytest.raises(ConfigError, match="10 bytes cannot hold one frame"):
        cached(source, "memory", torch.float16, 10)
