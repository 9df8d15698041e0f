"""Reading with a unit language model: utterances of different lengths side by side, a step more at a time."""

from collections.abc import Sequence

import torch

from voxtok.tts.layout import Steps
from voxtok.tts.lm import UnitLm


class Reader:
    """Reads utterances of different lengths side by side, padded on the left, with or without a cache."""

    def __init__(self, lm: UnitLm, use_cache: bool) -> None:
        self._lm, self._use_cache = lm, use_cache

    def begin(self, rows: Sequence[Steps]) -> tuple[torch.Tensor, ...]:
        """(B, values) logits of each column after each row of steps."""
        longest = max(len(row) for row in rows)
        steps = torch.zeros(len(rows), longest, self._lm.layout.columns, dtype=torch.int64)
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for i, row in enumerate(rows):
            steps[i, longest - len(row) :] = torch.from_numpy(row)
            mask[i, longest - len(row) :] = 1
        self._steps, self._mask = steps.to(self._lm.device), mask.to(self._lm.device)
        self._cache = self._lm.empty_cache() if self._use_cache else None
        return self._read(self._steps)

    def go_on(self, added: Steps, staying: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Likewise after one more step of each of the utterances that stay."""
        if len(staying) < len(self._mask):
            kept = torch.tensor(staying, device=self._mask.device)
            self._steps, self._mask = self._steps[kept], self._mask[kept]
            if self._cache is not None:
                self._cache.batch_select_indices(kept)
        new = torch.from_numpy(added)[:, None].to(self._steps.device)
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        if self._cache is not None:
            self._steps = new
            return self._read(new)
        self._steps = torch.cat([self._steps, new], dim=1)
        return self._read(self._steps)

    def _read(self, steps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        positions = (self._mask.cumsum(dim=1) - 1).clamp_min(0)[:, -steps.shape[1] :]
        return tuple(logits[:, -1] for logits in self._lm(steps, positions, self._mask, self._cache))
