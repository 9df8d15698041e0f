"""A transformers module filled with a checkpoint's weights, for families that transformers' own code computes."""

from collections.abc import Callable

import torch

from voxtok.runtime.errors import CorruptFile
from voxtok.tokenize.checkpoint import Checkpoint
from voxtok.tokenize.weights import Weights


def part_of(weights: Weights, prefixes: tuple[str, ...], kept: tuple[str, ...]) -> Weights:
    """The tensors of one part of a checkpoint, whichever model around it was saved.

    Args:
        weights: all tensors of the checkpoint.
        prefixes: what the models around the part put before its names; the first that fits is cut.
        kept: beginnings of the names that belong to the part, after cutting.
    """
    part: Weights = {}
    for name, tensor in weights.items():
        short = next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)
        if short.startswith(kept):
            part[short] = tensor
    return part


def filled(
    build: Callable[[], torch.nn.Module],
    checkpoint: Checkpoint,
    weights: Weights,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.nn.Module:
    """Build a module and give every parameter and buffer of it the checkpoint's value, in evaluation mode.

    Raises:
        CorruptFile: a tensor is missing or of another shape.
    """
    with torch.device("meta"):
        module = build().eval().requires_grad_(False)
    for name, wanted in module.state_dict().items():
        if name not in weights:
            raise CorruptFile(f"{checkpoint.name} has no tensor {name}: it is not what its configuration describes")
        if weights[name].shape != wanted.shape:
            found = f"{tuple(weights[name].shape)}, its configuration says {tuple(wanted.shape)}"
            raise CorruptFile(f"{checkpoint.name}: {name} is {found}")
    wanted_names = module.state_dict().keys()
    # Through float32, so that weights stored in half precision compute in float32 where that is asked.
    values = {name: weights[name].to(device, torch.float32).to(dtype) for name in wanted_names}
    module.load_state_dict(values, assign=True)
    return module
