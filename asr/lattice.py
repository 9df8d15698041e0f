"""Decoding graphs on the GPU, a batch at a time, by k2 where it is installed; k2 comes from k2-fsa.github.io, not PyPI.

The graph is that of `voxtok graph`, as an acceptor of labels without epsilons: words follow from the labels.
"""

from dataclasses import dataclass
from typing import Any

import torch

from voxtok.asr.graph import Graph, collapse
from voxtok.asr.hypothesis import Hypothesis
from voxtok.asr.padded import Padded
from voxtok.runtime.errors import MissingPart
from voxtok.runtime.optional import require

OUTPUT_BEAM = 8.0
"""Paths of the lattice that are this much worse than its best are dropped; icefall's default."""


@dataclass(frozen=True, eq=False)
class LatticeGraph:
    """A graph that k2 has on a device.

    Attributes:
        fsa: k2's, over labels with 0 for blank; its scores are the language model's log-probabilities.
    """

    fsa: Any

    def search(self, log_probs: Padded, *, lm_weight: float, beam: float, max_active: int) -> list[list[Hypothesis]]:
        """As `Graph.search`; the beam is in units of log-probability."""
        k2 = k2_module()
        order = torch.argsort(log_probs.lengths, descending=True, stable=True)  # as k2 wants it
        lengths = log_probs.lengths[order].cpu()
        segments = torch.stack([order.cpu(), torch.zeros_like(lengths), lengths], dim=1).int()
        dense = k2.DenseFsaVec(log_probs.values.float().contiguous(), segments)
        graph = self.fsa.clone()
        graph.scores = graph.scores * lm_weight
        lattice = k2.intersect_dense_pruned(
            graph,
            dense,
            search_beam=beam,
            output_beam=OUTPUT_BEAM,
            min_active_states=30,
            max_active_states=max_active,
        )
        best = k2.shortest_path(lattice, use_double_scores=True)
        scores = best.get_tot_scores(use_double_scores=True, log_semiring=False).tolist()
        found: list[list[Hypothesis]] = [[] for _ in lengths]
        for place, utterance in enumerate(order.tolist()):
            labels = best[place].labels.tolist()[:-1]  # the last one ends the path
            if len(labels) == int(lengths[place]):
                numbers, frames = collapse(labels)
                found[utterance] = [Hypothesis(numbers, scores[place], frames)]
        return found


def on_device(graph: Graph, device: torch.device) -> LatticeGraph:
    """The graph as k2 takes it.

    Raises:
        MissingPart: k2 is not installed.
    """
    k2 = k2_module()
    fsa = k2.Fsa.from_openfst("\n".join(map(_accepting, str(graph.fst).splitlines())), acceptor=True)
    fsa = k2.connect(k2.remove_epsilon(fsa))
    labels = fsa.labels.clone()
    labels[labels > 0] -= 1  # from labels plus one; -1 ends a path
    fsa.labels = labels
    return LatticeGraph(k2.arc_sort(fsa).to(device))


def k2_module() -> Any:
    """k2 itself.

    Raises:
        MissingPart: k2 is not installed; says where it is found, which is not where pip looks.
    """
    try:
        return require("k2", "k2")
    except MissingPart as error:
        raise MissingPart(
            f"this needs k2 ({error.__cause__}): install the wheel for your torch from https://k2-fsa.github.io/k2, "
            "not PyPI's, which is for torch 1.13"
        ) from error


def _accepting(line: str) -> str:
    """A line of OpenFst's text form without the output label: `from to input output cost` -> `from to input cost`."""
    fields = line.split()
    return " ".join(fields if len(fields) <= 2 else fields[:3] + fields[4:])
