"""The moving average of weights along a training."""

import torch

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
