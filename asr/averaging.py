"""The average of the weights of a training's best evaluations."""

from pathlib import Path

import torch
from safetensors import torch as safetensors

from voxtok.runtime.averaging import Weights
from voxtok.runtime.files import write_bytes


class BestWeights:
    """The weights of the best evaluations of a training, on disk.

    Attributes:
        scores: the score of each step that is kept, lower is better.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self.scores: dict[int, float] = {}

    def add(self, step: int, score: float, weights: Weights) -> None:
        """Keep the weights of a step if they are among the best.

        Files of those that are no longer kept stay until `clean`: a checkpoint may still count on them.
        """
        self.scores[step] = score
        best = sorted(self.scores, key=lambda kept: (self.scores[kept], kept))[: self._keep]
        self.scores = {kept: self.scores[kept] for kept in sorted(best)}
        if step in best:
            contiguous = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
            write_bytes(self._file(step), safetensors.save(contiguous))

    def clean(self) -> None:
        """Delete what is no longer kept, once a checkpoint has the scores."""
        for file in self._folder.glob("*.safetensors"):
            if int(file.stem) not in self.scores:
                file.unlink(missing_ok=True)

    def average(self) -> Weights:
        """The mean of what is kept."""
        parts = [safetensors.load_file(self._file(step)) for step in sorted(self.scores)]
        return {
            name: torch.stack([part[name].double() for part in parts]).mean(dim=0).to(tensor.dtype)
            for name, tensor in parts[0].items()
        }

    def _file(self, step: int) -> Path:
        return self._folder / f"{step}.safetensors"
