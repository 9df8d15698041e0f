"""A vocoder's folder: what it is made of, as files that run no code.

vocoder.json            format version, shape of the network, what it was trained on
model.safetensors       weights
codebook.safetensors    of the tokenizer, where tokens go in as the features that they stand for
"""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from voxtok.manifests.codebook import Codebook
from voxtok.runtime.errors import CorruptFile, one_line
from voxtok.runtime.files import read_description, write_bytes, write_json
from voxtok.vocoder.model import VocoderModel
from voxtok.vocoder.model_config import Facts, HifiganConfig, IstftConfig, ModelConfig

FORMAT = "voxtok-vocoder"
VERSION = 1
T = TypeVar("T")


def write_folder(folder: Path, model: VocoderModel, codebook: Codebook | None, dtype: torch.dtype) -> None:
    """Write a folder, with weights in `dtype`; vocoder.json comes last, so that one that opens is complete."""
    tensors = {name: _stored(tensor, dtype) for name, tensor in model.state_dict().items()}
    write_bytes(folder / "model.safetensors", save(tensors))
    if codebook is not None:
        codebook.save(folder / "codebook.safetensors")
    described = {"format": FORMAT, "version": VERSION, "model": asdict(model.config), "facts": asdict(model.facts)}
    write_json(folder / "vocoder.json", described)


def read_folder(folder: Path) -> tuple[VocoderModel, Codebook | None]:
    """The network and the codebook of a folder, on the CPU.

    Raises:
        CorruptFile: not a vocoder folder, or damaged.
        MissingPart: it needs a package that is not installed.
    """
    if not (folder / "vocoder.json").exists():
        raise CorruptFile(f"{folder}: not a vocoder folder (no vocoder.json)")
    described = read_description(folder / "vocoder.json", FORMAT, VERSION, ("model", "facts"))
    model = VocoderModel(*_described(described))
    try:
        tensors = load((folder / "model.safetensors").read_bytes())
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CorruptFile(f"{folder / 'model.safetensors'}: not this vocoder's weights: {one_line(error)}") from error
    needs_codebook = model.facts.inputs == "features" and model.facts.tokenizer is not None
    return model, Codebook.load(folder / "codebook.safetensors") if needs_codebook else None


def _described(described: dict[str, Any]) -> tuple[ModelConfig, Facts]:
    """Shape and facts as vocoder.json has them.

    Raises:
        CorruptFile: a field of another release.
    """
    try:
        shape = dict(described["model"])
        parts = {"istft": _filled(IstftConfig, shape["istft"]), "hifigan": _filled(HifiganConfig, shape["hifigan"])}
        return _filled(ModelConfig, {**shape, **parts}), _filled(Facts, described["facts"])
    except (KeyError, TypeError) as error:
        raise CorruptFile(f"vocoder.json: damaged, or of another release: {one_line(error)}") from error


def _filled(kind: type[T], values: dict[str, Any]) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if set(values) != known:
        raise KeyError(f"{kind.__name__} has {sorted(known)}, not {sorted(values)}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _stored(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    stored = tensor.detach().cpu().contiguous()
    return stored.to(dtype) if stored.is_floating_point() else stored
