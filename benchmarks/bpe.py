"""Subword units over tokens: voxtok against Hugging Face's tokenizers, on the same tokens in one run.

Tokens are words of 4-12 tokens from a lexicon, drawn by Zipf's law, with one token in ten replaced, in utterances of
700; or those of a token store. Both libraries see one character a token and an utterance as one word. CPU time;
"M tokens/s" is tokens in, arrays of pieces out, by one thread.

The default run, 2 M tokens, on a busy CPU: 84 % of encoding is sentencepiece's own.

                             train, CPU s  M tokens/s  tokens a piece
    voxtok bpe                        1.2        5.40            1.55
    voxtok bpe, sampled                          5.10            1.44
    tokenizers bpe                    2.1        4.49            1.55
    voxtok unigram                   18.8        6.74            1.69
    voxtok unigram, sampled                      3.39            1.55
    tokenizers unigram              114.8        1.78            1.69

    python benchmarks/bpe.py
    python benchmarks/bpe.py --store exp/tokens --vocab 5000
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, trainers

from voxtok.manifests.characters import as_text
from voxtok.manifests.store import TokenStore
from voxtok.manifests.subwords import Kind, Subwords, train_subwords

UTTERANCE_TOKENS = 700
Sequences = list[npt.NDArray[np.int64]]


def main(argv: list[str]) -> int:
    """Parse the options and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000_000, help="how many to encode; half as many to train on")
    parser.add_argument("--units", type=int, default=1000, help="different tokens")
    parser.add_argument("--vocab", type=int, default=3000, help="pieces")
    parser.add_argument("--store", help="tokens of a store instead")
    options = parser.parse_args(argv)
    units, sequences = options.units, words(options.tokens, options.units)
    if options.store:
        store = TokenStore.open(options.store)
        units, sequences = store.vocab_size, [tokens.codes[:, 0].astype(np.int64) for _, tokens in store]
    train_on = sequences[: max(len(sequences) // 2, 1)]
    count = sum(map(len, sequences))
    print(f"{count / 1e6:.2f} M tokens of {units}, {options.vocab} pieces")
    print(f"{'':24} {'train, CPU s':>12} {'M tokens/s':>11} {'tokens a piece':>15}")
    for kind in get_args(Kind):
        subwords, train_s = timed(partial(trained, train_on, units, options.vocab, kind))
        row(f"voxtok {kind}", train_s, count, subwords.encode_batch, sequences)
        row(f"voxtok {kind}, sampled", None, count, partial(subwords.sample_batch, alpha=0.1, seed=0), sequences)
        if kind == "bpe":
            parts(subwords, sequences)
        peer, train_s = timed(partial(trained_peer, train_on, units, options.vocab, kind))
        row(f"tokenizers {kind}", train_s, count, partial(encode_peer, peer), sequences)
    return 0


def words(count: int, units: int) -> Sequences:
    """`count` tokens in utterances."""
    rng = np.random.default_rng(0)
    lexicon = [rng.integers(0, units, rng.integers(4, 13)) for _ in range(5000)]
    chances = 1 / np.arange(10, 5010)
    chosen = rng.choice(5000, count // 6, p=chances / chances.sum())
    tokens = np.concatenate([lexicon[word] for word in chosen])[:count]
    noisy = rng.random(len(tokens)) < 0.1
    tokens[noisy] = rng.integers(0, units, noisy.sum())
    return [tokens[start : start + UTTERANCE_TOKENS] for start in range(0, len(tokens), UTTERANCE_TOKENS)]


def trained(sequences: Sequences, units: int, vocab: int, kind: Kind) -> Subwords:
    """voxtok's."""
    return train_subwords(sequences, unit_vocab_size=units, vocab_size=vocab, kind=kind)


def trained_peer(sequences: Sequences, units: int, vocab: int, kind: Kind) -> Any:
    """Hugging Face's, with every token in the alphabet, pieces of up to 16 tokens and no pre-tokenizer."""
    alphabet: dict[str, Any] = {"initial_alphabet": list(as_text(np.arange(units))), "show_progress": False}
    if kind == "bpe":
        peer = Tokenizer(models.BPE())
        trainer: Any = trainers.BpeTrainer(vocab_size=vocab, max_token_length=16, **alphabet)
    else:
        peer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=vocab, max_piece_length=16, unk_token="<unk>", special_tokens=["<unk>"], **alphabet
        )
    peer.train_from_iterator(map(as_text, sequences), trainer)
    return peer


def encode_peer(peer: Any, sequences: Sequences) -> Sequences:
    """Arrays of pieces, without offsets, which nobody asked for."""
    encoded = peer.encode_batch_fast([as_text(codes) for codes in sequences], add_special_tokens=False)
    return [np.array(each.ids, dtype=np.int64) for each in encoded]


def parts(subwords: Subwords, sequences: Sequences) -> None:
    """Where the time of encoding goes."""
    texts, write_s = timed(lambda: [subwords._text(codes) for codes in sequences])
    found, encode_s = timed(lambda: subwords._processor.encode(texts, num_threads=1))
    _, read_s = timed(lambda: subwords._numbers(found))
    total_s = write_s + encode_s + read_s
    shares = [
        f"{name} {100 * part / total_s:.0f} %"
        for name, part in {"checks and characters": write_s, "sentencepiece": encode_s, "arrays": read_s}.items()
    ]
    print(f"{'  of which':24} {', '.join(shares)}")


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns and its CPU seconds."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def row(
    name: str, train_s: float | None, count: int, encode: Callable[[Sequences], Sequences], sequences: Sequences
) -> None:
    """Encode, and print one line."""
    pieces, encode_s = timed(lambda: encode(sequences))
    trained_s = "" if train_s is None else f"{train_s:.1f}"
    length = count / sum(map(len, pieces))
    print(f"{name:24} {trained_s:>12} {count / encode_s / 1e6:>11.2f} {length:>15.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
