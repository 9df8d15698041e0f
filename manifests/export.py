"""`voxtok export`: a token store in the forms that other tools read.

One utterance is in memory at a time (1000 for parquet), but for kaldi, whose files are sorted: there it is all of them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from lhotse.cut import Cut

from voxtok.manifests.store import TokenStore
from voxtok.manifests.tokens import TokenSequence, smallest_dtype, words
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.runtime.files import atomic, read_description, write_json
from voxtok.runtime.optional import require

Form = Literal["text", "kaldi", "fairseq", "parquet", "flat"]

FLAT, FLAT_VERSION = "voxtok-flat", 1
FLAT_KEYS = ("fingerprint", "frame_rate_hz", "vocab_sizes", "has_durations")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a token store in another form.

    text: one line `id t1 t2 ...` (streams of a frame joined by commas); kaldi: a data folder with text, utt2spk,
    spk2utt and utt2dur, as ESPnet takes it; fairseq: tokens.tsv, tokens.km and dict.km.txt; parquet: one table;
    flat: tokens.npy, offsets.npy and utterances.jsonl, to be memory-mapped by language models.
    """

    store: str
    """Token store."""
    to: Form
    """text, kaldi, fairseq, parquet or flat."""
    out: str
    """File (text, parquet) or folder to write."""


def export(store: TokenStore, to: Form, out: Path | str) -> int:
    """Write `store` in the form `to`, each file atomically.

    Returns:
        The number of utterances written.

    Raises:
        ConfigError: the form cannot hold the store: several streams or parts of recordings in fairseq's, ids with
            white space in lines that begin with them.
    """
    writers: dict[Form, Callable[[TokenStore, Path], int]] = {
        "text": export_text,
        "kaldi": export_kaldi,
        "fairseq": export_fairseq,
        "parquet": export_parquet,
        "flat": export_flat,
    }
    return writers[to](store, Path(out))


def export_text(store: TokenStore, out: Path) -> int:
    """`id t1 t2 ...` a line, in the order of the corpus."""
    count = 0
    with atomic(out) as file:
        for cut, tokens in store:
            file.write(f"{_one_word(cut.id)} {words(tokens)}\n".encode())
            count += 1
    return count


def export_kaldi(store: TokenStore, out: Path) -> int:
    """A Kaldi data folder whose `text` holds tokens; sorted by id, as Kaldi's tools require, with `_` in speakers for
    white space.
    """
    rows = sorted(
        (_one_word(cut.id), words(tokens), "_".join(_speaker(cut).split()), cut.duration) for cut, tokens in store
    )
    speakers: dict[str, list[str]] = {}
    for cut_id, _, speaker, _ in rows:
        speakers.setdefault(speaker, []).append(cut_id)
    _write_lines(out / "text", (f"{cut_id} {text}" for cut_id, text, _, _ in rows))
    _write_lines(out / "utt2spk", (f"{cut_id} {speaker}" for cut_id, _, speaker, _ in rows))
    _write_lines(out / "spk2utt", (f"{speaker} {' '.join(ids)}" for speaker, ids in sorted(speakers.items())))
    _write_lines(out / "utt2dur", (f"{cut_id} {duration_s:.4f}" for cut_id, _, _, duration_s in rows))
    return len(rows)


def export_fairseq(store: TokenStore, out: Path) -> int:
    """fairseq's pair of files: a .tsv manifest (root, then `path <tab> samples`) and a .km line an utterance."""
    if len(store.info.vocab_sizes) != 1:
        raise ConfigError("fairseq's .km holds one stream; export this store as text, parquet or flat")
    count = 0
    with atomic(out / "tokens.tsv") as manifest, atomic(out / "tokens.km") as labels:
        manifest.write(b"/\n")
        for cut, tokens in store:
            _check_whole(cut)
            manifest.write(f"{_path(cut)}\t{cut.num_samples}\n".encode())
            labels.write(f"{words(tokens)}\n".encode())
            count += 1
    _write_lines(out / "dict.km.txt", (f"{token} 1" for token in range(store.vocab_size)))
    return count


def export_parquet(store: TokenStore, out: Path) -> int:
    """One table: id, speaker, text, duration_s, codes (a list of lists where there are several streams), durations."""
    arrow: Any = require("pyarrow", "parquet")
    parquet: Any = require("pyarrow.parquet", "parquet")
    code = arrow.from_numpy_dtype(smallest_dtype(max(store.info.vocab_sizes)))
    streams = len(store.info.vocab_sizes)
    fields = [("id", arrow.string()), ("speaker", arrow.string()), ("text", arrow.string())]
    fields += [("duration_s", arrow.float64()), ("codes", arrow.list_(code if streams == 1 else arrow.list_(code)))]
    fields += [("durations", arrow.list_(arrow.uint32()))] if store.info.has_durations else []
    metadata = {"fingerprint": store.fingerprint, "frame_rate_hz": str(store.frame_rate_hz)}
    schema = arrow.schema(fields, metadata=metadata)
    count = 0
    with atomic(out) as file, parquet.ParquetWriter(file, schema) as writer:
        for rows in _groups(store, 1000):
            table = [_row(cut, tokens, streams) for cut, tokens in rows]
            writer.write_table(arrow.Table.from_pylist(table, schema=schema))
            count += len(table)
    return count


