"""Slow oracle of the transducer's loss: a sum over every path, one by one; CTC's is in reference_asr.py."""

from collections.abc import Iterator, Sequence

from tests.reference_asr import log_sum

BLANK = 0


def transducer_paths(frames: int, pieces: int) -> Iterator[tuple[bool, ...]]:
    """Every order of `pieces` emissions (True) and `frames` blanks (False); the last step is a blank."""

    def orders(blanks: int, emissions: int) -> Iterator[tuple[bool, ...]]:
        if blanks == 0 and emissions == 0:
            yield ()
        if blanks:
            yield from ((False, *rest) for rest in orders(blanks - 1, emissions))
        if emissions:
            yield from ((True, *rest) for rest in orders(blanks, emissions - 1))

    return ((*path, False) for path in orders(frames - 1, pieces))


def transducer_loss(log_probs: Sequence[Sequence[Sequence[float]]], text: Sequence[int]) -> float:
    """Minus the log of the summed probability of all paths; log_probs[t][s][v] after s pieces at frame t."""
    scores = []
    for path in transducer_paths(len(log_probs), len(text)):
        frame = said = 0
        score = 0.0
        for emits in path:
            score += log_probs[frame][said][text[said] if emits else BLANK]
            frame, said = (frame, said + 1) if emits else (frame + 1, said)
        scores.append(score)
    return -log_sum(scores)
