"""Token quality as loops over frames, triples and table cells, from the definitions; shares no code with voxtok."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any


def phone_purity(phones: Sequence[str], codes: Sequence[int]) -> float:
    right = 0
    for code in set(codes):
        of_code = Counter(phone for phone, other in zip(phones, codes, strict=True) if other == code)
        right += max(of_code.values())
    return right / len(codes)


def cluster_purity(phones: Sequence[str], codes: Sequence[int]) -> float:
    right = 0
    for phone in set(phones):
        of_phone = Counter(code for other, code in zip(phones, codes, strict=True) if other == phone)
        right += max(of_phone.values())
    return right / len(codes)


def pnmi(phones: Sequence[str], codes: Sequence[int]) -> float:
    total = len(phones)
    of_phone, of_code, of_both = Counter(phones), Counter(codes), Counter(zip(phones, codes, strict=True))
    entropy = -sum(n / total * math.log(n / total) for n in of_phone.values())
    mutual = 0.0
    for (phone, code), n in of_both.items():
        mutual += n / total * math.log((n / total) / (of_phone[phone] / total * of_code[code] / total))
    return mutual / entropy if entropy else 0.0


def label_at(phones: Sequence[tuple[str, float, float]], time_s: float) -> str | None:
    for symbol, start_s, end_s in phones:
        if start_s - 1e-9 <= time_s < end_s - 1e-9:
            return symbol
    return None


def runs(codes: Sequence[int]) -> list[int]:
    merged: list[int] = []
    for code in codes:
        if not merged or merged[-1] != code:
            merged.append(code)
    return merged


def edit_distance(first: Sequence[int], second: Sequence[int]) -> int:
    if not first or not second:
        return len(first) + len(second)
    above = list(range(len(second) + 1))
    for i, x in enumerate(first, 1):
        row = [i]
        for j, y in enumerate(second, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
        above = row
    return above[-1]


def dtw(cost: Sequence[Sequence[float]]) -> float:
    """Cost over length of the path found by walking back from the end: diagonal if no dearer, else the shorter."""
    n, m = len(cost), len(cost[0])
    total = [[math.inf] * m for _ in range(n)]
    length = [[0] * m for _ in range(n)]
    for i in range(n):
        for j in range(m):
            if i == j == 0:
                total[0][0], length[0][0] = cost[0][0], 1
                continue
            options = []
            if i and j:
                options.append((total[i - 1][j - 1], 0, length[i - 1][j - 1]))
            if i:
                options.append((total[i - 1][j], 1, length[i - 1][j]))
            if j:
                options.append((total[i][j - 1], 1, length[i][j - 1]))
            before, _, steps = min(options)
            total[i][j], length[i][j] = cost[i][j] + before, steps + 1
    return total[-1][-1] / length[-1][-1]


def angle(x: Sequence[float], y: Sequence[float]) -> float:
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    norms = math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in y))
    return math.acos(max(-1.0, min(1.0, dot / norms))) / math.pi


def angular_dtw(x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]) -> float:
    return dtw([[angle(a, b) for b in y] for a in x])


def identical_dtw(x: Sequence[int], y: Sequence[int]) -> float:
    return dtw([[float(a != b) for b in y] for a in x])


def relative_edits(x: Sequence[int], y: Sequence[int]) -> float:
    return edit_distance(runs(x), runs(y)) / max(len(runs(x)), len(runs(y)))


def abx(
    stretches: Sequence[Any],
    phones: Sequence[str],
    contexts: Sequence[str],
    speakers: Sequence[str],
    distance: Callable[[Any, Any], float],
    across: bool,
) -> tuple[float | None, int]:
    """Every triple of every cell, then means: over cells of a phone pair and speaker, over speakers, over pairs."""
    everything = range(len(phones))
    cells: dict[tuple[str, str, str, str, str], list[float]] = {}
    for a in everything:
        for b in everything:
            for x in everything:
                same_place = contexts[a] == contexts[b] == contexts[x] and speakers[a] == speakers[b]
                right_speaker = (speakers[x] != speakers[a]) == across
                if a != x and same_place and right_speaker and phones[a] == phones[x] != phones[b]:
                    key = (phones[a], phones[b], speakers[a], contexts[a], speakers[x])
                    to_a, to_b = distance(stretches[x], stretches[a]), distance(stretches[x], stretches[b])
                    cells.setdefault(key, []).append(0.5 if abs(to_a - to_b) < 1e-6 else float(to_a > to_b))
    by_speaker: dict[tuple[str, str, str], list[float]] = {}
    for (phone_a, phone_b, speaker, _, _), errors in cells.items():
        by_speaker.setdefault((phone_a, phone_b, speaker), []).append(sum(errors) / len(errors))
    by_pair: dict[tuple[str, str], list[float]] = {}
    for (phone_a, phone_b, _), means in by_speaker.items():
        by_pair.setdefault((phone_a, phone_b), []).append(sum(means) / len(means))
    pairs = [sum(means) / len(means) for means in by_pair.values()]
    return (sum(pairs) / len(pairs) if pairs else None), sum(map(len, cells.values()))
