"""CTC prefix beam search: voxtok against SpeechBrain's and flashlight's, on the same log-probabilities in one run.

Utterances spell words of a lexicon in pieces; each piece lasts some frames, most of them blank, and some of the
probability goes to other pieces. CPU time by one thread. `nats lost` is how much less likely the best texts are than
those of voxtok, summed over all paths by torch's CTC loss, per utterance; `errors` are edits per piece against what was
said.

The default run, 32 utterances of 200 frames, 500 pieces, beam 10, on a busy CPU:

                                       ms/utterance  x voxtok  nats lost  errors %
    voxtok ctc-beam                            5.03      1.00      0.000     34.46
    voxtok ctc-greedy                          0.11      0.02      0.113     34.90
    SpeechBrain CTCPrefixBeamSearcher        100.30     19.93      0.018     34.78
    SpeechBrain CTCBeamSearcher               58.12     11.55      0.018     34.84
    flashlight (torchaudio)                    6.33      1.26      0.089     34.90

With 5000 pieces and 16 utterances, 10.44 ms; the others take 4.4, 4.7 and 1.03 times as long. Up to 6 utterances are
searched one by one: of 500 pieces, one takes 6.11 ms, and 4 take 6.62 ms each; SpeechBrain's take 31 and 7.4 times as
long, and 17 and 7.8 times.

    python benchmarks/decode.py
    python benchmarks/decode.py --vocab 5000 --utterances 16
    python benchmarks/decode.py --utterances 1
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

os.environ.setdefault("SB_DISABLE_QUIRKS", "allow_tf32,disable_jit_profiling")

import kaldialign
import numpy as np
import torch
from torch.nn.functional import ctc_loss

from voxtok.asr.ctc_search import ctc_greedy, ctc_prefix_beam
from voxtok.asr.padded import Padded

Numbers = tuple[int, ...]
Search = Callable[[Padded], list[Numbers]]


def main(argv: list[str]) -> int:
    """Parse the options and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=32)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--vocab", type=int, default=500)
    parser.add_argument("--beam", type=int, default=10)
    options = parser.parse_args(argv)
    log_probs, said = utterances(options.utterances, options.frames, options.vocab)
    print(f"{options.utterances} utterances of {options.frames} frames, {options.vocab} pieces, beam {options.beam}")
    print(f"{'':34} {'ms/utterance':>12} {'x voxtok':>9} {'nats lost':>10} {'errors %':>9}")
    ours = measured(lambda given: best(ctc_prefix_beam(given, beam=options.beam, candidates=options.beam)), log_probs)
    row("voxtok ctc-beam", ours, ours, log_probs, said)
    greedy = measured(lambda given: [one.numbers for one in ctc_greedy(given)], log_probs)
    row("voxtok ctc-greedy", greedy, ours, log_probs, said)
    for name, search in peers(options.vocab, options.beam).items():
        row(name, measured(search, log_probs), ours, log_probs, said)
    return 0


def utterances(count: int, frames: int, vocab: int) -> tuple[Padded, list[Numbers]]:
    """(B, T, V) log-probabilities, and what was said."""
    rng = np.random.default_rng(0)
    lexicon = [rng.integers(1, vocab, size=rng.integers(1, 4)).tolist() for _ in range(vocab)]
    logits = rng.normal(size=(count, frames, vocab)).astype(np.float32)
    said: list[Numbers] = []
    for row_of in logits:
        numbers: list[int] = []
        at = int(rng.integers(1, 4))
        while at < frames - 3:
            for number in lexicon[min(int(rng.zipf(1.3)) - 1, vocab - 1)]:
                if at >= frames - 3:
                    break
                lasts = int(rng.integers(1, 3))
                row_of[at : at + lasts, number] += rng.uniform(4, 10)
                row_of[at : at + lasts, rng.integers(1, vocab)] += rng.uniform(1, 7)  # what it is taken for
                numbers.append(number)
                gap = int(rng.integers(1, 5))
                row_of[at + lasts : at + lasts + gap, 0] += rng.uniform(3, 12)
                at += lasts + gap
        row_of[at:, 0] += 9
        said.append(tuple(numbers))
    lengths = torch.full((count,), frames)
    return Padded(torch.from_numpy(logits).log_softmax(dim=-1), lengths), said


def peers(vocab: int, beam: int) -> dict[str, Search]:
    """Searches of other packages that are installed."""
    found: dict[str, Search] = {}
    pieces = ["<blank>", *(f"▁p{number}" for number in range(1, vocab))]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    try:
        from speechbrain.decoders import ctc

        for name in ("CTCPrefixBeamSearcher", "CTCBeamSearcher"):
            searcher = getattr(ctc, name)(blank_index=0, vocab_list=pieces, beam_size=beam, topk=1)
            found[f"SpeechBrain {name}"] = partial(speechbrain_texts, searcher, numbers)
    except ImportError:
        print("SpeechBrain is not installed")
    try:
        from torchaudio.models.decoder import ctc_decoder

        decoder = ctc_decoder(
            lexicon=None, tokens=[*pieces, "|"], blank_token="<blank>", sil_token="|", beam_size=beam,
            beam_size_token=beam, log_add=True,
        )  # fmt: skip
        found["flashlight (torchaudio)"] = partial(flashlight_texts, decoder, vocab)
    except (ImportError, RuntimeError):
        print("flashlight-text is not installed")
    return found


def speechbrain_texts(searcher: Any, numbers: dict[str, int], given: Padded) -> list[Numbers]:
    """The best text of each utterance."""
    return [tuple(numbers[f"▁{piece}"] for piece in nbest[0].text.split()) for nbest in searcher(given.values)]


def flashlight_texts(decoder: Any, vocab: int, given: Padded) -> list[Numbers]:
    """The best text of each utterance; the silence it insists on never occurs."""
    silence = torch.full((*given.values.shape[:2], 1), -1e4)
    found = decoder(torch.cat([given.values, silence], dim=2), given.lengths)
    return [tuple(int(n) for n in nbest[0].tokens.tolist() if 0 < n < vocab) for nbest in found]


def best(found: Sequence[Sequence[Any]]) -> list[Numbers]:
    """The best numbers of each utterance."""
    return [nbest[0].numbers for nbest in found]


def measured(search: Search, log_probs: Padded) -> tuple[float, list[Numbers]]:
    """CPU milliseconds an utterance, and what was found."""
    search(Padded(log_probs.values[:1], log_probs.lengths[:1]))
    began = time.process_time()
    found = search(log_probs)
    return 1000 * (time.process_time() - began) / len(found), found


def row(
    name: str, one: tuple[float, list[Numbers]], ours: tuple[float, list[Numbers]], given: Padded, said: list[Numbers]
) -> None:
    """Print a line of the table."""
    lost = (likelihood(given, ours[1]) - likelihood(given, one[1])).mean()
    edits = sum(kaldialign.edit_distance(list(s), list(f))["total"] for s, f in zip(said, one[1], strict=True))
    errors = 100 * edits / sum(map(len, said))
    print(f"{name:34} {one[0]:12.2f} {one[0] / ours[0]:9.2f} {lost:10.3f} {errors:9.2f}", flush=True)


def likelihood(given: Padded, texts: list[Numbers]) -> torch.Tensor:
    """(B,) log-probability of each text."""
    flat = torch.tensor([number for text in texts for number in text])
    lengths = torch.tensor([len(text) for text in texts])
    return -ctc_loss(given.values.transpose(0, 1), flat, given.lengths, lengths, reduction="none")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
