"""`voxtok average`: SSL models of several trainings -> one with the mean of their weights (Wortsman et al. 2022).

Trainings that began at the same weights, with other seeds or other disguises, end in one valley: between them the loss
is lower than at either, as what each learnt of the training speech alone averages out. Models of different beginnings
have no such mean.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save

from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import write_bytes
from voxtok.tokenize.weights import Weights, read_weights

DESCRIPTIONS = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """Average the weights of checkpoint folders of one shape."""

    models: tuple[str, ...]
    """Folders that `voxtok pretrain` or `voxtok distill` wrote, RUN/model, of trainings from the same first weights."""
    out: str
    """Checkpoint folder to write."""

    def __post_init__(self) -> None:
        if len(set(self.models)) < max(2, len(self.models)):
            raise ConfigError("models needs two folders or more, each once")
        if self.out in self.models:
            raise ConfigError("out must be another folder than those of the models")


def average(config: AverageConfig) -> Path:
    """Write the averaged model, in the first one's number format.

    Raises:
        ConfigError: a folder is no checkpoint, or the models differ in shape.
        CorruptFile: weights cannot be read.
    """
    every = [_weights(Path(folder)) for folder in config.models]
    for folder, weights in zip(config.models, every, strict=True):
        if _shapes(weights) != _shapes(every[0]):
            raise ConfigError(f"{folder} is of another shape than {config.models[0]}: they have no mean")
    mean = mean_of(every)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in DESCRIPTIONS:
        shutil.copyfile(Path(config.models[0]) / name, out / name)
    write_bytes(out / "model.safetensors", save(mean, {"format": "pt"}))  # last: without it there is no model
    return out


def mean_of(every: Sequence[Weights]) -> Weights:
    """The mean of each tensor, taken in float64, in the number format of the first model."""
    mean: Weights = {}
    for name, first in every[0].items():
        total = sum(weights[name].double() for weights in every[1:]) + first.double()
        mean[name] = (total / len(every)).to(first.dtype).contiguous()
    return mean


def _weights(folder: Path) -> Weights:
    for name in (*DESCRIPTIONS, "model.safetensors"):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} holds no {name}: it is not the model folder of a training")
    return read_weights(folder / "model.safetensors")


def _shapes(weights: Weights) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def main(argv: Sequence[str]) -> int:
    """`voxtok average --models "[FOLDER, ...]" --out FOLDER`."""
    print(average(parse(AverageConfig, argv, "voxtok average")))
    return 0
