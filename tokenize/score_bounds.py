"""Upper bounds of the inner products of frames and centroids, from a few directions and the norms of the rest."""

import functools

import torch

WIDTHS = (32, 64, 96, 128, 192, 256)
PAIR_COST = 5.0
"""Cost of one operation of a single exact score over one of a float32 matrix product; measured on AVX-512."""
HALF_COST = 0.5
"""The same of a bfloat16 matrix product, where the machine has one."""
SUBSPACE_STEPS = 2


class ScoreBounds:
    """Bounds x.c by p.q + |r||s| (see assign), and by what every rounding on the way may add.

    Args:
        centred: (K, D) float32 centroids.
        directions: (D, w) nearly orthonormal; in bfloat16 on a machine that is fast at it.
    """

    def __init__(self, centred: torch.Tensor, directions: torch.Tensor) -> None:
        dtype = torch.bfloat16 if has_fast_bfloat16() else torch.float32
        unit = 2**-8 if dtype == torch.bfloat16 else (centred.shape[1] + 8) * 2**-24
        # Roundings of the frame, of p, of q and of the sum, and one more for those of second order.
        self._rounding = 5 * unit
        self._directions = directions.to(dtype)
        rounded = self._directions.double()
        gram = rounded.T @ rounded  # of directions that rounding left not quite orthonormal: their dual basis is exact
        self._stretch = float(torch.linalg.eigvalsh(gram)[-1])
        dual = torch.linalg.solve(gram, rounded.T @ centred.double().T)  # (w, K): q
        rest = (centred.double() - (rounded @ dual).T).norm(dim=1)  # (K,): |s|
        norms = torch.stack([rest, centred.double().norm(dim=1)]) * (1 + 2 * unit)
        self._columns = torch.cat([dual, norms]).to(dtype)  # (w + 2, K)

    @property
    def width(self) -> int:
        """w."""
        return self._directions.shape[1]

    def of(self, frames: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """Never below x.c.

        Args:
            frames: (N, D) float32.
            norms: (N,) of the frames.

        Returns:
            (N, K) float32.
        """
        dtype = self._directions.dtype
        rows = torch.empty(len(frames), self.width + 2, dtype=dtype)
        projected = frames.to(dtype) @ self._directions  # (N, w): p
        rows[:, : self.width] = projected
        inside = projected.float().square().sum(1) / self._stretch
        rest = (norms.square() * (1 + self._rounding) - inside).clamp_(min=0).sqrt_()  # (N,): |r|
        rows[:, self.width] = rest * (1 + self._rounding)
        rows[:, self.width + 1] = norms * self._rounding
        return (rows @ self._columns).float()


def cheapest_bounds(centred: torch.Tensor, bias: torch.Tensor, frames: torch.Tensor) -> ScoreBounds | None:
    """The bounds that would label these frames at the least cost; None where scoring everything is cheapest.

    Args:
        centred: (K, D) float32 centroids.
        bias: (K,) added to x.c to make a score.
        frames: (n, D) float32, some of those to come.
    """
    count, width = centred.shape
    widths = [narrow for narrow in WIDTHS if narrow <= min(width // 2, count)]
    if not widths:
        return None
    directions = _leading_directions(centred, widths[-1])
    best = torch.addmm(bias, frames, centred.T).amax(1, keepdim=True) - bias
    p, q = frames @ directions, centred @ directions
    squares = frames.square().sum(1, keepdim=True), centred.square().sum(1)
    matrix_cost = HALF_COST if has_fast_bfloat16() else 1.0
    chosen, least = 0, float(count * width)
    for narrow in widths:
        near, far = p[:, :narrow], q[:, :narrow]
        rest = (squares[0] - near.square().sum(1, keepdim=True)) * (squares[1] - far.square().sum(1))
        reached = torch.addmm(rest.clamp_(min=0).sqrt_(), near, far.T) >= best
        cost = narrow * (width + count) * matrix_cost + (1 + float(reached.sum()) / len(frames)) * width * PAIR_COST
        if cost < least:
            chosen, least = narrow, cost
    return ScoreBounds(centred, directions[:, :chosen]) if chosen else None


def _leading_directions(centred: torch.Tensor, count: int) -> torch.Tensor:
    """(D, count) leading principal directions, by subspace iteration: nearly is enough, any direction gives a bound."""
    generator = torch.Generator().manual_seed(0)
    directions: torch.Tensor = torch.randn(centred.shape[1], count, generator=generator)
    for _ in range(SUBSPACE_STEPS):
        directions = torch.linalg.qr(centred.T @ (centred @ directions))[0]
    inside = centred @ directions
    singular: torch.Tensor = torch.linalg.eigh(inside.T @ inside)[1]
    return directions @ singular.flip(1)


@functools.cache
def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones."""
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
