"""Batches of recognizer training: who is in them, and in which order."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.toy_speech_text import RATE_HZ, toy_store, toy_text_model
from voxtok.asr.augment import AugmentConfig
from voxtok.asr.batches import Batch, TrainingSet, batches, ctc_frames, plan_epoch, training_set
from voxtok.asr.examples import collate, read_examples, with_context
from voxtok.asr.inputs import InputConfig
from voxtok.manifests.store import TokenStore
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError, TokenizerMismatch

TOKENS = InputConfig(tokens=True, features=None, width=8)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy_batches")
    toy_store(folder / "a", 12, seed=0)
    toy_store(folder / "b", 12, seed=0, fingerprint="other")
    toy_store(folder / "merged", 12, seed=0, dedup=True)
    return folder


def training(folder: Path, augment: AugmentConfig | None = None) -> TrainingSet:
    examples = read_examples([str(folder / "a")], TOKENS, expected=None, cache=folder / "cache", device=CPU)
    text = toy_text_model(folder / "text.json")
    return training_set(examples, text, ctc_frames, lambda frames: frames, augment)[0]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(60, 200), st.integers(0, 3))
def test_every_utterance_is_in_one_batch_that_is_not_too_large(lengths: list[int], most: int, epoch: int) -> None:
    plan = plan_epoch(lengths, most, 0, epoch)
    assert sorted(item for batch in plan for item in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[item] for item in batch) <= most for batch in plan)
    assert plan == plan_epoch(lengths, most, 0, epoch)


def test_batches_hold_like_lengths_and_change_with_the_epoch() -> None:
    lengths = np.random.default_rng(0).integers(20, 400, 500).tolist()
    plans = [plan_epoch(lengths, 4000, 0, epoch) for epoch in (0, 1)]
    padded = sum(len(batch) * max(lengths[item] for item in batch) for batch in plans[0])
    assert sum(lengths) / padded > 0.9
    assert plans[0] != plans[1]


def test_frames_that_ctc_needs() -> None:
    """The worked example: 5 5 7 needs a blank between its equal numbers."""
    assert [ctc_frames(text) for text in ([5, 5, 7], [5, 7], [])] == [4, 2, 0]


def ids(found: Batch | None) -> tuple[str, ...]:
    return () if found is None else found.ids


def test_a_resumed_stream_goes_on_and_ranks_share_each_batch(folder: Path) -> None:
    data = training(folder, AugmentConfig(replace=0.5))
    whole = [recipe() for recipe, _ in zip(batches(data, 200, 3, Ranks(), 0), range(9), strict=False)]
    later = [recipe() for recipe, _ in zip(batches(data, 200, 3, Ranks(), 4), range(5), strict=False)]
    for before, after in zip(whole[4:], later, strict=True):
        assert before is not None and after is not None and before.ids == after.ids
        assert before.inputs.tokens is not None and after.inputs.tokens is not None
        assert torch.equal(before.inputs.tokens.values, after.inputs.tokens.values)
    halves = [
        [ids(recipe()) for recipe, _ in zip(batches(data, 200, 3, Ranks(rank, 2), 0), range(9), strict=False)]
        for rank in (0, 1)
    ]
    for both, first, second in zip(whole, *halves, strict=True):
        assert sorted(ids(both)) == sorted(first + second)


def test_texts_and_tokens_of_a_batch(folder: Path) -> None:
    data = training(folder)
    batch = data.batch([2, 0], seed=0, epoch=0)
    stored = {cut.id: (cut, tokens) for cut, tokens in TokenStore.open(folder / "a")}
    text = toy_text_model(folder / "text.json")
    assert batch.inputs.tokens is not None
    for row, name in enumerate(batch.ids):
        cut, tokens = stored[name]
        length = int(batch.inputs.tokens.lengths[row])
        assert batch.inputs.tokens.values[row, :length].tolist() == tokens.codes.tolist()
        numbers = batch.texts.values[row, : int(batch.texts.lengths[row])].tolist()
        assert text.decode(numbers) == cut.supervisions[0].text
    assert batch.duration_s == pytest.approx(sum(stored[name][1].num_frames for name in batch.ids) / RATE_HZ)


def test_streams_of_two_stores_stand_side_by_side(folder: Path) -> None:
    joined = read_examples([f"{folder}/a+{folder}/b"], TOKENS, expected=None, cache=folder, device=CPU)
    assert joined.source.tokenizers == ("toy", "other")
    assert joined.source.vocab_sizes == (20, 20)
    tokens = joined.items[0].tokens
    assert tokens is not None and tokens.shape[1] == 2 and (tokens[:, 0] == tokens[:, 1]).all()
    with pytest.raises(ConfigError, match="without dedup"):
        read_examples([f"{folder}/merged+{folder}/merged"], TOKENS, expected=None, cache=folder, device=CPU)
    with pytest.raises(TokenizerMismatch, match="2 are needed"):
        read_examples([str(folder / "a")], TOKENS, expected=joined.source, cache=folder, device=CPU)


def test_what_only_some_stores_have_is_listed(folder: Path, tmp_path: Path) -> None:
    toy_store(tmp_path / "more", 14, seed=0)
    for pair in (f"{folder}/a+{tmp_path}/more", f"{tmp_path}/more+{folder}/a"):
        found = read_examples([pair], TOKENS, expected=None, cache=folder, device=CPU)
        assert len(found.items) == 12
        assert [row["id"] for row in found.rejected] == ["utt0012", "utt0013"]
        assert {row["detail"] for row in found.rejected} == {f"of {pair} not all have it"}


def test_merged_tokens_keep_their_durations(folder: Path) -> None:
    merged = read_examples([str(folder / "merged")], TOKENS, expected=None, cache=folder, device=CPU)
    assert merged.source.has_durations
    item = merged.items[0]
    assert item.durations is not None and item.durations.sum() / RATE_HZ == pytest.approx(item.duration_s)


def test_the_context_is_the_speakers_utterance_before(folder: Path) -> None:
    """Speakers take turns: utterance 2 sees the end of utterance 0, utterance 0 nothing."""
    items = read_examples([str(folder / "a")], TOKENS, expected=None, cache=folder, device=CPU).items
    found = with_context(items, 7)
    assert found[0].context is not None and len(found[0].context) == 0
    assert found[2].context is not None and items[0].tokens is not None
    assert found[2].context.tolist() == items[0].tokens[-7:].tolist()
    context = collate(found[:3]).context
    assert context is not None and context.lengths.tolist() == [0, 0, 7]
