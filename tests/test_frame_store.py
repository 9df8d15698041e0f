"""Stores of frames: what is written is read, and what is not finished does not open."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import Recording
from lhotse.cut import Cut, MonoCut

from tests.toy_corpus import write_toy_corpus
from tests.toy_tokenizer import tree
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.errors import BadAudio, ConfigError, CorruptFile
from voxtok.runtime.files import read_jsonl
from voxtok.vocoder.frame_store import FrameInfo, FrameStore, Part, is_made, require_files, write_frames

INFO = FrameInfo(features="f" * 64, width=3, sampling_rate=16000, hop_samples=320, made_of="m")


def test_frames_come_back_with_their_cuts(tmp_path: Path) -> None:
    cuts = list(load_cuts(write_toy_corpus(tmp_path / "corpus", [1.0, 1.5, 1.0])))
    frames: list[torch.Tensor | BadAudio] = [
        torch.randn(5, 3),
        BadAudio(cuts[1].id, "too short", "here"),
        torch.randn(7, 3),
    ]
    assert not is_made(tmp_path / "frames", INFO)
    write_frames(tmp_path / "frames", INFO, [lambda: zip(cuts, frames, strict=True)])
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
    frames = [(cuts[0], torch.full((4, 3), 7e4)), (cuts[1], torch.ones(4, 3))]
    store = write_frames(tmp_path / "frames", INFO, [lambda: frames])
    assert [cut.id for cut, _ in store] == [cuts[1].id]
    assert [row["id"] for row in read_jsonl(tmp_path / "frames" / "rejected.jsonl")] == [cuts[0].id]


def test_a_killed_run_goes_on_after_its_last_whole_part(tmp_path: Path) -> None:
    """Killed within the third part: the first two are kept, also if the last line of progress was cut off."""
    cuts = list(load_cuts(write_toy_corpus(tmp_path / "corpus", [1.0] * 6)))
    frames = [torch.randn(4 + i, 3) for i in range(6)]
    called: list[int] = []

    def parts(killed: int | None = None) -> list[Part]:
        return [partial(part, number, number == killed) for number in range(3)]

    def part(number: int, killed: bool) -> Iterator[tuple[Cut, torch.Tensor | BadAudio]]:
        called.append(number)
        yield cuts[2 * number], frames[2 * number]
        if killed:
            raise KeyboardInterrupt
        yield cuts[2 * number + 1], BadAudio(cuts[2 * number + 1].id, "empty", "it is") if number else frames[1]

    write_frames(tmp_path / "whole", INFO, parts())
    for cut_off, expected in ((0, [2]), (3, [1, 2])):
        folder = tmp_path / f"cut{cut_off}"
        with pytest.raises(KeyboardInterrupt):
            write_frames(folder, INFO, parts(killed=2))
        with pytest.raises(CorruptFile, match="not a finished store"):
            FrameStore.open(folder)
        lines = (folder / "progress.jsonl").read_bytes()
        (folder / "progress.jsonl").write_bytes(lines[: len(lines) - cut_off])
        called.clear()
        write_frames(folder, INFO, parts())
        assert called == expected and tree(folder) == tree(tmp_path / "whole")


def test_parts_of_another_run_are_made_again(tmp_path: Path) -> None:
    cut = next(iter(load_cuts(write_toy_corpus(tmp_path / "corpus", [1.0]))))

    def killed() -> Iterator[tuple[Cut, torch.Tensor | BadAudio]]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        write_frames(tmp_path, INFO, [lambda: [(cut, torch.zeros(4, 3))], killed])
    ones: list[Part] = [lambda: [(cut, torch.ones(2, 3))]] * 2
    store = write_frames(tmp_path, replace(INFO, made_of="other"), ones)
    assert store.frames.tolist() == [[1.0] * 3] * 4


def test_cuts_whose_audio_training_could_not_read_again_are_refused(tmp_path: Path) -> None:
    cuts = list(load_cuts(write_toy_corpus(tmp_path / "corpus", [1.0, 1.0])))
    require_files([*cuts, MonoCut("silent", 0, 1, 0)])  # what has no audio at all is listed later, as any bad one
    content = (tmp_path / "corpus" / "audio" / f"{cuts[1].id}.wav").read_bytes()
    for lost in (Recording.from_bytes(content, cuts[1].id).to_cut(), cuts[1].mix(cuts[0], snr=10)):
        with pytest.raises(ConfigError, match=f"{lost.id} has no audio file"):
            require_files([cuts[0], lost])


def test_unfinished_and_damaged_stores_do_not_open(tmp_path: Path) -> None:
    cut = next(iter(load_cuts(write_toy_corpus(tmp_path / "corpus", [1.0]))))
    with pytest.raises(ConfigError, match="no utterance has frames"):
        write_frames(tmp_path / "none", INFO, [lambda: [(cut, BadAudio(cut.id, "empty", "it is"))]])
    with pytest.raises(CorruptFile, match="not a finished store"):
        FrameStore.open(tmp_path / "none")
    write_frames(tmp_path / "frames", INFO, [lambda: [(cut, torch.zeros(4, 3))]])
    (tmp_path / "frames" / "frames.npy").write_bytes(b"x")
    with pytest.raises(CorruptFile, match="cannot be read"):
        FrameStore.open(tmp_path / "frames")
