"""Stores of frames: what is written is read, and what is not finished does not open."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy_corpus import write_toy_corpus
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.errors import BadAudio, ConfigError, CorruptFile
from voxtok.runtime.files import read_jsonl
from voxtok.vocoder.frame_store import FrameInfo, FrameStore, is_made, write_frames

INFO = FrameInfo(features="f" * 64, width=3, sampling_rate=16000, hop_samples=320, made_of="m")


def test_frames_come_back_with_their_cuts(tmp_path: Path) -> None:
    cuts = list(load_cuts(write_toy_corpus(tmp_path / "corpus", [1.0, 1.5, 1.0])))
    frames: list[torch.Tensor | BadAudio] = [
        torch.randn(5, 3),
        BadAudio(cuts[1].id, "too short", "here"),
        torch.randn(7, 3),
    ]
    assert not is_made(tmp_path / "frames", INFO)
    write_frames(tmp_path / "frames", INFO, zip(cuts, frames, strict=True))
    store = FrameStore.open(tmp_path / "frames")
    assert store.info == INFO and is_made(tmp_path / "frames", INFO)
    found = list(store)
    assert [cut.id for cut, _ in found] == [cuts[0].id, cuts[2].id]
    for (_, rows), expected in zip(found, (frames[0], frames[2]), strict=True):
        assert isinstance(expected, torch.Tensor)
        np.testing.assert_array_equal(rows, expected.numpy().astype(np.float16))
    assert [row["reason"] for row in read_jsonl(tmp_path / "frames" / "rejected.jsonl")] == ["too short"]
    assert np.load(tmp_path / "frames" / "frames.npy").shape == (12, 3)  # plain numpy reads it


def test_frames_beyond_float16_are_rejected(tmp_path: Path) -> None:
    cuts = list(load_cuts(write_toy_corpus(tmp_path / "corpus", [1.0, 1.0])))
    store = write_frames(tmp_path / "frames", INFO, [(cuts[0], torch.full((4, 3), 7e4)), (cuts[1], torch.ones(4, 3))])
    assert [cut.id for cut, _ in store] == [cuts[1].id]
    assert [row["id"] for row in read_jsonl(tmp_path / "frames" / "rejected.jsonl")] == [cuts[0].id]


def test_unfinished_and_damaged_stores_do_not_open(tmp_path: Path) -> None:
    cut = next(iter(load_cuts(write_toy_corpus(tmp_path / "corpus", [1.0]))))
    with pytest.raises(ConfigError, match="no utterance has frames"):
        write_frames(tmp_path / "none", INFO, [(cut, BadAudio(cut.id, "empty", "it is"))])
    with pytest.raises(CorruptFile, match="not a finished store"):
        FrameStore.open(tmp_path / "none")
    write_frames(tmp_path / "frames", INFO, [(cut, torch.zeros(4, 3))])
    (tmp_path / "frames" / "frames.npy").write_bytes(b"x")
    with pytest.raises(CorruptFile, match="cannot be read"):
        FrameStore.open(tmp_path / "frames")