def export_flat(store: TokenStore, out: Path) -> int:
    """tokens.npy (all tokens, streams), offsets.npy (utterances + 1) and utterances.jsonl; `load_flat` reads them."""
    dtype = smallest_dtype(max(store.info.vocab_sizes))
    total = store.summary["tokens"]
    offsets = [0]
    with ExitStack() as stack:
        tokens_file = stack.enter_context(atomic(out / "tokens.npy"))
        utterances = stack.enter_context(atomic(out / "utterances.jsonl"))
        durations = stack.enter_context(atomic(out / "durations.npy")) if store.info.has_durations else None
        _npy_header(tokens_file, dtype, (total, len(store.info.vocab_sizes)))
        if durations is not None:
            _npy_header(durations, np.dtype(np.uint32), (total,))
        for cut, tokens in store:
            tokens_file.write(np.ascontiguousarray(tokens.codes, dtype=dtype).tobytes())
            if durations is not None and tokens.durations is not None:
                durations.write(tokens.durations.astype(np.uint32).tobytes())
            utterances.write((json.dumps({"id": cut.id, "speaker": _speaker(cut)}, ensure_ascii=False) + "\n").encode())
            offsets.append(offsets[-1] + len(tokens))
    with atomic(out / "offsets.npy") as file:
        np.save(file, np.array(offsets, dtype=np.int64), allow_pickle=False)
    values = (store.fingerprint, store.frame_rate_hz, store.info.vocab_sizes, store.info.has_durations)
    described = {"format": FLAT, "version": FLAT_VERSION, **dict(zip(FLAT_KEYS, values, strict=True))}
    described["bpe"] = store.info.bpe
    write_json(out / "flat.json", described)
    return len(offsets) - 1


@dataclass(frozen=True, eq=False)
class FlatTokens:
    """Memory-mapped tokens; `flat[i]` is utterance i, (tokens, streams), without a copy."""

    tokens: Any  # (total, streams), memory-mapped
    offsets: Any  # (utterances + 1,) int64
    fingerprint: str
    frame_rate_hz: float
    vocab_sizes: tuple[int, ...]
    durations: Any | None  # (total,) uint32 frames, memory-mapped, where a token may stand for several
    bpe: str | None  # hash of the subwords that the tokens are, else None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Any:
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def load_flat(folder: Path | str) -> FlatTokens:
    """Open what `export_flat` wrote.

    Raises:
        CorruptFile: no such folder, or of another format or version.
    """
    folder = Path(folder)
    if not (folder / "flat.json").exists():
        raise CorruptFile(f"{folder}: not flat tokens (no flat.json)")
    described = read_description(folder / "flat.json", FLAT, FLAT_VERSION, FLAT_KEYS)

    def mapped(name: str) -> Any:
        return np.load(folder / name, mmap_mode="r", allow_pickle=False)

    return FlatTokens(
        tokens=mapped("tokens.npy"),
        offsets=np.load(folder / "offsets.npy", allow_pickle=False),
        fingerprint=described["fingerprint"],
        frame_rate_hz=described["frame_rate_hz"],
        vocab_sizes=tuple(described["vocab_sizes"]),
        durations=mapped("durations.npy") if described["has_durations"] else None,
        bpe=described.get("bpe"),
    )


def _npy_header(file: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _speaker(cut: Cut) -> str:
    """The speaker, or the utterance's own id where none is known, as Kaldi's convention has it."""
    speakers = [supervision.speaker for supervision in cut.supervisions if supervision.speaker]
    return str(speakers[0]) if speakers else cut.id


def _one_word(cut_id: str) -> str:
    """The id, where it can begin a line of words."""
    if len(cut_id.split()) != 1:
        raise ConfigError(
            f"{cut_id!r} has white space, which ends an id in text and kaldi files: "
            "encode cuts with other ids, or export as parquet or flat"
        )
    return cut_id


def _check_whole(cut: Cut) -> None:
    """Refuse what a line of a .tsv cannot say: its readers take whole files as they are."""
    if not cut.has_recording:
        raise ConfigError(f"{cut.id} has no recording of its own that fairseq's .tsv could name")
    recording = cut.recording
    part = cut.start > 0 or recording.num_samples > cut.num_samples
    if part or recording.transforms:
        kind = "a part of" if part else "a changed form of"
        raise ConfigError(
            f"{cut.id} is {kind} its recording, and fairseq's .tsv names whole files as they are: "
            "save the audio of the cuts first (Lhotse's save_audios), or export as text, parquet or flat"
        )


def _path(cut: Cut) -> str:
    sources = cut.recording.sources if cut.has_recording else []
    path = sources[0].source if sources and sources[0].type == "file" else cut.id
    return str(Path(path).resolve()).lstrip("/") if path != cut.id else path


def _row(cut: Cut, tokens: TokenSequence, streams: int) -> dict[str, Any]:
    text = " ".join(supervision.text for supervision in cut.supervisions if supervision.text)
    row = {"id": cut.id, "speaker": _speaker(cut), "text": text, "duration_s": tokens.duration_s}
    row["codes"] = tokens.codes[:, 0] if streams == 1 else tokens.codes.tolist()
    if tokens.durations is not None:
        row["durations"] = tokens.durations
    return row


def _groups(store: TokenStore, size: int) -> Iterator[list[tuple[Cut, TokenSequence]]]:
    group: list[tuple[Cut, TokenSequence]] = []
    for pair in store:
        group.append(pair)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    with atomic(path) as file:
        for line in lines:
            file.write(f"{line}\n".encode())


def main(argv: Sequence[str]) -> int:
    """The command `voxtok export`."""
    config = parse(ExportConfig, argv, "voxtok export")
    count = export(TokenStore.open(config.store), config.to, config.out)
    print(f"{count} utterances -> {config.out}")
    return 0
