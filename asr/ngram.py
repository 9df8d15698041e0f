"""N-gram language models over the text model's pieces, from ARPA files, looked up for a whole beam at once.

An n-gram is an arc: from the state of its history, over its last word, to the longest history known for what follows.
Arcs are a sorted array, so a lookup is one search for all, and as many more as there are orders to back off to.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from voxtok.asr.hypothesis import NEVER
from voxtok.asr.text import BLANK, UNKNOWN, TextModel
from voxtok.runtime.errors import ConfigError, CorruptFile

Gram = tuple[int, ...]
EMPTY = 0
"""The state without a history."""


@dataclass(frozen=True, eq=False)
class NgramModel:
    """Natural log-probabilities of number after number; 0 .. V - 1 are the text model's, sos/eos ends a sentence.

    Attributes:
        keys: (A,) int64, state * V + number of each arc, sorted.
        scores: (A,) float32 log-probability.
        following: (A,) int64 state after the arc.
        backoff: (S,) float32 log-weight of the state's shorter history.
        shorter: (S,) int64 the state of that history.
        order: the longest n-gram.
        start: the state at the beginning of a sentence.
        vocab_size: V.
    """

    keys: torch.Tensor
    scores: torch.Tensor
    following: torch.Tensor
    backoff: torch.Tensor
    shorter: torch.Tensor
    order: int
    start: int
    vocab_size: int

    def score(self, states: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each number after each state, and the next state; all of one shape.

        What the model has never seen, not even as <unk>, has log-probability -inf.
        """
        total = torch.zeros(states.shape, dtype=self.scores.dtype, device=states.device)
        after = torch.full_like(states, EMPTY)
        todo = torch.ones_like(states, dtype=torch.bool)
        for _ in range(self.order):
            wanted = states * self.vocab_size + numbers
            place = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
            found = todo & (self.keys[place] == wanted)
            total = total + torch.where(found, self.scores[place], torch.where(todo, self.backoff[states], 0.0))
            after = torch.where(found, self.following[place], after)
            todo, states = todo & ~found, self.shorter[states]
        return total.masked_fill(todo, NEVER), after

    def final(self, states: torch.Tensor) -> torch.Tensor:
        """Log-probability that the sentence ends after each state."""
        return self.score(states, torch.full_like(states, self.vocab_size - 1))[0]

    def to(self, device: torch.device) -> "NgramModel":
        """The same on a device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Fusion:
    """Shallow fusion: what is added to the score of a hypothesis beside its acoustics.

    Attributes:
        model: the language model; None for none.
        weight: of its log-probabilities.
        bonus: added for each number, against the preference of language models and decoders for short texts.
    """

    model: NgramModel | None = None
    weight: float = 0.0
    bonus: float = 0.0

    @property
    def adds(self) -> bool:
        """Whether anything is added."""
        return self.model is not None or self.bonus != 0

    @property
    def start(self) -> int:
        """State at the beginning of a sentence."""
        return EMPTY if self.model is None else self.model.start

    def score(self, states: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What each number adds after each state, and the next state; all of one shape."""
        if self.model is None:
            return torch.full(states.shape, self.bonus, device=states.device), states
        scores, after = self.model.score(states, numbers)
        return self.weight * scores + self.bonus, after

    def final(self, states: torch.Tensor) -> torch.Tensor:
        """What the end of the sentence adds."""
        if self.model is None:
            return torch.zeros(states.shape, device=states.device)
        return self.weight * self.model.final(states)


ALONE = Fusion()
"""Nothing is added."""


