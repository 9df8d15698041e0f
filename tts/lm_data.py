"""What language models are trained on: utterances from token stores or flat arrays, packed into rows of equal length.

Several utterances share a row. Positions begin anew with each, and the model attends within one alone; utterances
longer than a row are cut, at other places in every epoch. What a batch holds follows from the seed, the epoch and the
batch's place in it, not from ranks, threads or restarts.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from voxtok.manifests.export import FlatTokens, load_flat
from voxtok.manifests.store import TokenStore
from voxtok.manifests.tokens import TokenSequence, smallest_dtype
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.tokenize.tokenizer_folder import require_same
from voxtok.tts.layout import IGNORED, Layout, Steps

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Documents:
    """Utterances as a model reads them.

    Attributes:
        lengths: (documents,) steps of each, its end included.
        durations_s: (documents,) seconds of audio of each.
        read: number of a document -> its inputs and targets, (steps, columns) each.
        divisible: whether a document may be cut; one that must be whole is left out where it is too long.
    """

    lengths: Ints
    durations_s: npt.NDArray[np.float64]
    read: Callable[[int], tuple[Steps, Steps]]
    divisible: bool = True

    def __len__(self) -> int:
        return len(self.lengths)


def open_tokens(folder: Path | str) -> FlatTokens:
    """Tokens of a flat export, memory-mapped, or of a token store, which is read into memory.

    Raises:
        CorruptFile: neither.
    """
    folder = Path(folder)
    if (folder / "flat.json").exists():
        return load_flat(folder)
    if not (folder / "store.json").exists():
        raise CorruptFile(f"{folder}: neither a token store (store.json) nor flat tokens (flat.json)")
    store = TokenStore.open(folder)
    every = [tokens for _, tokens in store]
    dtype = smallest_dtype(max(store.info.vocab_sizes))
    empty = np.empty((0, len(store.info.vocab_sizes)), dtype=dtype)
    durations = [np.asarray(tokens.durations, dtype=np.uint32) for tokens in every if tokens.durations is not None]
    return FlatTokens(
        tokens=np.concatenate([empty, *(tokens.codes for tokens in every)]),
        offsets=np.cumsum([0, *(len(tokens) for tokens in every)]),
        fingerprint=store.fingerprint,
        frame_rate_hz=store.frame_rate_hz,
        vocab_sizes=store.info.vocab_sizes,
        durations=np.concatenate([np.empty(0, np.uint32), *durations]) if store.info.has_durations else None,
        bpe=store.info.bpe,
    )


def hash_of(flat: FlatTokens) -> str:
    """SHA-256 of the tokens, where utterances end, and durations."""
    found = hashlib.sha256()
    for array in (flat.tokens, flat.offsets, flat.durations):
        found.update(b"" if array is None else np.ascontiguousarray(array).data)
    return found.hexdigest()


def sequence(flat: FlatTokens, index: int) -> TokenSequence:
    """One utterance of flat tokens."""
    begin, end = flat.offsets[index], flat.offsets[index + 1]
    durations = None if flat.durations is None else flat.durations[begin:end]
    return TokenSequence(flat.tokens[begin:end], flat.frame_rate_hz, flat.fingerprint, durations)


def mean_frames(sources: Sequence[FlatTokens]) -> float:
    """Frames of a run of equal frames, or of a token that stands for several, on average."""
    frames, runs = 0, 0
    for source in sources:
        for i in range(len(source)):
            merged = sequence(source, i).dedup()
            frames, runs = frames + merged.num_frames, runs + len(merged)
    return frames / max(runs, 1)


def unit_documents(sources: Sequence[FlatTokens], layout: Layout) -> Documents:
    """The utterances of several sources, in their order; tokens stay where they are until a batch needs them.

    Raises:
        TokenizerMismatch: tokens of another tokenizer than the layout's.
        ConfigError: no tokens at all.
    """
    for source in sources:
        require_same(layout.fingerprint, source.fingerprint, "a token store")
    lengths = np.concatenate([_lengths(source, layout) for source in sources])
    durations_s = np.concatenate([_durations_s(source) for source in sources])
    spoken = np.flatnonzero(lengths)  # an utterance without tokens teaches nothing
    if not len(spoken):
        raise ConfigError("there are no tokens to read: the stores are empty")
    firsts = np.cumsum([0, *(len(source) for source in sources)])

    def read(document: int) -> tuple[Steps, Steps]:
        place = int(spoken[document])
        source = int(np.searchsorted(firsts, place, side="right")) - 1
        return layout.document(sequence(sources[source], place - int(firsts[source])))

    return Documents(lengths[spoken], durations_s[spoken], read)


def _lengths(source: FlatTokens, layout: Layout) -> Ints:
    """(utterances,) steps of each, its end included; 0 of one without tokens."""
    rows: Ints
    if layout.rows == "frames" or (layout.rows == "merged" and layout.has_durations):
        rows = np.diff(source.offsets)
    else:
        rows = np.array([len(layout.rows_of(sequence(source, i))) for i in range(len(source))], dtype=np.int64)
    steps = rows * layout.streams if layout.pattern == "flattened" else rows
    return np.where(rows > 0, steps + max(layout.tail_steps, 1), 0)


def _durations_s(source: FlatTokens) -> npt.NDArray[np.float64]:
    ends: Ints = source.offsets
    if source.durations is not None:
        ends = np.concatenate([[0], np.cumsum(source.durations, dtype=np.int64)])[source.offsets]
    frames: npt.NDArray[np.float64] = np.diff(ends).astype(np.float64)
    return frames / source.frame_rate_hz


Span = tuple[int, int, int]
"""A document and the steps of it, from the first to before the last."""


def spans(documents: Documents, context: int, rng: np.random.Generator) -> list[Span]:
    """Every step of every document once, in spans of at most `context`; long ones are cut at random places."""
    found: list[Span] = []
    for document in np.flatnonzero(documents.lengths <= context).tolist():
        found.append((document, 0, int(documents.lengths[document])))
    for document in np.flatnonzero(documents.lengths > context).tolist() if documents.divisible else ():
        length = int(documents.lengths[document])
        cuts = [0, *range(int(rng.integers(1, context + 1)), length, context), length]
        found += [(document, begin, end) for begin, end in pairwise(cuts)]
    return found


def pack(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Items into rows of at most `context` steps: each goes to the fullest row that has room for it (best fit).

    Worked: items of 5, 4, 3, 3 and 1 in rows of 8: 5 opens a row, 4 another, 3 fills the first, 3 goes to the second,
    and so does 1, which fills it.
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(context + 1)]  # rows by the room left in them
    rooms = 0  # bit r is set where some row has room r: the smallest that suffices is then one operation
    for item, length in enumerate(lengths):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms &= ~(1 << room)
        else:
            room, row = context, len(rows)
            rows.append([])
        rows[row].append(item)
        if room > length:
            with_room[room - length].append(row)
            rooms |= 1 << (room - length)
    return rows


@dataclass(frozen=True, eq=False)
class LmBatch:
    """Packed rows: this rank's part of a batch.

    Attributes:
        inputs: (B, T, columns) int64.
        targets: (B, T, columns) int64, IGNORED where nothing is to be predicted.
        positions: (B, T) int64, which begin anew with each utterance.
        duration_s: seconds of audio.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    duration_s: float

    def to(self, device: torch.device) -> "LmBatch":
        """The same on a device."""
        return LmBatch(
            self.inputs.to(device), self.targets.to(device), self.positions.to(device), duration_s=self.duration_s
        )


