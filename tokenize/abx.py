"""ABX: is X nearer to A, another token of the same phone, than to B, a phone that differs from it in one place?

Schatz 2016; the tasks and the order of averages are those of ZeroSpeech 2021 (Nguyen et al. 2020), libri-light and
fastabx (Poli et al. 2025). Errors are shares of triples, 0 to 1: lower is better, chance is 0.5, a tie counts half.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.dtw import dtw, levenshtein

Distance = Literal["angular", "identical", "edit"]
"""How two stretches are compared.

angular: DTW over the angle between frames' vectors (features, or the centroids of tokens), 1 being opposite.
identical: DTW over whether frames' tokens differ.
edit: Levenshtein distance of the tokens after dedup, over the longer one's length.
"""

Speakers = Literal["within", "across"]
Group = tuple[str, str, str]
"""Phone of A and X, phone of B, speaker of A and B."""
Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

CELLS_AT_ONCE = 1 << 22  # of the DTW tables: 2 x 17 MB
FLOATS_AT_ONCE = 1 << 25  # of gathered features: 134 MB
PAIRS_AT_ONCE = 1 << 20
TRIPLES_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False)
class Items:
    """N stretches of frames, each a phone (or triphone) in a context by a speaker.

    Attributes:
        frames: (F, D) float32 vectors, or (F,) integer tokens, of all utterances one after another.
        start: (N,) first frame of each stretch.
        length: (N,) frames of each, at least 1.
        phones: (N,) what is told apart.
        contexts: (N,) what A, B and X have in common; all equal to ignore contexts.
        speakers: (N,)
    """

    frames: torch.Tensor
    start: Indices
    length: Indices
    phones: Sequence[str]
    contexts: Sequence[str]
    speakers: Sequence[str]

    def __post_init__(self) -> None:
        if len({len(self.start), len(self.length), len(self.phones), len(self.contexts), len(self.speakers)}) > 1:
            raise ConfigError("ABX items need a start, length, phone, context and speaker each")
        if len(self.start) and (self.length.min() < 1 or (self.start + self.length).max() > len(self.frames)):
            raise ConfigError("an ABX item is empty or ends after the last frame")


@dataclass(frozen=True)
class AbxScore:
    """ABX error rate, 0 to 1: lower is better, 0.5 is chance; None where no triple exists.

    Attributes:
        error: mean over cells of a phone pair and speaker (all contexts, and all speakers of X), then over speakers,
            then over ordered pairs of phones.
        pairs: ordered pairs of phones.
        cells: groups of triples with equal phones, context and speakers.
        triples: (A, B, X) compared.
    """

    error: float | None
    pairs: int
    cells: int
    triples: int


class Cell(NamedTuple):
    """All A, B and X of one phone pair, context and speaker; within a speaker, X are the A themselves."""

    group: Group
    a: Indices
    b: Indices
    x: Indices


def abx(
    items: Items,
    *,
    distance: Distance,
    speakers: Speakers,
    max_items: int | None,
    max_x_speakers: int | None,
    seed: int,
    device: torch.device | str = "cpu",
) -> AbxScore:
    """Error rate of the ABX task over all minimal pairs of the items.

    Args:
        items: what is compared.
        distance: see `Distance`.
        speakers: `within`: A, B and X by one speaker; `across`: X by another than A and B.
        max_items: most items of one phone, context and speaker, drawn by the seed; ZeroSpeech takes 10, None takes all.
        max_x_speakers: most speakers of X for one phone, context and speaker of A; ZeroSpeech takes 5, None takes all.
            Counts only across speakers.
        seed: of what is drawn.
        device: where distances are computed.

    Raises:
        ConfigError: the distance needs vectors and the items have tokens, or the other way round.

    Worked: one speaker, one context, items p1 p2 of P at 0 and 0.1, q of Q at 0.15. A = p1, X = p2: q is nearer to p2
    than p1 is, an error; A = p2, X = p1: p2 is nearer, none. With one Q alone, Q has no second item to be X. So the
    only cell, P against Q, has 1 error in 2 triples: 0.5.
    """
    if (items.frames.ndim == 2) != (distance == "angular"):
        raise ConfigError(f"ABX distance {distance!r} does not go with frames of shape {tuple(items.frames.shape)}")
    ready = _prepared(items, distance)
    errors: dict[Group, list[float]] = {}
    triples = 0
    for cells in _batches(_cells(items, speakers, max_items, max_x_speakers, seed)):
        for group, cell_error, count in _score(cells, ready, distance, device):
            errors.setdefault(group, []).append(cell_error)
            triples += count
    by_pair: dict[tuple[str, str], list[float]] = {}
    for (phone_a, phone_b, _), cell_errors in errors.items():
        by_pair.setdefault((phone_a, phone_b), []).append(float(np.mean(cell_errors)))
    error = float(np.mean([np.mean(of_speakers) for of_speakers in by_pair.values()])) if by_pair else None
    return AbxScore(error, len(by_pair), sum(map(len, errors.values())), triples)


def _prepared(items: Items, distance: Distance) -> Items:
    """Unit vectors for angles; runs of equal tokens merged for edit distances."""
    match distance:
        case "angular":
            return replace(items, frames=torch.nn.functional.normalize(items.frames.float(), dim=1))
        case "edit":
            changes = torch.ones(len(items.frames), dtype=torch.bool)
            changes[1:] = items.frames[1:] != items.frames[:-1]
            run = (changes.cumsum(0) - 1).numpy()  # (F,) which run a frame is in
            start = run[items.start]
            length = run[items.start + items.length - 1] - start + 1
            return replace(items, frames=items.frames[changes], start=start, length=length)
        case "identical":
            return items


def _cells(
    items: Items, speakers: Speakers, max_items: int | None, max_x_speakers: int | None, seed: int
) -> Iterator[Cell]:
    rng = np.random.default_rng(seed)
    drawn: dict[str, dict[str, dict[str, list[int]]]] = {}  # context -> speaker -> phone -> items
    for item in rng.permutation(len(items.phones)).tolist():  # so that the first items of each are a random draw
        of_speaker = drawn.setdefault(items.contexts[item], {}).setdefault(items.speakers[item], {})
        of_phone = of_speaker.setdefault(items.phones[item], [])
        if max_items is None or len(of_phone) < max_items:
            of_phone.append(item)
    for context in sorted(drawn):
        by_speaker = {
            speaker: {phone: np.array(sorted(found)) for phone, found in sorted(phones.items())}
            for speaker, phones in sorted(drawn[context].items())
        }
        if speakers == "within":
            yield from _within(by_speaker)
        else:
            yield from _across(by_speaker, max_x_speakers, rng)


def _within(by_speaker: dict[str, dict[str, Indices]]) -> Iterator[Cell]:
    for speaker, phones in by_speaker.items():
        for a, b in permutations(phones, 2):
            if len(phones[a]) > 1:
                yield Cell((a, b, speaker), phones[a], phones[b], phones[a])


def _across(
    by_speaker: dict[str, dict[str, Indices]], max_x_speakers: int | None, rng: np.random.Generator
) -> Iterator[Cell]:
    for speaker, phones in by_speaker.items():
        for a in phones if len(phones) > 1 else ():
            others = [other for other in by_speaker if other != speaker and a in by_speaker[other]]
            for other in rng.permutation(others)[:max_x_speakers].tolist():
                for b in phones:
                    if b != a:
                        yield Cell((a, b, speaker), phones[a], phones[b], by_speaker[other][a])


def _batches(cells: Iterator[Cell]) -> Iterator[list[Cell]]:
    """Runs of cells of bounded work; neighbours share a context, hence many of their distances."""
    batch: list[Cell] = []
    pairs = 0
    for cell in cells:
        batch.append(cell)
        pairs += len(cell.x) * (len(cell.a) + len(cell.b))
        if pairs >= PAIRS_AT_ONCE:
            yield batch
            batch, pairs = [], 0
    if batch:
        yield batch


def _score(
    cells: Sequence[Cell], items: Items, distance: Distance, device: torch.device | str
) -> Iterator[tuple[Group, float, int]]:
    """Each cell's group, error and number of triples; cells of one shape are scored together."""
    total = len(items.start)
    stacks = list(_stacked(cells))
    wanted = [_keys(x, other, total).ravel() for _, a, b, x in stacks for other in (a, b)]
    keys = np.unique(np.concatenate(wanted))
    found = _distances(items, keys // total, keys % total, distance, device)
    for groups, a, b, x in stacks:
        to_a = found[np.searchsorted(keys, _keys(x, a, total))][:, :, :, None]  # (C, X, A, 1)
        to_b = found[np.searchsorted(keys, _keys(x, b, total))][:, :, None, :]  # (C, X, 1, B)
        wrong = (to_a > to_b) + np.float32(0.5) * (to_a == to_b)
        other = (x[:, :, None] != a[:, None, :])[:, :, :, None]  # an item is not compared with itself
        triples = int(other[0].sum()) * b.shape[1]
        errors = (wrong * other).sum(axis=(1, 2, 3), dtype=np.float64) / triples
        yield from ((group, float(error), triples) for group, error in zip(groups, errors, strict=True))


def _stacked(cells: Sequence[Cell]) -> Iterator[tuple[list[Group], Indices, Indices, Indices]]:
    """Cells of equal shape together: their groups, and their A, B and X as (C, A), (C, B), (C, X) items."""
    shapes: dict[tuple[int, int, int], list[Cell]] = {}
    for cell in cells:
        shapes.setdefault((len(cell.a), len(cell.b), len(cell.x)), []).append(cell)
    for (a, b, x), alike in shapes.items():
        at_once = max(1, TRIPLES_AT_ONCE // (a * b * x))
        for begin in range(0, len(alike), at_once):
            some = alike[begin : begin + at_once]
            yield (
                [cell.group for cell in some],
                np.stack([cell.a for cell in some]),
                np.stack([cell.b for cell in some]),
                np.stack([cell.x for cell in some]),
            )


def _keys(x: Indices, other: Indices, total: int) -> Indices:
    """One number for each unordered pair: (C, X), (C, Y) -> (C, X, Y)."""
    low = np.minimum(x[:, :, None], other[:, None, :])
    high = np.maximum(x[:, :, None], other[:, None, :])
    return low * total + high


def _distances(items: Items, first: Indices, second: Indices, distance: Distance, device: torch.device | str) -> Floats:
    """Distance of each pair of items, (P,) float32: computed in chunks of pairs of similar lengths."""
    out = np.empty(len(first), dtype=np.float32)
    swapped = items.length[first] < items.length[second]
    longer, shorter = np.where(swapped, second, first), np.where(swapped, first, second)
    order = np.lexsort((items.length[shorter], items.length[longer]))[::-1]
    frames = items.frames.to(device)
    width = 1 if frames.ndim == 1 else frames.shape[1]
    begin = 0
    while begin < len(order):
        longest = int(items.length[longer[order[begin]]])
        at_once = max(1, min(CELLS_AT_ONCE // (longest + 1) ** 2, FLOATS_AT_ONCE // (2 * longest * width)))
        chunk = order[begin : begin + at_once]
        out[chunk] = _chunk(items, frames, longer[chunk], shorter[chunk], distance).cpu().numpy()
        begin += len(chunk)
    return out


def _chunk(items: Items, frames: torch.Tensor, first: Indices, second: Indices, distance: Distance) -> torch.Tensor:
    x, rows = _padded(items, frames, first)
    y, columns = _padded(items, frames, second)
    match distance:
        case "angular":
            cosine = torch.bmm(x, y.transpose(1, 2)).clamp(-1, 1)
            return dtw(torch.acos(cosine) / torch.pi, rows, columns)
        case "identical":
            return dtw((x[:, :, None] != y[:, None, :]).float(), rows, columns)
        case "edit":
            edits = levenshtein(x[:, :, None] != y[:, None, :], rows, columns)
            return edits / torch.maximum(rows, columns)


def _padded(items: Items, frames: torch.Tensor, which: Indices) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of some items, (P, longest[, D]), padded with their last frame, and their (P,) lengths."""
    start = torch.from_numpy(items.start[which]).to(frames.device)
    length = torch.from_numpy(items.length[which]).to(frames.device)
    step = torch.arange(int(length.max()), device=frames.device)
    return frames[start[:, None] + torch.minimum(step[None, :], length[:, None] - 1)], length
