"""`voxtok graph`: the words of an n-gram language model as a decoding graph, and its best paths.

graph.fst     input: labels of CTC's frames, plus one; output: words; weights: the language model's costs
words.txt     words and their numbers
graph.json    format version, the text model's hash, whether CTC's rule of repeats is exact

A graph composes CTC's labels (H), the lexicon (L) and the language model (G) by kaldifst; kaldi-decoder finds
the best path. Words outside of the language model cannot be recognized.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from voxtok.asr.hypothesis import Hypothesis
from voxtok.asr.ngram import read_arpa
from voxtok.asr.padded import Padded
from voxtok.asr.text import BLANK, SPACE, UNKNOWN, TextModel
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.runtime.files import read_description, write_bytes, write_json
from voxtok.runtime.optional import require

FORMAT = "voxtok-graph"
VERSION = 1
EXTRA = "decode"
BACKOFF = "#0"
"""Input of the language model's arcs to shorter histories, which keeps it determinizable."""
NOT_SAID = ("<eps>", "<s>", "</s>", "<unk>", "<UNK>", BACKOFF)
MOST_EXACT = 1000
"""Up to so many numbers CTC's rule of repeats is built exactly, which takes their number squared; beyond, `a a` may
also stand for two of them without a blank between."""


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """Make a decoding graph."""

    text_model: str
    """The recognizer's text model, which spells the words."""
    arpa: str
    """N-gram language model over words, as `voxtok ngram --units words` writes it."""
    out: str
    """Folder to write."""


@dataclass(frozen=True, eq=False)
class Graph:
    """An open decoding graph.

    Attributes:
        fst: kaldifst's, from labels plus one to words.
        text_model: hash of the text model whose labels these are.
    """

    fst: Any
    text_model: str

    def search(self, log_probs: Padded, *, lm_weight: float, beam: float, max_active: int) -> list[list[Hypothesis]]:
        """The best path of each utterance by CTC + lm_weight * language model; nothing where no path is whole.

        Args:
            log_probs: (B, T, V) of CTC.
            lm_weight: of the graph's scores; above 0.
            beam: paths this much worse than the best are dropped, in units of the language model's score.
            max_active: paths kept after each frame.
        """
        rows = log_probs.values.float().cpu().numpy()
        options = (lm_weight, beam, max_active)
        pairs = zip(rows, log_probs.lengths.tolist(), strict=True)
        return [self._one(row[:length], *options) if length else [Hypothesis((), 0.0, ())] for row, length in pairs]

    def _one(self, log_probs: np.ndarray[Any, Any], lm_weight: float, beam: float, max_active: int) -> list[Hypothesis]:
        kaldi = require("kaldi_decoder", EXTRA)
        decoder = kaldi.FasterDecoder(self.fst, kaldi.FasterDecoderOptions(beam=beam, max_active=max_active))
        decoder.decode(kaldi.DecodableCtc(np.ascontiguousarray(log_probs / lm_weight)))
        if not decoder.reached_final():
            return []
        _, path = decoder.get_best_path()
        _, labels, _, weight = require("kaldifst", EXTRA).get_linear_symbol_sequence(path)
        numbers, frames = collapse([label - 1 for label in labels])
        return [Hypothesis(numbers, -lm_weight * (weight.value1 + weight.value2), frames)]

    @classmethod
    def load(cls, folder: Path | str, text: TextModel) -> "Graph":
        """Open a graph's folder.

        Raises:
            CorruptFile: not a graph.
            ConfigError: it was made for another text model.
        """
        folder = Path(folder)
        if not (folder / "graph.json").exists():
            raise CorruptFile(f"{folder}: not a decoding graph (no graph.json)")
        described = read_description(folder / "graph.json", FORMAT, VERSION, ("text_model",))
        if described["text_model"] != text.sha256:
            raise ConfigError(f"{folder} was made for another text model: make it again with `voxtok graph`")
        fst = require("kaldifst", EXTRA).StdVectorFst.read(str(folder / "graph.fst"))
        if fst is None:
            raise CorruptFile(f"{folder}/graph.fst: damaged")
        return cls(fst, described["text_model"])


