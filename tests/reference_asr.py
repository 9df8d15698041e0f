"""Slow oracles of decoding and scoring: loops over everything there is, sharing no code with the product."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

Numbers = tuple[int, ...]
Table = Sequence[Sequence[float]]
BLANK = 0


def log_sum(values: Sequence[float]) -> float:
    """log of the sum of exp."""
    top = max(values, default=-math.inf)
    return top if top == -math.inf else top + math.log(sum(math.exp(value - top) for value in values))


def collapse(labels: Sequence[int]) -> Numbers:
    """Merge repeats, then leave out blanks."""
    merged = [label for place, label in enumerate(labels) if place == 0 or labels[place - 1] != label]
    return tuple(label for label in merged if label != BLANK)


def ctc_sums(log_probs: Table) -> dict[Numbers, float]:
    """Log-probability of every text that T frames of V labels can say, summed over all V^T paths."""
    paths: dict[Numbers, list[float]] = defaultdict(list)
    for labels in itertools.product(range(len(log_probs[0])), repeat=len(log_probs)):
        paths[collapse(labels)].append(sum(row[label] for row, label in zip(log_probs, labels, strict=True)))
    return {text: log_sum(scores) for text, scores in paths.items()}


def best_alignment(log_probs: Table, text: Numbers) -> float:
    """Log-probability of the best path that says `text`."""
    every = itertools.product(range(len(log_probs[0])), repeat=len(log_probs))
    return max(
        sum(row[label] for row, label in zip(log_probs, labels, strict=True))
        for labels in every
        if collapse(labels) == text
    )


def one_symbol_a_frame(joint: Callable[[int, Numbers], Sequence[float]], frames: int) -> dict[Numbers, float]:
    """Log-probability of every text of a transducer that writes at most one number a frame, over all alignments.

    `joint(frame, written)` are the log-probabilities of the next number, blank among them.
    """
    paths: dict[Numbers, list[float]] = defaultdict(list)
    vocab_size = len(joint(0, ()))
    for labels in itertools.product(range(vocab_size), repeat=frames):
        score = 0.0
        written: Numbers = ()
        for frame, label in enumerate(labels):
            score += joint(frame, written)[label]
            written = written if label == BLANK else (*written, label)
        paths[written].append(score)
    return {text: log_sum(scores) for text, scores in paths.items()}


def arpa_score(grams: dict[tuple[str, ...], tuple[float, float]], words: Sequence[str]) -> float:
    """Sum of log10 probabilities of the words after <s>, by the recursion of the ARPA format."""
    order = max(map(len, grams))

    def probability(history: tuple[str, ...], word: str) -> float:
        if (*history, word) in grams:
            return grams[(*history, word)][0]
        if not history:
            return grams[("<unk>",)][0]
        return grams.get(history, (0.0, 0.0))[1] + probability(history[1:], word)

    said = ["<s>"]
    total = 0.0
    for word in words:
        total += probability(tuple(said[len(said) - order + 1 if len(said) >= order else 0 :]), word)
        said.append(word)
    return total


def texts_up_to(vocab: Sequence[int], length: int) -> Iterator[Numbers]:
    """Every sequence of at most `length` numbers."""
    for size in range(length + 1):
        yield from itertools.product(vocab, repeat=size)


def edits(ref: Sequence[str], hyp: Sequence[str]) -> int:
    """Insertions, deletions and substitutions, by the plain recurrence."""
    if not ref or not hyp:
        return len(ref) + len(hyp)
    if ref[-1] == hyp[-1]:
        return edits(ref[:-1], hyp[:-1])
    return 1 + min(edits(ref[:-1], hyp), edits(ref, hyp[:-1]), edits(ref[:-1], hyp[:-1]))