def packed(documents: Documents, rows: Sequence[Sequence[Span]], columns: int) -> LmBatch:
    """Rows of spans as tensors, as long as the fullest row."""
    steps = max((sum(end - begin for _, begin, end in row) for row in rows), default=1)
    inputs = np.zeros((len(rows), steps, columns), dtype=np.int64)
    targets = np.full((len(rows), steps, columns), IGNORED, dtype=np.int64)
    positions = np.zeros((len(rows), steps), dtype=np.int64)
    duration_s = 0.0
    for i, row in enumerate(rows):
        place = 0
        for document, begin, end in row:
            given, wanted = documents.read(document)
            here = slice(place, place + end - begin)
            inputs[i, here], targets[i, here] = given[begin:end], wanted[begin:end]
            positions[i, here] = np.arange(end - begin)
            duration_s += float(documents.durations_s[document]) * (end - begin) / len(given)
            place += end - begin
    return LmBatch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(positions), duration_s)


def plan_epoch(documents: Documents, context: int, rows: int, seed: int, epoch: int) -> list[list[list[Span]]]:
    """Batches of `rows` packed rows, in random order; the last may have fewer."""
    rng = np.random.default_rng([seed, epoch])
    every = spans(documents, context, rng)
    shuffled = [every[i] for i in rng.permutation(len(every))]
    filled = pack([end - begin for _, begin, end in shuffled], context)
    mixed = [[shuffled[item] for item in filled[row]] for row in rng.permutation(len(filled))]
    return [mixed[first : first + rows] for first in range(0, len(mixed), rows)]


def lm_batches(
    documents: Documents, layout: Layout, context: int, rows: int, seed: int, ranks: Ranks, begin: int
) -> Iterator[Callable[[], LmBatch]]:
    """Recipes of batches without end, from batch `begin` on; each makes this rank's rows of one.

    Raises:
        ConfigError: no document is short enough for the context.
    """
    done = 0
    for epoch in count():
        plan = plan_epoch(documents, context, rows, seed, epoch)
        if not plan:
            raise ConfigError(f"no utterance is as short as the model's {context} steps: raise model.context-steps")
        for place in range(max(0, begin - done), len(plan)):
            yield _Recipe(documents, plan[place][ranks.rank :: ranks.world_size], layout.columns)
        done += len(plan)


@dataclass(frozen=True, eq=False)
class _Recipe:
    documents: Documents
    rows: list[list[Span]]
    columns: int

    def __call__(self) -> LmBatch:
        return packed(self.documents, self.rows, self.columns)