def collapse(labels: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of a path of labels, and the first frame of each.

    Worked: labels 0 3 3 0 3 are the numbers 3 3, from frames 1 and 4.
    """
    found: list[tuple[int, int]] = []
    frame = 0
    for label, run in groupby(labels):
        if label != BLANK:
            found.append((label, frame))
        frame += len(list(run))
    return tuple(label for label, _ in found), tuple(frame for _, frame in found)


def make_graph(text: TextModel, arpa: Path | str, out: Path | str) -> dict[str, Any]:
    """Write a graph's folder.

    Returns:
        What graph.json holds.

    Raises:
        ConfigError: no word of the language model can be spelled.
        CorruptFile: not an ARPA file.
        MissingPart: kaldifst is not installed.
    """
    kaldifst = require("kaldifst", EXTRA)
    arcs, words = read_grammar(arpa)
    grammar = kaldifst.compile("\n".join(arcs) + "\n", acceptor=False)
    kaldifst.arcsort(grammar, "ilabel")
    spelled = {word: text.encode(word) for word in words if word not in NOT_SAID}
    spelled = {word: numbers for word, numbers in spelled.items() if numbers and UNKNOWN not in numbers}
    if not spelled:
        raise ConfigError(f"{arpa}: this text model can spell none of its words")
    lexicon = kaldifst.compile("\n".join(lexicon_arcs(spelled, words, text)) + "\n", acceptor=False)
    kaldifst.arcsort(lexicon, "olabel")
    spoken = kaldifst.compose(lexicon, grammar)
    kaldifst.determinize_star(spoken)
    kaldifst.minimize_encoded(spoken)
    kaldifst.arcsort(spoken, "ilabel")
    exact = text.vocab_size <= MOST_EXACT
    every = sorted({number for numbers in spelled.values() for number in numbers} | set(separators(text)))
    helpers = range(text.vocab_size, text.vocab_size + 1 + most_alike(spelled))
    labels = ctc_labels(every, helpers, exact)
    kaldifst.arcsort(labels, "olabel")
    graph = kaldifst.compose(labels, spoken)
    kaldifst.connect(graph)
    kaldifst.arcsort(graph, "ilabel")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    graph.write(str(folder / "graph.fst"))
    write_bytes(folder / "words.txt", "".join(f"{word} {number}\n" for word, number in words.items()).encode())
    described = {
        "format": FORMAT,
        "version": VERSION,
        "text_model": text.sha256,
        "words": len(spelled),
        "left_out": sum(word not in NOT_SAID for word in words) - len(spelled),
        "states": graph.num_states,
        "exact_repeats": exact,
    }
    write_json(folder / "graph.json", described)
    return described


def read_grammar(arpa: Path | str) -> tuple[list[str], dict[str, int]]:
    """The language model as arcs over words in OpenFst's text form, and the numbers of its words.

    A state is a history; the way to the shorter one has BACKOFF as its input, so that no two arcs are alike.

    Raises:
        CorruptFile: not an ARPA file.
    """
    grams = read_arpa(arpa)
    order = max(map(len, grams))
    start = ("<s>",) if order > 1 and ("<s>",) in grams else ()
    histories = [start, *(gram for gram in [(), *grams] if len(gram) < order and gram != start)]
    state = {history: place for place, history in enumerate(histories)}
    said = sorted(gram[0] for gram in grams if len(gram) == 1 and gram[0] not in NOT_SAID)
    words = {word: number for number, word in enumerate(("<eps>", BACKOFF, *said))}

    def longest(gram: tuple[str, ...]) -> int:
        while gram not in state:
            gram = gram[1:]
        return state[gram]

    arcs = []
    for history in filter(None, histories):
        arcs.append(f"{state[history]} {longest(history[1:])} {words[BACKOFF]} 0 {-grams[history][1]}")
    for gram, (score, _) in grams.items():
        if gram[-1] == "</s>":
            arcs.append(f"{state[gram[:-1]]} {-score}")
        elif gram[-1] in words:
            number = words[gram[-1]]
            arcs.append(f"{state[gram[:-1]]} {longest(gram[len(gram) == order :])} {number} {number} {-score}")
    return arcs, words


def lexicon_arcs(spelled: Mapping[str, Sequence[int]], words: Mapping[str, int], text: TextModel) -> Iterator[str]:
    """The lexicon in OpenFst's text form: the first number writes a word, helpers tell words apart at the end.

    State 0 is the empty text; state 1 begins a word and state 2 ends one, from where a piece of its own leads back, if
    the text model separates words by one.
    """
    nothing, begin, end, free = range(4)
    backoff = text.vocab_size
    alike: Counter[tuple[int, ...]] = Counter()
    yield f"{nothing} {begin} 0 0"  # the first line's state is the first of all
    for word, numbers in spelled.items():
        alike[tuple(numbers)] += 1
        path = [*numbers, backoff + alike[tuple(numbers)]]
        states = [begin, *range(free, free + len(path) - 1), end]
        free += len(path) - 1
        for place, label in enumerate(path):
            written = words[word] if place == 0 else 0
            yield f"{states[place]} {states[place + 1]} {label} {written}"
    yield from (f"{end} {begin} {label} 0" for label in separators(text) or (0,))
    yield from (f"{state} {state} {backoff} {words[BACKOFF]}" for state in (nothing, begin, end))
    yield from (f"{nothing}", f"{end}")


def separators(text: TextModel) -> tuple[int, ...]:
    """The piece between words, of a text model whose pieces do not carry it."""
    return (text.pieces.index(SPACE),) if text.kind == "characters" else ()


def most_alike(spelled: Mapping[str, Sequence[int]]) -> int:
    """How many words are spelled alike, at most."""
    return max(Counter(map(tuple, spelled.values())).values())


def ctc_labels(numbers: Sequence[int], helpers: Sequence[int], exact: bool) -> Any:
    """CTC's rule as a transducer from labels plus one to numbers; helpers pass without a frame.

    State 0 follows a blank, state i the i-th number.
    """
    kaldifst = require("kaldifst", EXTRA)
    labels = kaldifst.StdVectorFst()
    for state in range(len(numbers) + 1):
        labels.add_state()
        labels.set_final(state, 0.0)
    labels.start = 0

    def arc(begin: int, label: int, written: int, end: int) -> None:
        labels.add_arc(begin, kaldifst.StdArc(label, written, 0.0, end))

    arc(0, BLANK + 1, 0, 0)
    for state, number in enumerate(numbers, start=1):
        arc(0, number + 1, number, state)
        arc(state, number + 1, 0, state)
        if exact:
            arc(state, BLANK + 1, 0, 0)
            for other, after in enumerate(numbers, start=1):
                if other != state:
                    arc(state, after + 1, after, other)
        else:
            arc(state, 0, 0, 0)
    for helper in helpers:
        for state in range(len(numbers) + 1):
            arc(state, 0, helper, state)
    return labels


def main(argv: Sequence[str]) -> int:
    """The command `voxtok graph`."""
    config = parse(GraphConfig, argv, "voxtok graph")
    described = make_graph(TextModel.load(config.text_model), config.arpa, config.out)
    print(
        f"{described['words']} words, {described['left_out']} cannot be spelled and are left out; "
        f"{described['states']} states -> {config.out}"
    )
    return 0
