"""`voxtok ngram`: texts -> an n-gram language model as an ARPA file, by interpolated Kneser-Ney smoothing.

Over the text model's pieces it serves shallow fusion, over words the decoding graph. Counts are kept in memory.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from voxtok.asr.fit_text import read_texts
from voxtok.asr.ngram import write_arpa
from voxtok.asr.text import TextModel
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import write_bytes

Gram = tuple[str, ...]
BEGIN, END, UNSEEN = "<s>", "</s>", "<unk>"


@dataclass(frozen=True, kw_only=True)
class NgramConfig:
    """Make an n-gram language model."""

    texts: tuple[str, ...]
    """Token stores, Lhotse cuts, or files named .txt or .txt.gz with a text a line."""
    text_model: str
    """The recognizer's text model, which spells the texts and cuts them into pieces."""
    units: Literal["pieces", "words"]
    """What n-grams are made of: pieces for shallow fusion, words for decoding with a graph."""
    order: int
    """Longest n-gram."""
    out: str
    """ARPA file to write."""

    def __post_init__(self) -> None:
        if self.order < 1:
            raise ConfigError("order must be at least 1")


def units_of(text: str, model: TextModel, units: Literal["pieces", "words"]) -> list[str]:
    """A text as n-grams see it."""
    if units == "words":
        return model.normalization.apply(text).split()
    return [model.pieces[number] for number in model.encode(text)]


def kneser_ney(
    texts: Iterable[Sequence[str]], vocabulary: Sequence[str], order: int
) -> Iterator[tuple[Gram, float, float | None]]:
    """N-grams with natural log-probability and log-backoff, as `write_arpa` takes them.

    Interpolated Kneser-Ney (Chen & Goodman 1998) with one discount an order, n1 / (n1 + 2 n2); unigrams are
    interpolated with equal probabilities, so that every unit of the vocabulary and <unk> have one.

    Args:
        texts: units of each text.
        vocabulary: units that may follow, seen or not.
        order: longest n-gram.

    Raises:
        ConfigError: no texts.
    """
    counts = _counts(texts, order)
    every = {*vocabulary, *(gram[0] for gram in counts[0]), END, UNSEEN} - {BEGIN}
    if not counts[0]:
        raise ConfigError("there are no texts to make a language model of")
    probability: dict[Gram, float] = {(): 1 / len(every)}
    backoff: dict[Gram, float] = {}
    for of_order in counts:
        discount = _discount(of_order)
        total, kinds = _histories(of_order)
        backoff |= {history: discount * kinds[history] / total[history] for history in total}
        if () in total:
            probability |= {(unit,): backoff[()] / len(every) for unit in every}
        for gram, number in of_order.items():
            shorter = probability[gram[1:]] * backoff[gram[:-1]]
            probability[gram] = (number - discount) / total[gram[:-1]] + shorter
    probability[(BEGIN,)] = 1e-99  # by convention: it has a history's weight, and is never predicted
    for gram, value in probability.items():
        if gram:
            yield gram, math.log(value), math.log(backoff[gram]) if gram in backoff else None


def _counts(texts: Iterable[Sequence[str]], order: int) -> list[Counter[Gram]]:
    """Counts of each order: of occurrences for the longest and after <s>, else of the units that come before."""
    longest: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for units in texts:
        said = (BEGIN, *units, END)
        for end in range(2, len(said) + 1):
            size = min(order, end)
            longest[size - 1][said[end - size : end]] += 1  # shorter than `order` only after <s>
    counts = [longest[-1]]
    for size in range(order - 1, 0, -1):
        before = Counter(gram[1:] for gram in counts[0])
        counts.insert(0, before + longest[size - 1])
    return counts


def _discount(counts: Counter[Gram]) -> float:
    """Half where too little was seen to tell."""
    once, twice = (sum(number == wanted for number in counts.values()) for wanted in (1, 2))
    return once / (once + 2 * twice) if once and twice else 0.5


def _histories(counts: Counter[Gram]) -> tuple[dict[Gram, int], dict[Gram, int]]:
    """For each history, how much follows it and how many different units."""
    total: dict[Gram, int] = defaultdict(int)
    kinds: dict[Gram, int] = defaultdict(int)
    for gram, number in counts.items():
        total[gram[:-1]] += number
        kinds[gram[:-1]] += 1
    return total, kinds


def main(argv: Sequence[str]) -> int:
    """The command `voxtok ngram`."""
    config = parse(NgramConfig, argv, "voxtok ngram")
    model = TextModel.load(config.text_model)
    texts = (units_of(text, model, config.units) for text in read_texts(config.texts))
    vocabulary = model.pieces[2:-1] if config.units == "pieces" else ()
    grams = list(kneser_ney((units for units in texts if units), vocabulary, config.order))
    write_bytes(config.out, write_arpa(grams).encode())
    print(f"{len(grams)} n-grams of {config.units} -> {config.out}")
    return 0
