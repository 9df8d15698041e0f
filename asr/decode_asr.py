"""`voxtok decode-asr`: token stores -> hypotheses, and their WER and CER where there are transcripts.

out/hypotheses.jsonl        id, text, score, confidence, words with times; further hypotheses where asked for
out/hyp.txt                 lines `id text`
out/score.json, score.txt   WER and CER with intervals, speakers; alignments.txt: word under word
out/rejected.jsonl          utterances that could not be decoded, and why
out/parts/                  one file for a part of the corpus: the unit of work of ranks, and of resuming
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from voxtok.asr.alignment import align, confidence_of, frame_edges_s, words_of
from voxtok.asr.examples import Example, Examples, array_hashes, collate, read_examples
from voxtok.asr.hypothesis import Hypothesis
from voxtok.asr.padded import Padded
from voxtok.asr.recognizer import Recognizer
from voxtok.asr.references import Reference
from voxtok.asr.score import ScoringConfig, score, table, write_score
from voxtok.asr.search import SearchConfig, Searcher
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, connected_ranks, pick_device
from voxtok.runtime.errors import ConfigError, OutOfMemory
from voxtok.runtime.files import read_json, sha256, sha256_file, write_bytes, write_json, write_jsonl
from voxtok.runtime.progress import Progress
from voxtok.tokenize.batches import halve_on_oom, plan_batches


@dataclass(frozen=True, kw_only=True)
class DecodeAsrConfig:
    """Decode the utterances of token stores; run again to go on where a killed job stopped."""

    model: str
    """Recognizer's folder: what `voxtok train-asr` wrote, or its model."""
    data: tuple[str, ...]
    """Token stores; streams of several stores of one corpus stand side by side as STORE+STORE."""
    out: str
    """Folder to write."""
    search: SearchConfig
    """How frames become text."""
    batch_frames: int = 20000
    """Input frames of a batch, with padding."""
    part_size: int = 200
    """Utterances of a part, the unit of work and of resuming."""
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    """Bootstrap of the error rates."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("data needs at least one token store")
        if self.batch_frames < 1 or self.part_size < 1:
            raise ConfigError("batch-frames and part-size must be at least 1")


def model_folder(path: Path | str) -> Path:
    """The folder with asr.json: `path`, or its `model`."""
    path = Path(path)
    return path / "model" if (path / "model" / "asr.json").exists() else path


def decode_asr(config: DecodeAsrConfig, ranks: Ranks | None = None) -> dict[str, Any]:
    """Decode, or complete a decoding that was begun; the first rank writes the result.

    Returns:
        Counts, the folder, and the scores under `score` where there are transcripts.

    Raises:
        TokenizerMismatch: tokens of another tokenizer than the recognizer was trained on.
        ConfigError: nothing to decode, an id twice, or a search that this recognizer has no head for.
    """
    ranks, model = ranks or Ranks(), model_folder(config.model)
    recognizer = Recognizer.load(model, device=pick_device(config.device))
    searcher = Searcher.open(recognizer, config.search)
    examples = read_data(config, recognizer, ranks)
    items = examples.items
    repeated = [cut_id for cut_id, times in Counter(item.id for item in items).items() if times > 1]
    if repeated:
        raise ConfigError(f"{repeated[0]} is in several of data: decode each to a folder of its own")
    parts = [items[begin : begin + config.part_size] for begin in range(0, len(items), config.part_size)]
    files = [sha256_file(path) for path in files_read(model, config.search)]
    keys = [part_key(part, files, config) for part in parts]
    with Progress("decode-asr", sum(item.duration_s for item in items) / ranks.world_size) as progress:
        for number in range(ranks.rank, len(parts), ranks.world_size):
            if _done(config, number, keys[number]) is None:
                rows = decode_part(searcher, parts[number], config.batch_frames)
                write_json(_part(config, number), {"key": keys[number], "rows": rows})
            progress.add(sum(item.duration_s for item in parts[number]))
    ranks.barrier()
    if not ranks.is_first:
        return {}
    rows = [row for number, key in enumerate(keys) for row in _done(config, number, key) or []]
    return write_result(config, examples, rows, recognizer)


def read_data(config: DecodeAsrConfig, recognizer: Recognizer, ranks: Ranks) -> Examples:
    """The utterances; the first rank computes features where they are needed, the others wait."""

    def read() -> Examples:
        inputs, cache = recognizer.config.inputs, Path(config.out) / "cache"
        return read_examples(
            config.data, inputs, expected=recognizer.source, cache=cache, device=recognizer.device
        )  # fmt: skip

    found = read() if ranks.is_first else None
    ranks.barrier()
    return found or read()


def files_read(model: Path, search: SearchConfig) -> list[Path]:
    """The recognizer's files, and those of its language model or graph."""
    files = [model / "asr.json", model / "model.safetensors"]
    files += [Path(search.lm)] if search.lm else []
    return files + ([Path(search.graph) / "graph.fst"] if search.graph else [])


def part_key(part: Sequence[Example], files: Sequence[str], config: DecodeAsrConfig) -> str:
    """Hash of all that decides a part's hypotheses; `files` are hashes of `files_read`."""
    content = [
        [item.id, *array_hashes(item.tokens, item.durations, item.features, item.context)] for item in part
    ]  # fmt: skip
    return sha256([content, list(files), asdict(config.search), config.batch_frames])


