"""The token store: a Lhotse Shar folder of cuts and integer arrays, with the identity of the tokenizer beside it.

    store.json             format version, fingerprint, frame rate, vocabulary, dedup, shard size
    tokenizer/             a copy of the tokenizer, so that tokens are never without their codebook
    shar/                  cuts.000000.jsonl.gz, tokens.000000.tar (+ durations.000000.tar after dedup), ...
    done/                  one mark a finished shard: hash of what went in, counts of what came out
    rejected.jsonl         what could not be encoded, and why

Plain Lhotse reads it: `CutSet.from_shar(in_dir="store/shar")`, then `cut.load_tokens()` is (frames, streams).
A shard's content follows from the order of the cuts and the shard size alone.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from voxtok.manifests.identity import bare
from voxtok.manifests.shard_arrays import duration_entry, read_arrays, token_entry, write_arrays
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.runtime.files import (
    json_bytes,
    read_description,
    read_json,
    read_jsonl,
    write_bytes,
    write_json,
    write_jsonl,
)

FORMAT = "voxtok-tokens"
VERSION = 1
Field = Literal["cuts", "tokens", "durations"]
NUMBER = re.compile(r"(?:[a-z]+\.)?(\d{6,})\.")  # of the shard, in a file's name


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What is true of every token in a store."""

    fingerprint: str
    """Identity of the tokenizer."""
    frame_rate_hz: float
    """Frames per second before dedup."""
    vocab_sizes: tuple[int, ...]
    """Number of different tokens, one for each stream."""
    dedup: bool
    """Whether runs of equal tokens are merged, with durations."""
    shard_size: int
    """Cuts in a shard, rejected ones included."""
    bpe: str | None = None
    """Hash of the tokenizer's bpe.model where the tokens are subword units, which have durations; else None."""

    @property
    def has_durations(self) -> bool:
        """Whether a token may stand for several frames."""
        return self.dedup or self.bpe is not None


