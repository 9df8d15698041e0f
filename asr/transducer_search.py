"""Transducer decoding: the best symbol at each step, and modified beam search (at most one number a frame), batched.

The predictor sees a few last numbers only, so a hypothesis' state is those numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from voxtok.asr.ctc_search import HASH
from voxtok.asr.hypothesis import NEVER, NOTHING, Hypothesis, Traceback, pick
from voxtok.asr.ngram import ALONE, Fusion
from voxtok.asr.padded import Padded
from voxtok.asr.text import BLANK

Predict = Callable[[torch.Tensor], torch.Tensor]
"""Last numbers (N, history), BLANK before the first -> the predictor's output (N, P)."""
Join = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Encoder frames (N, D) and the predictor's output (N, P) -> log-probabilities (N, V), of blank too."""


def transducer_greedy(
    predict: Predict, join: Join, encoded: Padded, *, history: int, most_a_frame: int
) -> list[Hypothesis]:
    """The most likely symbol at each step, until blank moves on to the next frame; the score is that of this path.

    Args:
        predict: the predictor.
        join: the joiner.
        encoded: (B, T, D) encoder frames.
        history: numbers that the predictor sees.
        most_a_frame: numbers that one frame may write; then the next frame follows without a blank's score.
    """
    batch, frames = encoded.values.shape[:2]
    device = encoded.values.device
    last = torch.full((batch, history), BLANK, device=device)
    numbers: list[list[int]] = [[] for _ in range(batch)]
    places: list[list[int]] = [[] for _ in range(batch)]
    scores = torch.zeros(batch, device=device)
    predicted = predict(last)
    for frame in range(frames):
        rows = (frame < encoded.lengths).nonzero()[:, 0]
        for _ in range(most_a_frame):
            best, written = join(encoded.values[rows, frame], predicted[rows]).max(dim=1)
            scores[rows] += best
            rows, written = rows[written != BLANK], written[written != BLANK]
            if not len(rows):
                break
            for row, number in zip(rows.tolist(), written.tolist(), strict=True):
                numbers[row].append(number)
                places[row].append(frame)
            last[rows] = torch.cat([last[rows, 1:], written[:, None]], dim=1)
            predicted[rows] = predict(last[rows])
    rows_found = zip(numbers, scores.tolist(), places, strict=True)
    return [Hypothesis(tuple(found), score, tuple(frames)) for found, score, frames in rows_found]


@dataclass
class _Beam:
    """K hypotheses of each utterance: (B, K, history) last numbers, all else (B, K)."""

    last: torch.Tensor
    score: torch.Tensor  # log-probability of all their paths
    hashed: torch.Tensor  # identity
    parent: torch.Tensor  # identity without the last number
    extra: torch.Tensor  # of the fusion
    state: torch.Tensor  # of the language model


def transducer_beam(
    predict: Predict,
    join: Join,
    encoded: Padded,
    *,
    history: int,
    beam: int,
    candidates: int,
    fusion: Fusion = ALONE,
    nbest: int = 1,
) -> list[list[Hypothesis]]:
    """Modified beam search, as icefall has it: each frame writes one number or none, equal texts are added up.

    With a beam of everything it is exact for such paths.

    Args:
        predict: the predictor.
        join: the joiner.
        encoded: (B, T, D) encoder frames.
        history: numbers that the predictor sees.
        beam: hypotheses kept after each frame.
        candidates: numbers that may follow one, the joiner's most likely.
        fusion: a language model's share in the score, and a bonus.
        nbest: hypotheses returned of each utterance, at most.

    Returns:
        For each utterance, hypotheses from the best down.
    """
    batch, frames = encoded.values.shape[:2]
    now = _start(batch, beam, history, encoded.values.device, fusion)
    own = torch.arange(beam, device=now.hashed.device).expand(batch, beam)
    trace = Traceback()
    for frame in range(frames):
        active = (frame < encoded.lengths)[:, None]
        predicted = predict(now.last.flatten(0, 1))
        log_probs = join(encoded.values[:, frame].repeat_interleave(beam, dim=0), predicted).view(batch, beam, -1)
        grown, parents, written = _step(now, log_probs, candidates, fusion)
        trace.add(torch.where(active, parents, own), written.masked_fill(~active, NOTHING))
        pairs = zip(vars(now).values(), vars(grown).values(), strict=True)
        now = _Beam(*(torch.where(active[..., None] if old.ndim == 3 else active, new, old) for old, new in pairs))
    return trace.hypotheses(now.score + now.extra + fusion.final(now.state), nbest, frames=True)


def _start(batch: int, beam: int, history: int, device: torch.device, fusion: Fusion) -> _Beam:
    """The empty text, and nothing else."""
    score = torch.full((batch, beam), NEVER, device=device)
    score[:, 0] = 0.0
    zeros = torch.zeros(batch, beam, dtype=torch.int64, device=device)
    last = torch.full((batch, beam, history), BLANK, device=device)
    return _Beam(last, score, zeros, zeros - 1, torch.zeros_like(score), zeros + fusion.start)


def _step(
    old: _Beam, log_probs: torch.Tensor, candidates: int, fusion: Fusion
) -> tuple[_Beam, torch.Tensor, torch.Tensor]:
    """One frame: (B, K, V) log-probabilities; the new beam, places in the old one, numbers written or NOTHING."""
    candidates = min(candidates, log_probs.shape[2] - 1)
    likely, numbers = log_probs[..., BLANK + 1 :].topk(candidates, dim=2)
    numbers = numbers + BLANK + 1  # (B, K, C)
    newest = old.last[..., -1]  # (B, K)
    # Where a hypothesis grows into one that is in the beam already, their paths are added up there.
    alive = old.score > NEVER
    makes = (old.hashed[:, :, None] == old.parent[:, None]) & alive[:, :, None] & alive[:, None]  # (B, K, K)
    growing = old.score[:, :, None] + log_probs.gather(2, newest[:, None].expand(makes.shape))
    stay = torch.logaddexp(old.score + log_probs[..., BLANK], growing.masked_fill(~makes, NEVER).amax(dim=1))
    twice = (makes[:, :, None] & (numbers[..., None] == newest[:, None, None])).any(dim=3)
    grown = (old.score[..., None] + likely).masked_fill(twice, NEVER)

    gained, state = fusion.score(old.state[..., None].expand_as(numbers), numbers)
    extra = old.extra[..., None] + gained
    beam = stay.shape[1]
    _, chosen = torch.cat([stay + old.extra, (grown + extra).flatten(1)], dim=1).topk(beam, dim=1)
    stays = chosen < beam
    cell = (chosen - beam).clamp(min=0)
    parents = torch.where(stays, chosen, cell // candidates)
    appended = pick(numbers.flatten(1), cell)
    inherited = pick(old.hashed, parents)
    last = old.last.gather(1, parents[..., None].expand(old.last.shape))
    shifted = torch.cat([last[..., 1:], appended[..., None]], dim=2)

    def either(stayed: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
        return torch.where(stays, pick(stayed, parents), pick(changed.flatten(1), cell))

    new = _Beam(
        last=torch.where(stays[..., None], last, shifted),
        score=either(stay, grown),
        hashed=torch.where(stays, inherited, inherited * HASH + appended),
        parent=torch.where(stays, pick(old.parent, parents), inherited),
        extra=either(old.extra, extra),
        state=either(old.state, state),
    )
    return new, parents, torch.where(stays, NOTHING, appended)
