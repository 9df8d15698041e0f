"""Drawing from a unit language model: temperature, top-k, top-p, batches, rules that stop it.

Each utterance has random numbers of its own, which follow from its seed: it comes out the same alone, among others,
and without the cache, but for rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.tokenizer_folder import require_same
from voxtok.tts.layout import IGNORED, Steps
from voxtok.tts.lm import UnitLm
from voxtok.tts.lm_reader import Reader
from voxtok.tts.stop_rules import Ended, StopRules, Watch


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is drawn."""

    temperature: float
    """Logits are divided by it; 0 takes the most likely token."""
    top_k: int | None = None
    """Draw from so many most likely tokens alone."""
    top_p: float = 1.0
    """Draw from the fewest most likely tokens that have this probability together (nucleus, Holtzman et al. 2020)."""
    repetition_share: float = 1.0
    """A token that is more than this share of the last repetition-window steps is drawn anew from all tokens
    (repetition aware sampling, VALL-E 2, Chen et al. 2024); 1 never does. Frames repeat of themselves: for merged
    rows."""
    repetition_window: int = 10
    """Steps."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError("temperature must not be negative")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError("top-k must be at least 1")
        if not 0 < self.top_p <= 1 or not 0 < self.repetition_share <= 1:
            raise ConfigError("top-p and repetition-share are shares: above 0 and at most 1")
        if self.repetition_window < 1:
            raise ConfigError("repetition-window must be at least 1")


@dataclass(frozen=True, eq=False)
class Prompt:
    """What an utterance begins with.

    Attributes:
        given: (n, columns) what it is conditioned on, which ends with the boundary.
        steps: (m, columns) its beginning; IGNORED values, in the last steps, are drawn.
    """

    given: Steps
    steps: Steps


@dataclass(frozen=True, eq=False)
class Drawn:
    """An utterance that was drawn.

    Attributes:
        tokens: of the whole utterance, the beginning that was given included.
        prompt_rows: rows of `tokens`, as the layout has them, that were given.
        ended: why it ended.
        nats: negative log probability of what was drawn, at temperature 1.
        decisions: how many tokens and ends were drawn.
    """

    tokens: TokenSequence
    prompt_rows: int
    ended: Ended
    nats: float
    decisions: int


def unconditional(lm: UnitLm, tokens: TokenSequence | None) -> Prompt:
    """A prompt of speech, or of nothing.

    Raises:
        TokenizerMismatch: tokens of another tokenizer.
    """
    given = np.array([lm.layout.boundaries], dtype=np.int64)
    if tokens is None:
        return Prompt(given, np.empty((0, lm.layout.columns), dtype=np.int64))
    require_same(lm.fingerprint, tokens.fingerprint, "the prompt")
    return Prompt(given, lm.layout.prompt(tokens))


@dataclass(eq=False)
class _Utterance:
    """One utterance while it is drawn."""

    number: int
    prompt: Prompt
    watch: Watch
    rng: np.random.Generator
    steps: list[npt.NDArray[np.int64]] = field(default_factory=list)
    ended_at: int | None = None
    prompt_rows: int = 0
    rows: int = 0
    nats: float = 0.0
    decisions: int = 0


@torch.inference_mode()
def draw_utterances(
    lm: UnitLm,
    prompts: Sequence[Prompt],
    config: SamplingConfig,
    rules: Sequence[StopRules],
    seeds: Sequence[int],
    *,
    use_cache: bool = True,
) -> list[Drawn]:
    """Go on from each prompt until the model ends the utterance or a rule does.

    Args:
        lm: in evaluation mode.
        prompts: what to go on from.
        config: how to draw.
        rules: for each prompt, when to stop. An utterance also ends, by length, where the model's context does.
        seeds: for each prompt.
        use_cache: keep keys and values; without, every step computes all steps before it again.

    Raises:
        ConfigError: a prompt fills the model's context.
    """
    active = []
    for number, (prompt, rule, seed) in enumerate(zip(prompts, rules, seeds, strict=True)):
        known = prompt.steps[~(prompt.steps == IGNORED).any(axis=1)]
        if len(prompt.given) + len(prompt.steps) >= lm.shape.context_steps:
            raise ConfigError(
                f"a prompt of {len(prompt.given) + len(prompt.steps)} steps leaves no room in the model's context of "
                f"{lm.shape.context_steps}: give a shorter one"
            )
        watch = Watch(rule, lm.layout.frame_rate_hz)
        utterance = _Utterance(number, prompt, watch, np.random.default_rng([seed]), list(known))
        utterance.prompt_rows = utterance.rows = lm.layout.num_complete(len(prompt.steps))
        active.append(utterance)
    drawn: dict[int, Drawn] = {}
    reader = Reader(lm, use_cache)
    logits = reader.begin([np.concatenate([one.prompt.given, np.array(one.steps).reshape(-1, lm.layout.columns)])
                           for one in active]) if active else ()  # fmt: skip
    while active:
        chosen = _draw_step(lm, active, logits, config)
        staying = []
        for place, utterance in enumerate(active):
            ended = _note(lm, utterance, chosen[place])
            if ended is None:
                staying.append(place)
            else:
                drawn[utterance.number] = _finished(lm, utterance, ended)
        active = [active[place] for place in staying]
        if active:
            logits = reader.go_on(np.array([utterance.steps[-1] for utterance in active]), staying)
    return [drawn[number] for number in range(len(prompts))]


def _draw_step(
    lm: UnitLm, active: Sequence[_Utterance], logits: tuple[torch.Tensor, ...], config: SamplingConfig
) -> Steps:
    """(B, columns) the next step of each utterance; counts what it costs."""
    forced = np.stack([_forced(lm, utterance) for utterance in active])
    masks = [_allowed(lm, utterance) for utterance in active]
    # Two numbers a value, used or not, so that an utterance's numbers do not depend on what is drawn.
    uniforms = np.stack([utterance.rng.random((lm.layout.columns, 2)) for utterance in active])
    chosen = np.empty_like(forced)
    for column, values in enumerate(logits):
        allowed = torch.from_numpy(np.stack([mask[column] for mask in masks])).to(values.device)
        values = values[:, : allowed.shape[1]].masked_fill(~allowed, -torch.inf)  # symbols are never drawn
        numbers = torch.from_numpy(uniforms[:, column]).to(values.device)
        drawn = draw(values, numbers[:, 0], config)
        if config.repetition_share < 1 and config.temperature > 0:
            repeated = [_is_repeated(u, column, int(d), config) for u, d in zip(active, drawn.tolist(), strict=True)]
            anew = draw(values, numbers[:, 1], SamplingConfig(temperature=config.temperature))
            drawn = torch.where(torch.tensor(repeated, device=drawn.device), anew, drawn)
        costs = -values.double().log_softmax(dim=-1).gather(1, drawn[:, None])[:, 0]
        chosen[:, column] = np.where(forced[:, column] == IGNORED, drawn.cpu().numpy(), forced[:, column])
        over = (chosen[:, 0] == lm.layout.boundaries[0]) & (column > 0)  # what stands beside the end means nothing
        counts = (forced[:, column] == IGNORED) & (allowed.sum(dim=1) > 1).cpu().numpy() & ~over
        for utterance, cost, is_decision in zip(active, costs.tolist(), counts.tolist(), strict=True):
            utterance.nats += cost if is_decision else 0.0
            utterance.decisions += is_decision
    return chosen


def draw(logits: torch.Tensor, uniforms: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    """(B,) values drawn from (B, values) logits by (B,) float64 numbers from 0 to below 1.

    Worked: probabilities 0.5, 0.3, 0.2 and top-p 0.7 leave 0.625 and 0.375; 0.6 draws the first, 0.7 the second.
    """
    if config.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities, values = (logits.double() / config.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = before < config.top_p
    if config.top_k is not None:
        kept[:, config.top_k :] = False
    kept[:, 0] = True
    ends = (probabilities * kept).cumsum(dim=-1)
    place = (ends <= uniforms[:, None] * ends[:, -1:]).sum(dim=-1)
    place = torch.minimum(place, (kept & (probabilities > 0)).sum(dim=-1) - 1)  # where rounding leaves a gap at the end
    return values.gather(1, place[:, None])[:, 0]


def _forced(lm: UnitLm, utterance: _Utterance) -> npt.NDArray[np.int64]:
    """(columns,) what the prompt says of the next step, IGNORED where it says nothing."""
    place = len(utterance.steps)
    steps = utterance.prompt.steps
    forced: npt.NDArray[np.int64] = steps[place] if place < len(steps) else np.full(lm.layout.columns, IGNORED)
    return forced


def _allowed(lm: UnitLm, utterance: _Utterance) -> tuple[npt.NDArray[np.bool_], ...]:
    step = len(utterance.steps)
    since_end = None if utterance.ended_at is None else step - utterance.ended_at
    allowed = lm.layout.allowed(step, since_end)
    end = lm.layout.may_end(step)
    if end is None or since_end is not None or utterance.watch.may_end:
        return allowed
    first = allowed[0].copy()
    first[end] = False
    return (first, *allowed[1:])


def _is_repeated(utterance: _Utterance, column: int, value: int, config: SamplingConfig) -> bool:
    recent = [int(step[column]) for step in utterance.steps[-config.repetition_window :]]
    return recent.count(value) > config.repetition_share * config.repetition_window


def _note(lm: UnitLm, utterance: _Utterance, step: npt.NDArray[np.int64]) -> Ended | None:
    """Add a step to an utterance; returns why it ends, if it does."""
    layout = lm.layout
    if utterance.ended_at is None and step[0] == layout.may_end(len(utterance.steps)):
        utterance.ended_at = len(utterance.steps)
        if not layout.tail_steps:
            return "end"
    utterance.steps.append(step)
    complete = layout.num_complete(len(utterance.steps))
    while utterance.rows < complete:
        row = layout.row(utterance.steps, utterance.rows)
        utterance.rows += 1
        stopped = utterance.watch.add(int(row[0]), layout.frames_of(row))
        if stopped is not None:
            utterance.rows = utterance.prompt_rows + utterance.watch.kept_rows
            return stopped
    if utterance.ended_at is not None and len(utterance.steps) - utterance.ended_at >= layout.tail_steps:
        return "end"
    full = len(utterance.prompt.given) + len(utterance.steps) >= lm.shape.context_steps
    return "length" if full else None


def _finished(lm: UnitLm, utterance: _Utterance, ended: Ended) -> Drawn:
    layout = lm.layout
    rows = [layout.row(utterance.steps, number) for number in range(utterance.rows)]
    every = np.stack(rows) if rows else np.empty((0, layout.streams), dtype=np.int64)
    tokens = layout.tokens_of(every)
    return Drawn(tokens, utterance.prompt_rows, ended, utterance.nats, utterance.decisions)
