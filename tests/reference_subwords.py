"""BPE by loops: what a merge is and what encoding does with the merges, sharing no code with the product."""


def encode(codes: list[int], pieces: list[tuple[int, ...]]) -> list[int]:
    """Merge the neighbours whose piece was learnt first, the leftmost of those, until no neighbours are a piece.

    Args:
        codes: tokens.
        pieces: by number; the lower of two merges was learnt earlier.
    """
    number = {piece: i for i, piece in enumerate(pieces)}
    parts: list[tuple[int, ...]] = [(code,) for code in codes]
    while True:
        best = -1
        for i in range(len(parts) - 1):
            merged = number.get(parts[i] + parts[i + 1])
            if merged is not None and (best < 0 or merged < number[parts[best] + parts[best + 1]]):
                best = i
        if best < 0:
            return [number[part] for part in parts]
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