@torch.inference_mode()
def decode_part(searcher: Searcher, part: Sequence[Example], batch_frames: int) -> list[dict[str, Any]]:
    """Rows of hypotheses.jsonl in the order of `part`; of utterances that cannot be decoded, rows of rejected.jsonl."""
    rows: dict[int, dict[str, Any]] = {}
    for place, item in enumerate(part):
        if item.num_frames == 0:
            rows[place] = {"id": item.id, "reason": "empty", "detail": "it has no input frames"}
    sizes = [(place, item.num_frames) for place, item in enumerate(part) if item.num_frames]
    for batch in plan_batches(sizes, batch_frames):
        items = [part[place] for place in batch]
        try:
            found = halve_on_oom(items, lambda items: decode_batch(searcher, items))
        except OutOfMemory:
            found = [decode_alone(searcher, item) for item in items]
        rows |= dict(zip(batch, found, strict=True))
    return [rows[place] for place in range(len(part))]


def decode_alone(searcher: Searcher, item: Example) -> dict[str, Any]:
    """The row of one utterance, or of rejected.jsonl where memory does not hold it."""
    try:
        (row,) = halve_on_oom([item], lambda items: decode_batch(searcher, items))
        return row
    except OutOfMemory:
        detail = f"{item.num_frames} frames are too many for the device's memory: cut it into shorter utterances"
        return {"id": item.id, "reason": "out of memory", "detail": detail}


def decode_batch(searcher: Searcher, items: Sequence[Example]) -> list[dict[str, Any]]:
    """Rows of at least one utterance with frames."""
    encoded = searcher.recognizer.encode(collate(items).to(searcher.recognizer.device))
    found = zip(items, searcher.search(encoded), strict=True)
    return [row_of(searcher.recognizer, encoded, place, item, nbest) for place, (item, nbest) in enumerate(found)]


def row_of(
    recognizer: Recognizer, encoded: Padded, place: int, item: Example, nbest: Sequence[Hypothesis]
) -> dict[str, Any]:
    """One utterance's row: the best hypothesis with times and confidences, and the others where there are any."""
    if not nbest:
        return {"id": item.id, "reason": "no path", "detail": "no path of the graph fits: widen search.graph-beam"}
    frames = encoded.values[place, : int(encoded.lengths[place])]  # (T, D)
    best, text = nbest[0], recognizer.text
    edges_s = frame_edges_s(item, recognizer.source, recognizer.config.encoder.subsampling, len(frames))
    words = words_of(text, best.numbers, align(recognizer, frames, best), edges_s)
    row: dict[str, Any] = {
        "id": item.id,
        "text": text.decode(best.numbers),
        "score": round(best.score, 4),
        "confidence": confidence_of(words),
        "words": [asdict(word) for word in words],
    }
    if len(nbest) > 1:
        row["nbest"] = [{"text": text.decode(one.numbers), "score": round(one.score, 4)} for one in nbest]
    return row


def write_result(
    config: DecodeAsrConfig, examples: Examples, rows: Sequence[dict[str, Any]], recognizer: Recognizer
) -> dict[str, Any]:
    """Write hypotheses, what was rejected, and the scores of all utterances with a transcript."""
    out = Path(config.out)
    decoded = [row for row in rows if "text" in row]
    rejected = [*examples.rejected, *(row for row in rows if "text" not in row)]
    write_jsonl(out / "hypotheses.jsonl", decoded)
    write_bytes(out / "hyp.txt", "".join(f"{row['id']} {row['text']}".rstrip() + "\n" for row in decoded).encode())
    write_jsonl(out / "rejected.jsonl", rejected)
    found: dict[str, Any] = {"utterances": len(decoded), "rejected": len(rejected), "out": str(out)}
    said = {item.id: Reference(item.text, item.speaker or "?") for item in examples.items if item.text}
    if said:
        heard = {row["id"]: row["text"] for row in decoded if row["id"] in said}
        normalization = recognizer.text.normalization
        scored = score(said, heard, normalization)
        found["score"] = write_score(out, scored, normalization, config.scoring, len(said) - len(heard))
    return found


def _part(config: DecodeAsrConfig, number: int) -> Path:
    return Path(config.out) / "parts" / f"{number:06d}.json"


def _done(config: DecodeAsrConfig, number: int, key: str) -> list[dict[str, Any]] | None:
    """The rows of a part that was finished from the same inputs, or None."""
    path = _part(config, number)
    found = read_json(path) if path.exists() else {}
    return found["rows"] if found.get("key") == key else None


def main(argv: Sequence[str]) -> int:
    """The command `voxtok decode-asr`."""
    config = parse(DecodeAsrConfig, argv, "voxtok decode-asr")
    with connected_ranks() as ranks:
        found = decode_asr(config, ranks)
    if found:
        print(table(found["score"]) if "score" in found else "no transcripts, so no error rates")
        print(f"{found['utterances']} utterances, {found['rejected']} rejected -> {config.out}")
    return 0
