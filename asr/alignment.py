"""When words were said, and how sure the recognizer is: from CTC's alignment, or from the frames of a transducer.

A word lasts from the first frame of its first piece to the last frame of its last one. CTC often says a piece in one
frame and is silent after it, so words seem shorter than they are, and their ends come early.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torchaudio

from voxtok.asr.batches import ctc_frames
from voxtok.asr.examples import Example
from voxtok.asr.hypothesis import Hypothesis
from voxtok.asr.inputs import Source
from voxtok.asr.recognizer import Recognizer
from voxtok.asr.text import BLANK, TextModel

LEAST = 1e-12
"""Probabilities are at least this, so that they have logarithms."""


@dataclass(frozen=True)
class Piece:
    """One number of a hypothesis: encoder frames first .. last - 1, and its probability."""

    first: int
    last: int
    probability: float


@dataclass(frozen=True)
class Word:
    """One word of a transcript.

    Attributes:
        text: the word.
        start_s: where it begins, from the start of the audio; None where the recognizer has no alignment.
        end_s: where it ends.
        confidence: 0 .. 1, the geometric mean of its pieces' probabilities; None without an alignment.
    """

    text: str
    start_s: float | None
    end_s: float | None
    confidence: float | None


def align(recognizer: Recognizer, encoded: torch.Tensor, hypothesis: Hypothesis) -> list[Piece] | None:
    """The pieces of a hypothesis in the (T, D) encoder frames it was found in.

    With CTC, by the most likely alignment, a piece's probability being the mean over its frames of CTC's. Else, and
    where CTC would need more frames than there are, by the frames that a transducer wrote it at, with the joiner's
    probability. None where a transducer did not write it either.
    """
    numbers = hypothesis.numbers
    if not numbers:
        return []
    if recognizer.ctc is not None:
        pieces = align_ctc(recognizer.ctc(encoded).float().log_softmax(dim=-1), numbers)
        if pieces is not None:
            return pieces
    if hypothesis.frames is None or recognizer.config.transducer is None:
        return None
    history = recognizer.config.transducer.history
    said = torch.tensor([BLANK] * history + list(numbers), device=encoded.device)
    before = said.unfold(0, history, 1)[: len(numbers)]
    log_probs = recognizer.join(encoded[list(hypothesis.frames)], recognizer.predict(before))
    own = log_probs.gather(1, said[history:, None])[:, 0].exp().tolist()
    return [Piece(frame, frame + 1, probability) for frame, probability in zip(hypothesis.frames, own, strict=True)]


def align_ctc(log_probs: torch.Tensor, numbers: Sequence[int]) -> list[Piece] | None:
    """The most likely alignment of numbers with (T, V) log-probabilities; None where there are too few frames."""
    if ctc_frames(numbers) > len(log_probs):
        return None
    targets = torch.tensor([list(numbers)], dtype=torch.int32, device=log_probs.device)
    labels, scores = torchaudio.functional.forced_align(log_probs[None].contiguous(), targets, blank=BLANK)
    spans = torchaudio.functional.merge_tokens(labels[0], scores[0].exp(), blank=BLANK)
    return [Piece(span.start, span.end, span.score) for span in spans]


def frame_edges_s(example: Example, source: Source, subsampling: int, num_frames: int) -> list[float]:
    """(num_frames + 1,) where each encoder frame begins, and where the last one ends, in seconds of the audio.

    Worked: tokens that last 3, 2 and 1 frames at 50 Hz, subsampled by 2, give frames from 0, 0.1 and to 0.12 s.
    """
    lasts = example.durations if example.features is None else None
    lasts = np.ones(example.num_frames, dtype=np.int64) if lasts is None else lasts.astype(np.int64)
    edges = np.concatenate([[0], np.cumsum(lasts)]) / source.frame_rate_hz
    places = np.minimum(np.arange(num_frames + 1) * subsampling, len(lasts))
    found: list[float] = np.minimum(edges[places], example.duration_s).tolist()
    return found


def words_of(
    text: TextModel, numbers: Sequence[int], pieces: Sequence[Piece] | None, edges_s: Sequence[float]
) -> list[Word]:
    """The words of numbers, with the times and confidences of their pieces."""
    found = []
    for word, first, last in text.words(numbers):
        if pieces is None:
            found.append(Word(word, None, None, None))
        else:
            own = pieces[first:last]
            start_s, end_s = round(edges_s[own[0].first], 3), round(edges_s[own[-1].last], 3)
            found.append(Word(word, start_s, end_s, geometric_mean([piece.probability for piece in own])))
    return found


def geometric_mean(probabilities: Sequence[float]) -> float:
    """exp of the mean logarithm, to four digits."""
    return round(math.exp(sum(math.log(max(one, LEAST)) for one in probabilities) / len(probabilities)), 4)


def confidence_of(words: Sequence[Word]) -> float | None:
    """The geometric mean of the words' confidences; None where they have none."""
    known = [word.confidence for word in words if word.confidence is not None]
    return geometric_mean(known) if known else None
