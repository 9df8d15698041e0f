"""The unit language model: its network, its folder, packing, perplexity."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from tests import reference_lm
from tests.toy_lm import FINGERPRINT, toy_layout, toy_lm, toy_tokens, write_store
from voxtok.manifests.export import export_flat
from voxtok.manifests.store import TokenStore
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError, CorruptFile, TokenizerMismatch
from voxtok.tokenize.patterns import PatternName
from voxtok.tts.layout import IGNORED
from voxtok.tts.lm import LmShape, UnitLm
from voxtok.tts.lm_data import Documents, lm_batches, open_tokens, pack, packed, plan_epoch, spans, unit_documents
from voxtok.tts.lm_score import nats_of, prediction_terms, score

TOKENS = [toy_tokens(length, seed=length) for length in (9, 4, 17, 1, 30, 6)]


def toy_documents(folder: Path) -> Documents:
    return unit_documents([open_tokens(write_store(folder / "store", TOKENS))], toy_layout())


@pytest.mark.parametrize("pattern", ["parallel", "delayed"])
def test_logits_and_perplexity_equal_the_loops(pattern: PatternName) -> None:
    layout = toy_layout("timed", pattern, (7, 5))
    lm = toy_lm(layout, loud=20.0)
    inputs, targets = layout.document(toy_tokens(9, (7, 5), seed=3))
    weights = {name: tensor.tolist() for name, tensor in lm.state_dict().items()}
    slow = reference_lm.llama_logits(weights, inputs.tolist(), heads=2, blocks=2)
    with torch.no_grad():
        fast = lm(torch.from_numpy(inputs)[None], torch.arange(len(inputs))[None])
    for column, logits in enumerate(fast):
        torch.testing.assert_close(logits[0], torch.tensor([step[column] for step in slow]), atol=1e-4, rtol=1e-4)
    nats, count = reference_lm.nats(slow, targets.tolist(), IGNORED)
    assert nats_of(lm, [(inputs, targets)])[0] == pytest.approx(nats, rel=1e-5)
    found = score(lm, Documents(np.array([len(inputs)]), np.array([0.5]), lambda _: (inputs, targets)))
    assert found.decisions == count
    assert found.perplexity == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert found.bits_per_s == pytest.approx(nats / math.log(2) / 0.5, rel=1e-5)


def test_one_stream_is_the_llama_of_transformers() -> None:
    lm = toy_lm(toy_layout())
    config = lm.shape.llama()
    config.vocab_size = 8
    peer = LlamaForCausalLM(config).eval()
    state = {
        "model." + name.removeprefix("body."): tensor for name, tensor in lm.state_dict().items() if "body" in name
    }
    state |= {"model.embed_tokens.weight": lm.tables[0].weight, "lm_head.weight": lm.heads[0].weight}
    peer.load_state_dict(state)
    steps = torch.randint(8, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = lm(steps[..., None], torch.arange(20).expand(3, 20))[0]
        torch.testing.assert_close(ours, peer(steps).logits)


def test_packed_utterances_do_not_see_each_other(tmp_path: Path) -> None:
    documents = toy_documents(tmp_path)
    lm = toy_lm(toy_layout())
    row = [(2, 0, 18), (0, 0, 10), (4, 3, 31)]
    batch = packed(documents, [row], 1)
    other = packed(documents, [[(2, 0, 18), (1, 0, 5), (5, 0, 5), (4, 3, 31)]], 1)
    with torch.no_grad():
        logits = lm(batch.inputs, batch.positions)[0][0]
        changed = lm(other.inputs, other.positions)[0][0]
        alone = lm(torch.from_numpy(documents.read(4)[0][3:31])[None], torch.arange(28)[None])[0][0]
    torch.testing.assert_close(logits[28:], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[28:], changed[28:], atol=1e-4, rtol=1e-4)
    terms = prediction_terms(lm, batch.inputs, batch.targets, batch.positions)
    singles = [documents.read(i) for i in (2, 0)]
    with torch.no_grad():
        nats = sum(nats_of(lm, singles))
        last = prediction_terms(lm, batch.inputs[:, 28:], batch.targets[:, 28:], batch.positions[:, 28:])
    assert terms[0].item() == pytest.approx(nats + last[0].item(), rel=1e-5)
    assert terms[2].item() == 18 + 10 + 28


@given(lengths=st.lists(st.integers(1, 16), max_size=40))
@settings(max_examples=60, deadline=None)
def test_packing_keeps_every_item_once_within_rows(lengths: list[int]) -> None:
    rows = pack(lengths, 16)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= 16 for row in rows)
    # No two rows of one step or more could share a row of twice the least fill, or best fit would have joined them.
    fills = sorted(sum(lengths[item] for item in row) for row in rows)
    assert len(fills) < 2 or fills[0] + fills[1] > 16


def test_packing_as_worked() -> None:
    assert pack([5, 4, 3, 3, 1], 8) == [[0, 2], [1, 3, 4]]


def test_every_step_is_in_one_span_and_long_utterances_are_cut_elsewhere_each_time(tmp_path: Path) -> None:
    documents = toy_documents(tmp_path)
    cuts = set()
    for seed in range(4):
        found = spans(documents, 8, np.random.default_rng(seed))
        seen = sorted((document, step) for document, begin, end in found for step in range(begin, end))
        assert seen == [(i, step) for i, length in enumerate(documents.lengths.tolist()) for step in range(length)]
        assert all(end - begin <= 8 for _, begin, end in found)
        cuts.add(tuple(found))
    assert len(cuts) == 4


def test_ranks_share_a_batch_and_batches_can_be_begun_anywhere(tmp_path: Path) -> None:
    documents, layout = toy_documents(tmp_path), toy_layout()

    def first(ranks: Ranks, begin: int, count: int) -> list[torch.Tensor]:
        recipes = lm_batches(documents, layout, 32, 2, 5, ranks, begin)
        return [next(recipes)().inputs for _ in range(count)]

    whole = first(Ranks(), 0, 6)
    for late, tensor in zip(first(Ranks(), 3, 3), whole[3:], strict=True):
        assert torch.equal(late, tensor)
    for one, zero, tensor in zip(first(Ranks(1, 2), 0, 6), first(Ranks(0, 2), 0, 6), whole, strict=True):
        assert torch.equal(zero[0], tensor[0, : zero.shape[1]])
        assert len(one) + len(zero) == len(tensor)
    assert plan_epoch(documents, 32, 2, 5, 0) != plan_epoch(documents, 32, 2, 5, 1)


def test_flat_tokens_and_stores_give_the_same_documents(tmp_path: Path) -> None:
    for name, tokens in (("frames", TOKENS), ("merged", [one.dedup() for one in TOKENS])):
        store = write_store(tmp_path / name, tokens)
        export_flat(TokenStore.open(store), tmp_path / f"{name}-flat")
        layout = toy_layout("timed", "delayed", has_durations=name == "merged")
        one, other = (unit_documents([open_tokens(path)], layout) for path in (store, tmp_path / f"{name}-flat"))
        assert one.lengths.tolist() == other.lengths.tolist() == [len(one.read(i)[0]) for i in range(len(one))]
        assert one.durations_s.tolist() == other.durations_s.tolist() == [len(tokens) / 50 for tokens in TOKENS]
        for i in range(len(one)):
            assert np.array_equal(one.read(i)[0], other.read(i)[0])


def test_long_utterances_are_scored_with_half_a_context(tmp_path: Path) -> None:
    lm = toy_lm(toy_layout(), context_steps=8)
    document = toy_layout().document(toy_tokens(29, seed=1))
    expected = 0.0
    for step in range(30):  # each target is seen from the window it is new in: 0-8, 4-12, 8-16, ...
        begin = 0 if step < 8 else 4 * ((step - 8) // 4 + 1)
        begin = min(begin, 30 - 8)
        with torch.no_grad():
            logits = lm(torch.from_numpy(document[0][begin : step + 1])[None], torch.arange(step + 1 - begin)[None])[0]
        expected -= logits[0, -1].double().log_softmax(-1)[document[1][step, 0]].item()
    assert nats_of(lm, [document])[0] == pytest.approx(expected, rel=1e-5)


def test_a_folder_gives_the_model_back_and_damage_is_named(tmp_path: Path) -> None:
    lm = toy_lm(toy_layout("timed", "delayed", (7, 5)), symbols=3)
    lm.save(tmp_path)
    loaded = UnitLm.load(tmp_path, device="cpu")
    assert (loaded.layout, loaded.shape, loaded.symbols) == (lm.layout, lm.shape, 3)
    for name, tensor in lm.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CorruptFile, match="damaged"):
        UnitLm.load(tmp_path)
    with pytest.raises(CorruptFile, match="not a language model's folder"):
        UnitLm.load(tmp_path / "nothing")


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match="neither a token store"):
        open_tokens(tmp_path)
    other = toy_layout()
    flat = open_tokens(write_store(tmp_path / "a", TOKENS))
    with pytest.raises(TokenizerMismatch, match=FINGERPRINT[:12]):
        unit_documents([flat], replace(other, fingerprint="e" * 64))
    with pytest.raises(ConfigError, match="the stores are empty"):
        unit_documents([open_tokens(write_store(tmp_path / "b", []))], other)
    whole = Documents(np.array([90]), np.array([1.0]), lambda _: other.document(TOKENS[0]), divisible=False)
    with pytest.raises(ConfigError, match="no utterance is as short"):
        next(lm_batches(whole, other, 32, 1, 0, Ranks(), 0))
    for wrong in ({"width": 15}, {"heads": 3}, {"kv_heads": 3}, {"dropout": 1.0}, {"blocks": 0}):
        with pytest.raises(ConfigError, match=r"model\."):
            LmShape(**({"blocks": 1, "width": 16, "heads": 4, "feed_forward": 8, "context_steps": 8} | wrong))
