"""The moving average of weights along a training."""

import torch

Weights = dict[str, torch.Tensor]


def decay_at(step: int, decay: float) -> float:
    """Decay of a moving average after `step` steps: less early on, so that the first weights are soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


class MovingAverage:
    """Exponential moving average of a network's weights (Polyak & Juditsky 1992); with a decay of 0, its weights."""

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
        decay = decay_at(step, self._decay)
        for name, tensor in self._module.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, 1 - decay)
            else:
                self.weights[name].copy_(tensor)