@dataclass(frozen=True)
class TokenStore:
    """An open store; iterating gives every cut with its tokens, in the order of the corpus.

    Example: `for cut, tokens in TokenStore.open("exp/tokens"): ...`
    """

    folder: Path
    info: StoreInfo

    @classmethod
    def create(cls, folder: Path | str, info: StoreInfo) -> "TokenStore":
        """Make or reopen a store for writing; describing it anew keeps the shards whose marks still hold."""
        store = cls(Path(folder), info)
        for name in ("shar", "done"):
            (store.folder / name).mkdir(parents=True, exist_ok=True)
        described = json_bytes({"format": FORMAT, "version": VERSION, **asdict(info)})
        file = store.folder / "store.json"
        if not file.exists() or file.read_bytes() != described:
            store.reopen()
            write_bytes(file, described)
        return store

    @classmethod
    def open(cls, folder: Path | str) -> "TokenStore":
        """Open a finished store.

        Raises:
            CorruptFile: not a store, of another version, or its encoding has not finished.
        """
        folder = Path(folder)
        if not (folder / "store.json").exists():
            raise CorruptFile(f"{folder}: not a token store (no store.json)")
        names = [field.name for field in fields(StoreInfo)]
        described = read_description(folder / "store.json", FORMAT, VERSION, names)
        if not (folder / "summary.json").exists():
            raise CorruptFile(f"{folder}: encoding has not finished; run the same voxtok encode again to complete it")
        info = {name: described[name] for name in names}
        return cls(folder, StoreInfo(**{**info, "vocab_sizes": tuple(info["vocab_sizes"])}))

    @property
    def fingerprint(self) -> str:
        """Identity of the tokenizer that made the tokens."""
        return self.info.fingerprint

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second before dedup."""
        return self.info.frame_rate_hz

    @property
    def vocab_size(self) -> int:
        """Number of different tokens of a store with one stream.

        Raises:
            ConfigError: the store has several streams.
        """
        if len(self.info.vocab_sizes) != 1:
            raise ConfigError(f"{self.folder} has {len(self.info.vocab_sizes)} streams; this needs a store with one")
        return self.info.vocab_sizes[0]

    @property
    def summary(self) -> dict[str, Any]:
        """Counts over the whole store: utterances, frames, tokens, seconds, rejected."""
        summary: dict[str, Any] = read_json(self.folder / "summary.json")
        return summary

    @property
    def made_of(self) -> list[str]:
        """Hash of what went into each shard of a finished store: cuts, state of their files, tokenizer."""
        return [read_json(mark)["inputs"] for mark in sorted((self.folder / "done").glob("[0-9]*.json"))]

    def path(self, field: Field, shard: int) -> Path:
        """File of one field of one shard."""
        return self.folder / "shar" / f"{field}.{shard:06d}{'.jsonl.gz' if field == 'cuts' else '.tar'}"

    def cuts(self) -> CutSet:
        """The cuts with their token arrays, through Lhotse's own reader."""
        if not self.summary["utterances"]:
            return CutSet.from_cuts([])
        return CutSet.from_shar(in_dir=self.folder / "shar")

    def __iter__(self) -> Iterator[tuple[Cut, TokenSequence]]:
        for path in sorted((self.folder / "shar").glob("cuts.*.jsonl.gz")):
            yield from self.read_shard(int(path.name.split(".")[1]))

    def read_shard(self, shard: int) -> Iterator[tuple[Cut, TokenSequence]]:
        """The cuts of one shard with their tokens; nothing where all of its cuts were rejected."""
        if not self.path("cuts", shard).exists():
            return
        cuts = map(deserialize_item, read_jsonl(self.path("cuts", shard)))
        codes = read_arrays(self.path("tokens", shard))
        durations = read_arrays(self.path("durations", shard)) if self.info.has_durations else repeat(("", None))
        for cut in cuts:
            (name, rows), (_, lengths) = (
                next(codes, ("nothing", np.empty((0, 1), dtype=np.uint8))),
                next(durations, ("", None)),
            )
            if name != cut.id:
                raise CorruptFile(f"{self.path('tokens', shard)} has {name} where the cuts have {cut.id}")
            yield cut, TokenSequence(rows, self.frame_rate_hz, self.fingerprint, lengths)

    def write_shard(
        self, shard: int, encoded: Sequence[tuple[Cut, TokenSequence]], rejected: Sequence[dict[str, str]], inputs: str
    ) -> dict[str, Any]:
        """Write one shard so that it is whole or not marked done; `inputs` is the hash that a rerun compares."""
        self._mark(shard).unlink(missing_ok=True)
        self.remove_shard(shard)
        if encoded:
            write_arrays(self.path("tokens", shard), [token_entry(cut, tokens) for cut, tokens in encoded])
            if self.info.has_durations:
                write_arrays(self.path("durations", shard), [duration_entry(cut, tokens) for cut, tokens in encoded])
            write_jsonl(self.path("cuts", shard), (bare(cut).to_dict() for cut, _ in encoded))
        write_jsonl(self.folder / "done" / f"rejected.{shard:06d}.jsonl", rejected)
        done = {
            "inputs": inputs,
            "utterances": len(encoded),
            "frames": sum(tokens.num_frames for _, tokens in encoded),
            "tokens": sum(len(tokens) for _, tokens in encoded),
            "rejected": len(rejected),
        }
        write_json(self._mark(shard), done)
        return done

    def remove_shard(self, shard: int) -> None:
        """Delete a shard's arrays and cuts."""
        for field in ("cuts", "tokens", "durations"):
            self.path(field, shard).unlink(missing_ok=True)

    def done(self, shard: int, inputs: str) -> dict[str, Any] | None:
        """The mark of a shard that was finished from these inputs and is still there, or None."""
        mark = self.mark(shard)
        if mark is None:
            return None
        fields: list[Field] = ["cuts", "tokens", "durations"] if self.info.has_durations else ["cuts", "tokens"]
        whole = not mark["utterances"] or all(self.path(field, shard).exists() for field in fields)
        return mark if whole and mark["inputs"] == inputs else None

    def mark(self, shard: int) -> dict[str, Any] | None:
        """What a finished shard holds: hash of its inputs, counts."""
        try:
            mark: dict[str, Any] = read_json(self._mark(shard))
        except FileNotFoundError:  # which another rank may have removed just now
            return None
        return mark

    def reopen(self) -> None:
        """Mark the store as not finished."""
        (self.folder / "summary.json").unlink(missing_ok=True)

    def rejected(self, shard: int) -> list[dict[str, str]]:
        """What one shard's cuts were rejected for."""
        return list(read_jsonl(self.folder / "done" / f"rejected.{shard:06d}.jsonl"))

    @property
    def num_shards(self) -> int:
        """Shards of a finished store."""
        return sum(1 for _ in (self.folder / "done").glob("[0-9]*.json"))

    def finish(self, inputs: Sequence[str]) -> dict[str, Any] | None:
        """Once every shard is done from its `inputs`, write the summary; None while some are not.

        Any rank may call it and several may at once: all of them write the same bytes.
        """
        num_shards = len(inputs)
        marks = [self.done(shard, hashed) for shard, hashed in enumerate(inputs)]
        if None in marks:
            self.reopen()
            # Another rank may have written the last shard, and the summary that is gone again, in between.
            marks = [self.done(shard, hashed) for shard, hashed in enumerate(inputs)]
        if None in marks:
            return None
        self._drop_beyond(num_shards)
        for folder in ("shar", "done"):
            for partial in (self.folder / folder).glob(".*.partial"):
                partial.unlink(missing_ok=True)
        rejected = [row for shard in range(num_shards) for row in self.rejected(shard)]
        write_jsonl(self.folder / "rejected.jsonl", rejected)
        summary = {
            name: sum(mark[name] for mark in marks if mark) for name in ("utterances", "frames", "tokens", "rejected")
        }
        summary["duration_s"] = round(summary["frames"] / self.frame_rate_hz, 3)
        write_json(self.folder / "summary.json", summary)
        return summary

    def _drop_beyond(self, num_shards: int) -> None:
        """Delete shards left from a longer corpus or smaller shards, without marks too: a kill leaves such.

        No rank writes one of them: all have the same corpus, and every shard of it is done.
        """
        names = [path.name for folder in ("shar", "done") for path in (self.folder / folder).iterdir()]
        for shard in {int(found[1]) for found in map(NUMBER.match, names) if found}:
            if shard >= num_shards:
                self.remove_shard(shard)
                (self.folder / "done" / f"rejected.{shard:06d}.jsonl").unlink(missing_ok=True)
                self._mark(shard).unlink(missing_ok=True)

    def _mark(self, shard: int) -> Path:
        return self.folder / "done" / f"{shard:06d}.json"


def require_apart(source: Path | str, out: Path | str) -> None:
    """Refuse to write a store over the one that is read.

    Args:
        source: the store's own shar folder, or a file in it; anything else is apart.
        out: folder to write a store to.

    Raises:
        ConfigError: `source` lies in the shar folder of `out`.
    """
    source, shar = Path(source).resolve(), Path(out).resolve() / "shar"
    if shar in (source, *source.parents):
        raise ConfigError(f"--out {out} would overwrite {source}, which is read: give another folder")
