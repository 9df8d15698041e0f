"""Which search decodes a recognizer's frames, with which settings: one `match` on the method."""

from dataclasses import dataclass
from typing import Literal

from voxtok.asr.attention_search import attention_beam
from voxtok.asr.ctc_search import ctc_greedy, ctc_prefix_beam
from voxtok.asr.graph import Graph
from voxtok.asr.hypothesis import Hypothesis
from voxtok.asr.lattice import LatticeGraph, on_device
from voxtok.asr.ngram import Fusion, read_ngrams
from voxtok.asr.padded import Padded
from voxtok.asr.recognizer import Recognizer
from voxtok.asr.transducer_search import transducer_beam, transducer_greedy
from voxtok.runtime.errors import ConfigError

Method = Literal[
    "ctc-greedy", "ctc-beam", "attention", "transducer-greedy", "transducer-beam", "graph", "lattice"
]  # fmt: skip
FUSED: tuple[Method, ...] = ("ctc-beam", "attention", "transducer-beam")
"""Methods that a language model over pieces can join."""
GRAPHS: tuple[Method, ...] = ("graph", "lattice")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How frames become text."""

    method: Method
    """ctc-greedy, ctc-beam (prefix beam search), attention (joint with CTC), transducer-greedy, transducer-beam, graph
    (words of a language model, by kaldi-decoder) or lattice (the same graph by k2)."""
    beam: int = 10
    """Hypotheses kept, in beam searches."""
    candidates: int = 20
    """Pieces that may follow a hypothesis: the most likely ones."""
    nbest: int = 1
    """Hypotheses written, at most."""
    ctc_weight: float = 0.3
    """CTC's share in the score of attention; the decoder has the rest."""
    lm: str | None = None
    """ARPA file over pieces, as `voxtok ngram --units pieces` writes it, for beam searches."""
    lm_weight: float | None = None
    """Weight of the language model, of `lm` or of the graph; needed with one."""
    bonus: float = 0.0
    """Added to the score for each piece, in beam searches."""
    most_a_frame: int = 3
    """Pieces that one frame may write, in transducer-greedy."""
    graph: str | None = None
    """Folder that `voxtok graph` wrote."""
    graph_beam: float = 16.0
    """Paths this much worse than the best are dropped, in graph and lattice."""
    max_active: int = 7000
    """Paths kept after each frame, in graph and lattice."""

    def __post_init__(self) -> None:
        if min(self.beam, self.candidates, self.nbest, self.most_a_frame, self.max_active) < 1:
            raise ConfigError("search: beam, candidates, nbest, most-a-frame and max-active must be at least 1")
        if not 0 <= self.ctc_weight <= 1:
            raise ConfigError("search.ctc-weight is a share: between 0 and 1")
        if (self.method in GRAPHS) != (self.graph is not None):
            raise ConfigError(f"search.method {self.method} {'takes no' if self.graph else 'needs a'} search.graph")
        if self.lm is not None and self.method not in FUSED:
            raise ConfigError(f"search.lm joins {', '.join(FUSED)}, not {self.method}")
        with_lm = self.lm is not None or self.graph is not None
        if with_lm != (self.lm_weight is not None) or (self.lm_weight is not None and self.lm_weight <= 0):
            raise ConfigError("search.lm-weight is above 0, and given with search.lm or search.graph only")
        if self.nbest > 1 and self.method not in FUSED:
            raise ConfigError(f"search.nbest above 1 needs one of {', '.join(FUSED)}")


def default_search(recognizer: Recognizer) -> SearchConfig:
    """A beam search with the recognizer's own heads and nothing else."""
    heads = recognizer.config.heads
    if "transducer" in heads:
        return SearchConfig(method="transducer-beam")
    if "attention" in heads:
        return SearchConfig(method="attention", ctc_weight=0.3 if "ctc" in heads else 0.0)
    return SearchConfig(method="ctc-beam")


@dataclass(frozen=True, eq=False)
class Searcher:
    """A search that is ready.

    Attributes:
        recognizer: whose frames are searched.
        config: the settings.
        fusion: the language model over pieces, and the bonus.
        graph: of words, or None.
    """

    recognizer: Recognizer
    config: SearchConfig
    fusion: Fusion
    graph: Graph | LatticeGraph | None

    @classmethod
    def open(cls, recognizer: Recognizer, config: SearchConfig) -> "Searcher":
        """Read the language model or the graph.

        Raises:
            ConfigError: the recognizer lacks the head that the method needs.
            MissingPart: a package that the method needs is not installed.
        """
        head = "ctc" if config.method in GRAPHS else config.method.split("-")[0]
        needed = [head, "ctc"] if config.method == "attention" and config.ctc_weight else [head]
        for one in needed:
            if one not in recognizer.config.heads:
                has = " and ".join(recognizer.config.heads)
                raise ConfigError(f"search.method {config.method} needs {one}; this recognizer has {has}")
        model = None if config.lm is None else read_ngrams(config.lm, recognizer.text).to(recognizer.device)
        fusion = Fusion(model, config.lm_weight or 0.0, config.bonus)
        graph = None if config.graph is None else Graph.load(config.graph, recognizer.text)
        if graph is None or config.method == "graph":
            return cls(recognizer, config, fusion, graph)
        return cls(recognizer, config, fusion, on_device(graph, recognizer.device))

    def search(self, encoded: Padded) -> list[list[Hypothesis]]:
        """Hypotheses of each utterance from the best down; none where a graph has no path. `encoded` is (B, T, D)."""
        config, recognizer = self.config, self.recognizer
        match config.method:
            case "ctc-greedy":
                return [[found] for found in ctc_greedy(self._ctc(encoded))]
            case "ctc-beam":
                return ctc_prefix_beam(
                    self._ctc(encoded),
                    beam=config.beam,
                    candidates=config.candidates,
                    fusion=self.fusion,
                    nbest=config.nbest,
                )
            case "attention":
                return attention_beam(
                    recognizer.attention_step,
                    recognizer.attention_start(encoded),
                    self._ctc(encoded) if config.ctc_weight else encoded,
                    ctc_weight=config.ctc_weight,
                    sos_eos=recognizer.text.sos_eos,
                    beam=config.beam,
                    candidates=config.candidates,
                    fusion=self.fusion,
                    nbest=config.nbest,
                )
            case "transducer-greedy":
                rows = transducer_greedy(
                    recognizer.predict,
                    recognizer.join,
                    encoded,
                    history=self._history,
                    most_a_frame=config.most_a_frame,
                )
                return [[found] for found in rows]
            case "transducer-beam":
                return transducer_beam(
                    recognizer.predict,
                    recognizer.join,
                    encoded,
                    history=self._history,
                    beam=config.beam,
                    candidates=config.candidates,
                    fusion=self.fusion,
                    nbest=config.nbest,
                )
            case "graph" | "lattice":
                assert self.graph is not None and config.lm_weight is not None
                return self.graph.search(
                    self._ctc(encoded),
                    lm_weight=config.lm_weight,
                    beam=config.graph_beam,
                    max_active=config.max_active,
                )

    @property
    def _history(self) -> int:
        assert self.recognizer.config.transducer is not None
        return self.recognizer.config.transducer.history

    def _ctc(self, encoded: Padded) -> Padded:
        return Padded(self.recognizer.ctc_log_probs(encoded), encoded.lengths)
