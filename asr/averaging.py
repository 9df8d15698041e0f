"""Averages of weights: a moving one along the training, and one of the best evaluations."""

from pathlib import Path

import torch
from safetensors import torch as safetensors

from voxtok.runtime.files import write_bytes

Weights = dict[str, torch.Tensor]


class MovingAverage:
    """Exponential moving average of a network's weights (Polyak & Juditsky 1992); with a decay of 0, its weights.

    Early on the decay is (1 + step) / (10 + step), so that the first weights are soon forgotten.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self._module = module
        self._decay = decay
        self.weights: Weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    def load(self, weights: Weights) -> None:
        """Go on from a checkpoint's average, on the module's device."""
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)

    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, tensor in self._module.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, 1 - decay)
            else:
                self.weights[name].copy_(tensor)


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
