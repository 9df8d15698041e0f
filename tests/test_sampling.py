"""Drawing utterances: with the cache as without, batched as alone, and in the form that the tokens have."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.toy_lm import first_head, toy_layout, toy_lm, toy_tokens
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import ConfigError, TokenizerMismatch
from voxtok.tokenize.patterns import PatternName
from voxtok.tts.layout import IGNORED, Rows
from voxtok.tts.sampling import Drawn, SamplingConfig, draw, draw_utterances, unconditional
from voxtok.tts.stop_rules import StopRules

LAYOUTS: list[tuple[Rows, PatternName, tuple[int, ...]]] = [
    ("frames", "parallel", (7,)),
    ("frames", "parallel", (7, 5)),
    ("frames", "flattened", (7, 5, 3)),
    ("frames", "delayed", (7, 5, 3)),
    ("timed", "delayed", (7,)),
    ("timed", "flattened", (7,)),
    ("merged", "parallel", (7,)),
]
ANYTHING = StopRules(max_s=0.4, loop_s=9.0, stuck_tokens=0)
GREEDY = SamplingConfig(temperature=0.0)
WARM = SamplingConfig(temperature=1.0, top_k=5, top_p=0.95)


def drawn(
    lm_of: tuple[Rows, PatternName, tuple[int, ...]],
    config: SamplingConfig,
    prompts: list[int],
    *,
    use_cache: bool = True,
    rules: StopRules = ANYTHING,
    seeds: list[int] | None = None,
) -> list[Drawn]:
    """Go on from prompts of so many frames; 0 is none."""
    rows, pattern, sizes = lm_of
    lm = toy_lm(toy_layout(rows, pattern, sizes), context_steps=200)
    made = [unconditional(lm, toy_tokens(count, sizes, seed=count) if count else None) for count in prompts]
    every = [rules] * len(made)
    return draw_utterances(lm, made, config, every, seeds or list(range(len(made))), use_cache=use_cache)


def codes(utterances: list[Drawn]) -> list[list[list[int]]]:
    durations = [one.tokens.durations for one in utterances]
    return [
        np.concatenate([one.tokens.codes, [] if d is None else d[:, None]], axis=1).tolist()
        if d is not None
        else one.tokens.codes.tolist()
        for one, d in zip(utterances, durations, strict=True)
    ]


@pytest.mark.parametrize("lm_of", LAYOUTS)
@pytest.mark.parametrize("config", [GREEDY, WARM])
def test_cached_is_uncached_and_batched_is_alone(
    lm_of: tuple[Rows, PatternName, tuple[int, ...]], config: SamplingConfig
) -> None:
    together = drawn(lm_of, config, [0, 3, 11])
    assert codes(together) == codes(drawn(lm_of, config, [0, 3, 11], use_cache=False))
    for i, prompt in enumerate((0, 3, 11)):
        alone = drawn(lm_of, config, [prompt], seeds=[i])
        assert codes(alone) == [codes(together)[i]]
        assert (alone[0].ended, alone[0].decisions) == (together[i].ended, together[i].decisions)
        assert alone[0].nats == pytest.approx(together[i].nats, rel=1e-4)


def test_greedy_is_what_transformers_generates() -> None:
    lm = toy_lm(toy_layout(), context_steps=200)
    found = draw_utterances(lm, [unconditional(lm, toy_tokens(5))], GREEDY, [ANYTHING], [0])[0]
    steps = [7, *toy_tokens(5).codes[:, 0].tolist()]
    while len(steps) - 1 < len(found.tokens):
        with torch.no_grad():
            logits = lm(torch.tensor(steps)[None, :, None], torch.arange(len(steps))[None])[0][0, -1]
        steps.append(int(logits.argmax()))
    assert steps[1:] == found.tokens.codes[:, 0].tolist()


def test_equal_seeds_give_equal_tokens_and_others_do_not() -> None:
    lm_of = LAYOUTS[0]
    assert codes(drawn(lm_of, WARM, [4], seeds=[1])) == codes(drawn(lm_of, WARM, [4], seeds=[1]))
    several = codes(drawn(lm_of, WARM, [4] * 4, seeds=[1, 2, 3, 1]))
    assert several[0] == several[3]
    assert several[0] != several[1] != several[2]


@pytest.mark.parametrize("lm_of", LAYOUTS)
def test_prompts_are_kept_and_what_was_drawn_is_an_utterance(
    lm_of: tuple[Rows, PatternName, tuple[int, ...]],
) -> None:
    rows, pattern, sizes = lm_of
    layout = toy_layout(rows, pattern, sizes)
    lm = toy_lm(layout, context_steps=200)
    prompt = toy_tokens(9, sizes, seed=5)
    begun = [unconditional(lm, prompt)] * 8
    rules = [StopRules(max_s=0.5, loop_s=9.0, stuck_tokens=0)] * 8
    for found in draw_utterances(lm, begun, SamplingConfig(temperature=1.5), rules, list(range(8))):
        whole = found.tokens
        assert layout.rows_of(whole).shape[1] == layout.streams  # in range, in the tokenizer's form
        if rows != "merged":
            assert whole.expand().codes[:9].tolist() == prompt.codes.tolist()
            assert whole.duration_s <= prompt.duration_s + 0.5 + 4 / 50  # the last row may be longer than a frame
        assert found.ended in ("end", "length")
        assert whole.durations is None


@pytest.mark.parametrize("lm_of", [lm_of for lm_of in LAYOUTS if lm_of[0] == "frames"])
def test_an_utterance_costs_what_its_decisions_cost_among_what_is_allowed(
    lm_of: tuple[Rows, PatternName, tuple[int, ...]],
) -> None:
    rows, pattern, sizes = lm_of
    layout = toy_layout(rows, pattern, sizes)
    lm = toy_lm(layout, context_steps=200)
    rules = StopRules(max_s=3.0, loop_s=9.0, stuck_tokens=0)
    prompts = [unconditional(lm, None)] * 10
    every = draw_utterances(lm, prompts, SamplingConfig(temperature=1.0), [rules] * 10, list(range(10)))
    found = next(one for one in every if one.ended == "end" and len(one.tokens) > 1)
    inputs, targets = layout.document(found.tokens)
    with torch.no_grad():
        logits = lm(torch.from_numpy(inputs)[None], torch.arange(len(inputs))[None])
    nats, decisions, ended_at = 0.0, 0, None
    for step, wanted in enumerate(targets.tolist()):
        masks = layout.allowed(step, None if ended_at is None else step - ended_at)
        if wanted[0] == layout.may_end(step) and ended_at is None:
            ended_at = step
        for column, value in enumerate(wanted):
            if value != IGNORED and masks[column].sum() > 1:
                values = logits[column][0, step].double().masked_fill(~torch.from_numpy(masks[column]), -torch.inf)
                nats -= values.log_softmax(dim=-1)[value].item()
                decisions += 1
    assert found.decisions == decisions
    assert found.nats == pytest.approx(nats, rel=1e-4)


def test_the_model_ends_no_utterance_before_min_s() -> None:
    lm = toy_lm(toy_layout(), context_steps=200)
    with torch.no_grad():
        first_head(lm).zero_()  # every value is as likely: it would end soon
    rules = StopRules(max_s=2.0, min_s=1.0, loop_s=9.0, stuck_tokens=0)
    prompts = [unconditional(lm, None)] * 20
    lengths = [
        one.tokens.duration_s
        for one in draw_utterances(lm, prompts, SamplingConfig(temperature=1.0), [rules] * 20, list(range(20)))
    ]
    assert min(lengths) >= 1.0
    assert min(lengths) < 1.3  # and then it does end


def test_loops_are_stopped_and_cut() -> None:
    """Greedy choices of a small model soon go round in circles."""
    lm = toy_lm(toy_layout(), context_steps=200, seed=4)
    with torch.no_grad():
        first_head(lm)[7] = 0.0
    rules = StopRules(max_s=3.0, loop_rounds=3, loop_s=0.5, stuck_tokens=3, stuck_s=0.5)
    found = draw_utterances(lm, [unconditional(lm, toy_tokens(4))], GREEDY, [rules], [0])[0]
    assert found.ended in ("loop", "stuck")
    assert found.tokens.duration_s < 1.0


def test_drawing_as_worked() -> None:
    """0.5 0.3 0.2: top-p 0.7 leaves 0.625 and 0.375; top-k 1 leaves one; temperature 0 takes the first."""
    logits = torch.tensor([[0.3, 0.5, 0.2]]).log().repeat(4, 1)
    numbers = torch.tensor([0.0, 0.6, 0.7, 0.999], dtype=torch.float64)
    nucleus = SamplingConfig(temperature=1.0, top_p=0.7)
    assert draw(logits, numbers, nucleus).tolist() == [1, 1, 0, 0]
    assert draw(logits, numbers, SamplingConfig(temperature=1.0)).tolist() == [1, 0, 0, 2]
    assert draw(logits, numbers, SamplingConfig(temperature=1.0, top_k=1)).tolist() == [1, 1, 1, 1]
    assert draw(logits, numbers, SamplingConfig(temperature=0.0)).tolist() == [1, 1, 1, 1]
    masked = logits.masked_fill(torch.tensor([True, False, True]), -torch.inf)
    assert draw(masked, numbers, SamplingConfig(temperature=1.0)).tolist() == [1, 1, 1, 1]


def test_drawn_shares_are_the_probabilities() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().repeat(20000, 1)
    numbers = torch.from_numpy(np.random.default_rng(0).random(20000))
    shares = draw(logits, numbers, SamplingConfig(temperature=1.0)).bincount(minlength=4) / 20000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.015, rtol=0)
    cold = draw(logits, numbers, SamplingConfig(temperature=0.5)).bincount(minlength=4) / 20000
    torch.testing.assert_close(cold, torch.tensor([1.0, 4.0, 9.0, 16.0]) / 30, atol=0.015, rtol=0)


def test_repeated_tokens_are_drawn_anew_from_all() -> None:
    """A nucleus of one token would say it for ever; repetition awareness breaks out."""
    lm = toy_lm(toy_layout(), context_steps=200)
    with torch.no_grad():
        first_head(lm).zero_()
    narrow = SamplingConfig(temperature=1.0, top_k=1)
    aware = replace(narrow, repetition_share=0.2)
    rules = [StopRules(max_s=0.8, min_s=0.7, loop_s=9.0, stuck_tokens=0)]
    for config, few in ((narrow, True), (aware, False)):
        found = draw_utterances(lm, [unconditional(lm, None)], config, rules, [3])[0]
        assert (len(set(found.tokens.codes[:, 0].tolist())) == 1) == few


def test_bad_input_is_named() -> None:
    lm = toy_lm(toy_layout(), context_steps=16)
    with pytest.raises(ConfigError, match="leaves no room"):
        draw_utterances(lm, [unconditional(lm, toy_tokens(16))], GREEDY, [ANYTHING], [0])
    other = TokenSequence(toy_tokens(3).codes, 50.0, "e" * 64)
    with pytest.raises(TokenizerMismatch, match="the prompt"):
        unconditional(lm, other)
    assert draw_utterances(lm, [], GREEDY, [], []) == []
    for wrong in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"repetition_window": 0}):
        with pytest.raises(ConfigError):
            SamplingConfig(**({"temperature": 1.0} | wrong))


def test_the_context_ends_an_utterance() -> None:
    lm = toy_lm(toy_layout(), context_steps=16)
    with torch.no_grad():
        first_head(lm)[7] = 0.0
    found = draw_utterances(
        lm, [unconditional(lm, toy_tokens(3))], WARM, [replace(ANYTHING, max_s=0.8, min_s=0.7)], [0]
    )[0]
    assert (found.ended, len(found.tokens)) == ("length", 15)
