"""A neural codec's own residual quantizer as a codebook of plain arrays: any number of its first streams.

Stages come in groups. Within a group each stage takes the nearest centroid of what the stages before left over.

    EnCodec   one group, on the latents themselves
    Mimi      two groups side by side, semantic and acoustic, each on its own projection of the same latents
    DAC       every stage a group of its own, in a chain: it projects what the groups before left of the latents, and
              compares directions only (vectors of unit length)

The arithmetic is float64 and near ties are decided exactly, so a frame's tokens do not depend on its neighbours; they
are those of the model's own float32 arithmetic wherever two centroids are not equally near within its rounding.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from voxtok.manifests.codebook import Codebook
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.quantizer import check_frames

Array = npt.NDArray[np.float32]


class Projection:
    """An affine map in float64, or nothing where the codebook has no such array."""

    def __init__(self, codebook: Codebook, name: str, group: int, device: torch.device) -> None:
        def array(suffix: str) -> torch.Tensor | None:
            found = codebook.arrays.get(name + suffix)
            return None if found is None else torch.from_numpy(found[group]).to(device).double()

        self._weight, self._bias = array(""), array("_bias")

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(N, in) to (N, out)."""
        return rows if self._weight is None else F.linear(rows, self._weight, self._bias)


class Group:
    """Residual stages between a projection of the latents and one back."""

    def __init__(self, codebook: Codebook, group: int, stages: slice, device: torch.device) -> None:
        self.project_in = Projection(codebook, "project_in", group, device)
        self.project_out = Projection(codebook, "project_out", group, device)
        centroids = torch.from_numpy(codebook.arrays["centroids"][stages]).to(device)  # (S, K, d) float32
        self.stages = stages
        self._unit = bool(codebook.settings["unit"])
        self._centroids = centroids.double()
        self._assigners = [Assigner(F.normalize(words, dim=1) if self._unit else words, device) for words in centroids]

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, D) float64 to (N, S) tokens."""
        residual = self.project_in(latents)
        codes = []
        for words, assigner in zip(self._centroids, self._assigners, strict=True):
            wanted = F.normalize(residual, dim=1) if self._unit else residual
            codes.append(assigner.labels(wanted.float()))
            residual = residual - words[codes[-1]]
        return torch.stack(codes, dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """(N, S) tokens, or those of the first stages only, to (N, D) float64."""
        chosen = [words[column] for words, column in zip(self._centroids, codes.T, strict=False)]
        return self.project_out(torch.stack(chosen).sum(dim=0))


class CodecQuantizer:
    """A codec's quantizer; see Quantizer in tokenize/quantizer.py. Vectors are what the codec's decoder takes."""

    def __init__(self, codebook: Codebook, device: torch.device) -> None:
        streams, vocab_size, _ = codebook.arrays["centroids"].shape
        self.vocab_sizes: tuple[int, ...] = (vocab_size,) * streams
        self.width = int(codebook.settings["width"])
        self._chained = bool(codebook.settings["chained"])
        ends = np.cumsum(codebook.settings["stages"]).tolist()
        spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        self._groups = [Group(codebook, i, span, device) for i, span in enumerate(spans)]
        self._device = device

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """See Quantizer.

        Raises:
            ConfigError: frames of another width, or not finite.
        """
        check_frames(frames, self.width)
        latents = frames.to(self._device).double()
        codes = []
        for group in self._groups:
            codes.append(group.encode(latents))
            if self._chained:
                latents = latents - group.decode(codes[-1])
        return torch.cat(codes, dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """See Quantizer; codes may be those of the first stages only."""
        codes = codes.to(self._device)
        given = [group for group in self._groups if group.stages.start < codes.shape[1]]
        total = torch.stack([group.decode(codes[:, group.stages]) for group in given]).sum(dim=0)
        return total.float()


def open_codec(codebook: Codebook, device: torch.device) -> CodecQuantizer:
    """The quantizer of a codebook of kind codec.

    Raises:
        CorruptFile: arrays or settings are missing.
    """
    try:
        return CodecQuantizer(codebook, device)
    except (KeyError, IndexError) as error:
        raise CorruptFile(f"the codebook of kind {codebook.kind!r} is not whole: {error}") from error


def codec_codebook(model: Any, streams: int) -> Codebook:
    """The first `streams` stages of the quantizer of a transformers EncodecModel, MimiModel or DacModel.

    Raises:
        ConfigError: more streams than the codec has, or fewer than it can do with.
    """
    quantizer, family = model.quantizer, model.config.model_type
    least = quantizer.num_semantic_quantizers if family == "mimi" else 1
    most = {"encodec": "num_quantizers", "mimi": "max_num_quantizers", "dac": "n_codebooks"}[family]
    if not least <= streams <= getattr(quantizer, most):
        raise ConfigError(f"this codec has {least} .. {getattr(quantizer, most)} streams, not {streams}")
    match family:
        case "encodec":
            words = [stage.codebook.embed for stage in quantizer.layers[:streams]]
            return _codebook(model.config.hidden_size, words, [streams], [], [])
        case "mimi":
            semantic, acoustic = (
                quantizer.semantic_residual_vector_quantizer,
                quantizer.acoustic_residual_vector_quantizer,
            )
            groups = [(semantic, least), (acoustic, streams - least)][: 1 + (streams > least)]
            words = [stage.codebook.embed for group, count in groups for stage in group.layers[:count]]
            projections = [(group.input_proj, group.output_proj) for group, _ in groups if group.input_proj is not None]
            into, back = [pair[0] for pair in projections], [pair[1] for pair in projections]
            return _codebook(model.config.hidden_size, words, [count for _, count in groups], into, back)
        case _:
            stages = list(quantizer.quantizers[:streams])
            into, back = [stage.in_proj for stage in stages], [stage.out_proj for stage in stages]
            words = [stage.codebook.weight for stage in stages]
            return _codebook(model.config.hidden_size, words, [1] * streams, into, back, chained=True, unit=True)


def _codebook(
    width: int,
    words: list[torch.Tensor],
    stages: list[int],
    into: list[torch.nn.Conv1d],
    back: list[torch.nn.Conv1d],
    chained: bool = False,
    unit: bool = False,
) -> Codebook:
    arrays = {"centroids": _stacked(words)}
    for name, convs in (("project_in", into), ("project_out", back)):
        if convs:
            arrays[name] = _stacked([conv.weight[:, :, 0] for conv in convs])
        if convs and convs[0].bias is not None:
            arrays[f"{name}_bias"] = _stacked([conv.bias for conv in convs if conv.bias is not None])
    return Codebook("codec", {"width": width, "stages": stages, "chained": chained, "unit": unit}, arrays)


def _stacked(tensors: list[torch.Tensor]) -> Array:
    return torch.stack(tensors).detach().float().cpu().contiguous().numpy()
