"""Augmentation of recognizer inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voxtok.asr.augment import (
    AugmentConfig,
    FrameAugment,
    change_tokens,
    frame_mask,
    interpolated,
    span,
    warp,
    warped,
)
from voxtok.asr.padded import Padded
from voxtok.manifests.subwords import train_subwords
from voxtok.runtime.errors import ConfigError

OFF = AugmentConfig(time_warp=0, frame_masks=0, dim_masks=0)


def frames(lengths: list[int], width: int = 16) -> Padded:
    torch.manual_seed(0)
    return Padded(torch.rand(len(lengths), max(lengths), width) + 1, torch.tensor(lengths))


def test_all_of_it_can_be_turned_off() -> None:
    given_frames = frames([30, 20])
    assert not OFF.changes_frames
    assert torch.equal(FrameAugment(OFF, [(0, 0), (0, 1)])(given_frames).values[0], given_frames.values[0])
    codes = np.arange(12, dtype=np.uint8)[:, None]
    assert change_tokens(codes, (12,), None, OFF, (0, 0)) is codes


def test_warp_worked_by_hand() -> None:
    """Of 5 frames, point 2 moved to 3: what lay before takes longer, what lay behind is over faster."""
    np.testing.assert_allclose(warp(5, 2, 3), [0, 2 / 3, 4 / 3, 2, 4], rtol=1e-6)


@given(st.integers(1, 400), st.integers(0, 80), st.integers(0, 1000))
def test_a_warp_keeps_ends_and_order(num_frames: int, factor: int, seed: int) -> None:
    places = warped(num_frames, factor, np.random.default_rng(seed))
    assert len(places) == num_frames and places[0] == 0 and places[-1] == num_frames - 1
    assert (np.diff(places) >= 0).all()
    if factor == 0:
        assert (places == np.arange(num_frames)).all()


def test_interpolation_lies_between_frames() -> None:
    values = torch.tensor([[[0.0], [10.0], [20.0]]])
    assert interpolated(values, torch.tensor([[0.5, 1.25, 2.0]]))[0, :, 0].tolist() == [5.0, 12.5, 20.0]


@given(st.integers(1, 2000), st.integers(0, 1000))
def test_masked_frames_stay_within_their_share(num_frames: int, seed: int) -> None:
    config = AugmentConfig()
    masked = frame_mask(num_frames, config, np.random.default_rng(seed))
    assert masked.sum() <= config.masked_share * num_frames
    assert masked.any() == (num_frames >= 7)  # 15 % of 7 is the first whole frame


@given(st.integers(1, 50), st.integers(0, 60), st.integers(0, 100))
def test_a_span_is_one_run(size: int, length: int, seed: int) -> None:
    found = span(size, length, np.random.default_rng(seed))
    assert found.sum() == min(length, size)
    assert np.abs(np.diff(found.astype(int))).sum() <= 2


def test_an_utterance_is_changed_alike_in_every_batch() -> None:
    """What is drawn follows from the utterance's seed: not from its place in the batch, nor from the padding."""
    config = AugmentConfig(time_warp=5, mask_frames=4, mask_dims=5, probability=1.0)
    both = frames([40, 30])
    together = FrameAugment(config, [(7, 0, 3), (7, 0, 9)])(both).values[1, :30]
    alone = FrameAugment(config, [(7, 0, 9)])(Padded(both.values[1:, :30], torch.tensor([30]))).values[0]
    assert torch.equal(together, alone)
    assert (alone == 0).all(dim=1).any() and (alone == 0).all(dim=0).any()
    other = FrameAugment(config, [(7, 1, 9)])(Padded(both.values[1:, :30], torch.tensor([30]))).values[0]
    assert not torch.equal(alone, other)


def test_replaced_tokens_are_of_their_stream_and_as_many_as_asked() -> None:
    codes = np.zeros((4000, 2), dtype=np.uint8)
    found = change_tokens(codes, (3, 200), None, AugmentConfig(replace=0.3), (0, 1))
    assert found[:, 0].max() == 2 and found[:, 1].max() > 100
    assert (found[:, 1] != 0).mean() == pytest.approx(0.3, abs=0.03)
    assert (found == change_tokens(codes, (3, 200), None, AugmentConfig(replace=0.3), (0, 1))).all()


def test_bpe_dropout_cuts_otherwise_and_says_the_same() -> None:
    rng = np.random.default_rng(0)
    units = [np.repeat(rng.integers(0, 8, 30), 2) for _ in range(40)]
    subwords = train_subwords(units, unit_vocab_size=8, vocab_size=40, kind="bpe")
    pieces = subwords.encode(units[0])[:, None]
    config = AugmentConfig(bpe_dropout=0.5)
    found = change_tokens(pieces, (40,), subwords, config, (0, 2))
    assert len(found) > len(pieces)
    assert (subwords.decode(found[:, 0]) == units[0]).all()
    assert (found == change_tokens(pieces, (40,), subwords, config, (0, 2))).all()


@pytest.mark.parametrize("wrong", [{"probability": 1.1}, {"replace": -0.1}, {"time_warp": -1}, {"mask_dims": 0}])
def test_impossible_options_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="augment"):
        AugmentConfig(**wrong)  # type: ignore[arg-type]