def read_ngrams(path: Path | str, text: TextModel) -> NgramModel:
    """An ARPA file over the pieces of a text model, such as `▁the`, as `voxtok ngram` writes it.

    Pieces that it lacks have the probability of its <unk>; words that are no pieces are left out.

    Raises:
        CorruptFile: not an ARPA file.
        ConfigError: it is not over these pieces: some are missing, and it has no <unk>.
    """
    numbers = {piece: number for number, piece in enumerate(text.pieces) if number not in (BLANK, text.sos_eos)}
    begin = text.vocab_size  # a number of its own, which no arc is over
    numbers |= {"</s>": text.sos_eos, "<s>": begin}
    grams: dict[Gram, tuple[float, float]] = {}
    for words, scores in read_arpa(path).items():
        gram = tuple(numbers.get(word, -1) for word in words)
        if -1 not in gram:
            grams[gram] = scores
    lacking = [number for number in range(UNKNOWN + 1, text.vocab_size) if (number,) not in grams]
    if lacking and (UNKNOWN,) not in grams:
        raise ConfigError(
            f"{path} has no {text.pieces[lacking[0]]!r} and no <unk>: "
            "a language model for shallow fusion is over the text model's pieces, as `voxtok ngram` makes it"
        )
    for number in lacking:
        grams[(number,)] = (grams[(UNKNOWN,)][0], 0.0)
    return compile_ngrams(grams, begin=begin, vocab_size=text.vocab_size)


def compile_ngrams(grams: dict[Gram, tuple[float, float]], *, begin: int, vocab_size: int) -> NgramModel:
    """The arrays of {n-gram: (log-probability, log-backoff)}; `begin` is the number of <s>.

    Every n-gram's history must be an n-gram too.
    """
    order = max(map(len, grams))
    histories = [(), *sorted(gram for gram in grams if len(gram) < order)]
    state = {history: place for place, history in enumerate(histories)}

    def longest(gram: Gram) -> int:
        while gram not in state:
            gram = gram[1:]
        return state[gram]

    arcs = sorted(
        (state[gram[:-1]] * vocab_size + gram[-1], score, longest(gram[len(gram) == order :]))
        for gram, (score, _) in grams.items()
        if gram[-1] != begin
    )
    keys, scores, following = zip(*arcs, strict=True)
    return NgramModel(
        keys=torch.tensor(keys),
        scores=torch.tensor(scores),
        following=torch.tensor(following),
        backoff=torch.tensor([grams[history][1] if history else 0.0 for history in histories]),
        shorter=torch.tensor([longest(history[1:]) for history in histories]),
        order=order,
        start=longest((begin,)),
        vocab_size=vocab_size,
    )


def read_arpa(path: Path | str) -> dict[tuple[str, ...], tuple[float, float]]:
    """The n-grams of an ARPA file: words -> natural log-probability, and natural log of the backoff weight.

    Raises:
        CorruptFile: no such file, a line that is none of the format's, or an n-gram whose first words are none.
    """
    try:
        with open(path, encoding="utf-8") as file:
            grams = {words: (score * math.log(10), backoff * math.log(10)) for words, score, backoff in _lines(file)}
    except (OSError, ValueError, IndexError) as error:
        raise CorruptFile(f"{path}: not an ARPA file ({error})") from error
    orphan = next((gram for gram in grams if gram[:-1] and gram[:-1] not in grams), None)
    if orphan is not None or not grams:
        what = "no n-grams" if orphan is None else f"`{' '.join(orphan)}` without its first words"
        raise CorruptFile(f"{path}: not an ARPA file ({what})")
    return grams


def _lines(file: Iterable[str]) -> Iterator[tuple[tuple[str, ...], float, float]]:
    order = 0
    for line in file:
        line = line.strip(" \t\r\n")
        if line.startswith("\\") and line.endswith("-grams:"):
            order = int(line[1 : -len("-grams:")])
        elif order and line and not line.startswith("\\"):
            fields = line.split()
            yield tuple(fields[1 : order + 1]), float(fields[0]), float([*fields[order + 1 :], "0"][0])


def write_arpa(grams: Iterable[tuple[tuple[str, ...], float, float | None]]) -> str:
    """An ARPA file's text from (words, natural log-probability, natural log-backoff or None), in any order."""
    by_order: dict[int, list[str]] = {}
    for words, score, backoff in sorted(grams):
        tail = "" if backoff is None else f"\t{backoff / math.log(10):.7f}"
        by_order.setdefault(len(words), []).append(f"{max(score / math.log(10), -99):.7f}\t{' '.join(words)}{tail}")
    counts = "\n".join(f"ngram {order}={len(lines)}" for order, lines in sorted(by_order.items()))
    parts = [f"\\{order}-grams:\n" + "\n".join(lines) for order, lines in sorted(by_order.items())]
    return "\\data\\\n" + counts + "\n\n" + "\n\n".join(parts) + "\n\n\\end\\\n"
