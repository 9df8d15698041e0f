"""`voxtok bpe`: subword units over tokens, kept in the tokenizer folder and in its identity.

A token store has either the codebook's tokens or pieces, never both: `train` and `encode` read the former. Training on
tokens with BPE-dropout reads them too, and cuts them anew each time (`Subwords.sample_batch`).
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from voxtok.manifests.codebook import Codebook
from voxtok.manifests.store import TokenStore, require_apart
from voxtok.manifests.subwords import Kind, Subwords, train_subwords
from voxtok.manifests.tokens import Codes
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import atomic, sha256
from voxtok.tokenize.tokenizer_folder import (
    config_of,
    fingerprint,
    read_description,
    read_parts,
    require_same,
    write_folder,
)

USAGE = """\
usage: voxtok bpe ACTION [options]

  train     token stores -> tokenizer with subword units
  encode    token store -> token store of subword units
  decode    token store of subword units -> its tokens as text
  pieces    tokenizer -> what each of its subword units is made of

voxtok bpe ACTION --help shows the options.
"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train subword units on token stores of one tokenizer and write that tokenizer with them: another identity."""

    stores: tuple[str, ...]
    """Token stores, separated by commas."""
    vocab_size: int
    """Number of pieces, the single tokens among them; 500 to 30000 is usual."""
    kind: Kind
    """bpe or unigram."""
    out: str
    """Tokenizer folder to write."""
    max_tokens: int = 50_000_000
    """Train on a random part of the utterances with about this many tokens; they are held in memory."""
    seed: int = 0
    """Decides which utterances."""

    def __post_init__(self) -> None:
        if not self.stores:
            raise ConfigError("stores needs at least one token store")
        if self.max_tokens < 1 or self.seed < 0:
            raise ConfigError("max_tokens must be at least 1 and seed at least 0")


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Write a token store in subword units; run again to go on where a killed job stopped."""

    store: str
    """Token store."""
    tokenizer: str
    """Tokenizer folder with subword units, as `voxtok bpe train` writes it."""
    out: str
    """Token store to write."""


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """Write the tokens that a store of subword units is made of, one line `id t1 t2 ...` an utterance."""

    store: str
    """Token store of subword units."""
    out: str
    """Text file to write."""


@dataclass(frozen=True, kw_only=True)
class PiecesConfig:
    """Print every subword unit, one line `number tokens` such as `731 12-12-7`."""

    tokenizer: str
    """Tokenizer folder with subword units."""


def train_bpe(stores: Sequence[TokenStore], config: TrainConfig) -> Subwords:
    """Train on the tokens of `stores`, a seeded random part of them where they are many.

    Raises:
        ConfigError: stores of several streams or of pieces, or as in `train_subwords`.
        TokenizerMismatch: stores of different tokenizers.
    """
    for store in stores:
        require_same(stores[0].fingerprint, store.fingerprint, str(store.folder))
        _require_tokens(store)
    return train_subwords(
        _drawn(stores, config.max_tokens, config.seed),
        unit_vocab_size=stores[0].vocab_size,
        vocab_size=config.vocab_size,
        kind=config.kind,
    )


def _drawn(stores: Sequence[TokenStore], max_tokens: int, seed: int) -> Iterator[Codes]:
    share = max_tokens / max(sum(store.summary["tokens"] for store in stores), 1)
    rng = np.random.default_rng(seed)
    for store in stores:
        for _, tokens in store:
            if rng.random() < share:
                yield tokens.codes[:, 0]


def add_subwords(folder: Path | str, subwords: Subwords, out: Path | str) -> str:
    """Write the tokenizer at `folder` with `subwords` to `out`; needs no SSL model.

    Returns:
        Its fingerprint.
    """
    described = read_description(folder)
    codebook, _ = read_parts(folder, described)
    identity = fingerprint(config_of(described), described["identity"], codebook, subwords)
    changed = {"fingerprint": identity, "vocab_sizes": [subwords.vocab_size], "bpe": subwords.sha256}
    write_folder(Path(out), described | changed, codebook, subwords)
    return identity


def read_subwords(folder: Path | str) -> Subwords:
    """The subwords of a tokenizer folder.

    Raises:
        ConfigError: it has none.
        CorruptFile: they are damaged, or not those that the folder describes.
    """
    return _open(folder)[2]


def _open(folder: Path | str) -> tuple[dict[str, Any], Codebook, Subwords]:
    described = read_description(folder)
    codebook, subwords = read_parts(folder, described)
    if subwords is None:
        raise ConfigError(f"{folder} has no subwords: add them with `voxtok bpe train`")
    return described, codebook, subwords


def encode_store(store: TokenStore, folder: Path | str, out: Path | str) -> dict[str, Any]:
    """Write `store` in the pieces of the tokenizer at `folder`, shard by shard; finished shards are skipped.

    Returns:
        The new store's summary.

    Raises:
        ConfigError: the store has pieces already, the tokenizer has no subwords, or `out` is the store.
        TokenizerMismatch: the store's tokens are not those that the tokenizer makes pieces of.
    """
    require_apart(store.folder / "shar", out)
    _require_tokens(store)
    described, codebook, subwords = _open(folder)
    units = fingerprint(config_of(described), described["identity"], codebook, None)
    require_same(units, store.fingerprint, str(store.folder))
    identity: str = described["fingerprint"]
    info = replace(store.info, fingerprint=identity, vocab_sizes=(subwords.vocab_size,), bpe=subwords.sha256)
    target = TokenStore.create(out, info)
    write_folder(target.folder / "tokenizer", described, codebook, subwords)
    inputs = [sha256([identity, store.mark(shard)]) for shard in range(store.num_shards)]
    for shard, hashed in enumerate(inputs):
        if target.done(shard, hashed) is None:
            target.reopen()
            encoded = [(cut, subwords.apply(tokens, identity)) for cut, tokens in store.read_shard(shard)]
            target.write_shard(shard, encoded, store.rejected(shard), hashed)
    summary = target.finish(inputs)
    assert summary is not None
    return summary


def decode_store(store: TokenStore, out: Path | str) -> int:
    """Write `id t1 t2 ...` an utterance: the tokens that a store of pieces is made of.

    Returns:
        The number of utterances.

    Raises:
        ConfigError: the store has tokens, not pieces.
    """
    if store.info.bpe is None:
        raise ConfigError(f"{store.folder} has tokens, not subword units: there is nothing to decode")
    subwords = read_subwords(store.folder / "tokenizer")
    count = 0
    with atomic(out) as file:
        for cut, pieces in store:
            units = subwords.decode(pieces.codes[:, 0])
            file.write(f"{cut.id} {' '.join(map(str, units.tolist()))}\n".encode())
            count += 1
    return count


def _require_tokens(store: TokenStore) -> None:
    if store.info.bpe is not None:
        raise ConfigError(f"{store.folder} has subword units already; give the store of tokens they were made from")


def train(config: TrainConfig) -> str:
    """Train, write the tokenizer, and say in one sentence what came out."""
    stores = [TokenStore.open(store) for store in config.stores]
    if Path(config.out).resolve() in [(store.folder / "tokenizer").resolve() for store in stores]:
        raise ConfigError(f"--out {config.out} is the tokenizer of a store that is read: give another folder")
    subwords = train_bpe(stores, config)
    identity = add_subwords(stores[0].folder / "tokenizer", subwords, config.out)
    used: Counter[int] = Counter()
    tokens = 0
    for codes in _drawn(stores, min(config.max_tokens, 1_000_000), config.seed):
        used.update(subwords.encode(codes).tolist())
        tokens += len(codes)
    longest = [subwords.written(piece) for piece, _ in used.most_common() if subwords.lengths[piece] > 1][:5]
    return (
        f"{subwords.vocab_size} pieces of {tokens / max(used.total(), 1):.2f} tokens on average, "
        f"often {', '.join(longest) or 'single tokens'}; {identity[:12]} -> {config.out}"
    )


def main(argv: Sequence[str]) -> int:
    """The command `voxtok bpe`."""
    action, options = (argv[0] if argv else ""), argv[1:]
    prog = f"voxtok bpe {action}"
    match action:
        case "train":
            print(train(parse(TrainConfig, options, prog)))
        case "encode":
            encode = parse(EncodeConfig, options, prog)
            summary = encode_store(TokenStore.open(encode.store), encode.tokenizer, encode.out)
            print(f"{summary['utterances']} utterances, {summary['tokens']} pieces -> {encode.out}")
        case "decode":
            decode = parse(DecodeConfig, options, prog)
            print(f"{decode_store(TokenStore.open(decode.store), decode.out)} utterances -> {decode.out}")
        case "pieces":
            subwords = read_subwords(parse(PiecesConfig, options, prog).tokenizer)
            for piece in range(subwords.vocab_size):
                print(piece, subwords.written(piece))
        case "-h" | "--help":
            print(USAGE)
        case _:
            print(f"voxtok bpe: error: the first word is train, encode, decode or pieces\n\n{USAGE}", file=sys.stderr)
            return 2
    return 0
