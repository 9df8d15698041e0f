"""`voxtok encode`: cuts -> token store, or audio files -> tokens on the terminal.

A shard is the unit of work: ranks take every n-th, a finished one is skipped when what went into it is unchanged, and
a killed job run again ends with the same bytes as an uninterrupted one. Ranks never talk to each other, so a Slurm
array job works as torchrun does: RANK and WORLD_SIZE are all that is read.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lhotse.cut import Cut

from voxtok.manifests.cuts import load_cuts, unique_cuts
from voxtok.manifests.identity import inputs_of
from voxtok.manifests.store import StoreInfo, TokenStore, require_apart
from voxtok.manifests.tokens import TokenSequence, words
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, ranks_from_environment
from voxtok.runtime.errors import BadAudio, ConfigError, ManifestError
from voxtok.runtime.files import sha256
from voxtok.runtime.progress import Progress
from voxtok.tokenize.extract import ExtractConfig, extract
from voxtok.tokenize.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Encode a corpus into a token store, or audio files into tokens printed one utterance a line."""

    tokenizer: str
    """Tokenizer folder."""
    cuts: str | None = None
    """Lhotse cuts, recordings or Shar folder."""
    out: str | None = None
    """Token store to write; run again to go on where a killed job stopped."""
    files: tuple[str, ...] = ()
    """Audio files to encode to the terminal instead."""
    upstream: str | None = None
    """Another place of the same SSL model, if it moved since the tokenizer was fitted."""
    dedup: bool | None = None
    """Merge runs of equal tokens; by default as the tokenizer says."""
    bpe: bool | None = None
    """false leaves out the tokenizer's subwords; by default they are applied where it has them."""
    shard_size: int = 1000
    """Cuts in a shard, the unit of work and of resuming."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    compiled: bool = False
    """Let torch.compile fuse the blocks (wav2vec2 family): a minute to start with, and rounding changes a little."""
    strict: bool = False
    """Stop at the first bad recording instead of listing it in rejected.jsonl."""
    max_batch_s: float = 240.0
    """Padded seconds of audio in a batch, on a GPU."""
    readers: int = 2
    """Threads that read and resample audio."""

    def __post_init__(self) -> None:
        if bool(self.files) == bool(self.cuts):
            raise ConfigError("give either --cuts with --out, or audio files")
        if self.cuts and not self.out:
            raise ConfigError("--cuts needs --out, the token store to write")
        if self.cuts and self.out:
            require_apart(self.cuts, self.out)
        if self.shard_size < 1:
            raise ConfigError("--shard-size must be at least 1")


def encode_corpus(
    cuts: Iterable[Cut],
    tokenizer: Tokenizer,
    out: Path | str,
    *,
    shard_size: int,
    strict: bool = False,
    extraction: ExtractConfig | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any] | None:
    """Encode a corpus into a token store, or complete one that was begun.

    Args:
        cuts: in an order that is the same in every run and on every rank.
        tokenizer: its copy goes into the store.
        out: store folder.
        shard_size: cuts in a shard.
        strict: raise the first BadAudio instead of listing it.
        extraction: batch size and readers; its windows must be the tokenizer's.
        ranks: this process's share of the shards.

    Returns:
        The store's summary, or None while other ranks still have shards to do.
    """
    ranks = ranks or Ranks()
    extraction = extraction or ExtractConfig(windows=tokenizer.config.windows)
    if extraction.windows != tokenizer.config.windows:
        raise ConfigError("extraction.windows must be the tokenizer's, since windows change tokens")
    store = _open_store(tokenizer, Path(out), shard_size)
    inputs: list[str] = []
    with Progress("encode", None) as progress:
        for shard, members in enumerate(_shards(cuts, shard_size)):
            inputs.append(_inputs_hash(members, tokenizer.fingerprint))
            if shard % ranks.world_size != ranks.rank:
                continue
            mark = store.done(shard, inputs[shard])
            if mark is None:
                store.reopen()
                _encode_shard(store, shard, members, tokenizer, extraction, strict, inputs[shard])
                progress.add(sum(cut.duration for cut, _ in members))
            elif strict and mark["rejected"]:
                row = store.rejected(shard)[0]
                raise BadAudio(row["id"], row["reason"], row["detail"])
    return store.finish(inputs)


def _open_store(tokenizer: Tokenizer, out: Path, shard_size: int) -> TokenStore:
    info = StoreInfo(
        fingerprint=tokenizer.fingerprint,
        frame_rate_hz=tokenizer.frame_rate_hz,
        vocab_sizes=tokenizer.vocab_sizes,
        dedup=tokenizer.config.dedup,
        shard_size=shard_size,
        bpe=None if tokenizer.subwords is None else tokenizer.subwords.sha256,
    )
    store = TokenStore.create(out, info)
    tokenizer.save(store.folder / "tokenizer")
    return store


def _shards(cuts: Iterable[Cut], shard_size: int) -> Iterator[list[tuple[Cut, BadAudio | None]]]:
    """Runs of `shard_size` cuts, each with the BadAudio of one whose id came before."""
    members: list[tuple[Cut, BadAudio | None]] = []
    for pair in unique_cuts(cuts):
        members.append(pair)
        if len(members) == shard_size:
            yield members
            members = []
    if members:
        yield members


def _inputs_hash(members: Sequence[tuple[Cut, BadAudio | None]], tokenizer: str) -> str:
    """Hash of all that decides a shard: its cuts, the state of their files, and the tokenizer."""
    return sha256([tokenizer, [[inputs_of(cut), twice is not None] for cut, twice in members]])


def _encode_shard(
    store: TokenStore,
    shard: int,
    members: Sequence[tuple[Cut, BadAudio | None]],
    tokenizer: Tokenizer,
    extraction: ExtractConfig,
    strict: bool,
    inputs: str,
) -> None:
    usable = [cut for cut, twice in members if twice is None]
    rejected = [twice for _, twice in members if twice is not None]
    encoded: list[tuple[Cut, TokenSequence]] = []
    for cut, result in extract(usable, tokenizer.upstream, tokenizer.config.layers, tokenizer.quantize, extraction):
        if isinstance(result, BadAudio):
            rejected.append(result)
        else:
            encoded.append((cut, tokenizer.sequence(result.numpy())))
        if strict and rejected:
            raise rejected[0]
    store.write_shard(shard, encoded, [error.row() for error in rejected], inputs)


def encode_files(files: Sequence[str], tokenizer: Tokenizer, strict: bool) -> int:
    """Print `path token token ...` for each audio file; a bad one goes to standard error.

    Returns:
        1 where a file could not be encoded, else 0.
    """
    failed = 0
    for file in files:
        try:
            for tokens in _encode_file(file, tokenizer):
                print(file, words(tokens))
        except (BadAudio, ManifestError) as error:
            if strict:
                raise
            print(error, file=sys.stderr)
            failed = 1
    return failed


def _encode_file(file: str, tokenizer: Tokenizer) -> Iterator[TokenSequence]:
    extraction = ExtractConfig(windows=tokenizer.config.windows, readers=1)
    cuts = load_cuts(file)
    for _, codes in extract(cuts, tokenizer.upstream, tokenizer.config.layers, tokenizer.quantize, extraction):
        if isinstance(codes, BadAudio):
            raise codes
        yield tokenizer.sequence(codes.numpy())


def main(argv: Sequence[str]) -> int:
    """The command `voxtok encode`."""
    config = parse(EncodeConfig, argv, "voxtok encode", positional="files")
    tokenizer = Tokenizer.load(
        config.tokenizer, device=config.device, upstream=config.upstream, compiled=config.compiled
    )
    if config.dedup is not None:
        tokenizer = tokenizer.with_dedup(config.dedup)
    if config.bpe and tokenizer.subwords is None:
        raise ConfigError(f"{config.tokenizer} has no subwords: add them with `voxtok bpe train`")
    if config.bpe is False:
        tokenizer = tokenizer.with_bpe(None)
    if config.files:
        return encode_files(config.files, tokenizer, config.strict)
    assert config.cuts and config.out
    summary = encode_corpus(
        load_cuts(config.cuts),
        tokenizer,
        config.out,
        shard_size=config.shard_size,
        strict=config.strict,
        extraction=ExtractConfig(
            windows=tokenizer.config.windows, max_batch_s=config.max_batch_s, readers=config.readers
        ),
        ranks=ranks_from_environment(),
    )
    if summary is None:
        print("this rank's shards are done; the store is complete once the other ranks' are")
        return 0
    hours = summary["duration_s"] / 3600
    print(
        f"{summary['utterances']} utterances, {hours:.2f} h, {summary['tokens']} tokens -> {config.out}; "
        f"{summary['rejected']} rejected" + (f" (see {config.out}/rejected.jsonl)" if summary["rejected"] else "")
    )
    return 1 if summary["rejected"] and not summary["utterances"] else 0
