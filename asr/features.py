"""Log-mel or SSL features of cuts, computed once and kept on disk as one flat array that is mapped, not read.

folder/features.f16   (all frames, layers, D) float16
folder/features.json  what made them, and where each cut's frames are
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lhotse.cut import Cut

from voxtok.asr.inputs import InputConfig
from voxtok.manifests.cuts import unique_cuts
from voxtok.manifests.identity import inputs_of
from voxtok.runtime.errors import BadAudio
from voxtok.runtime.files import atomic, read_json, sha256, write_json
from voxtok.runtime.progress import Progress
from voxtok.tokenize.extract import ExtractConfig, extract, extract_arrays
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.upstream import Upstream

Floats = npt.NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class FeatureExtractor:
    """An upstream and the layers that are read.

    Attributes:
        upstream: the filter bank or SSL model.
        layers: 0 for a filter bank.
    """

    upstream: Upstream
    layers: tuple[int, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that changes a feature, as JSON."""
        return {**self.upstream.identity, "layers": list(self.layers)}

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and dimensions of a frame."""
        return len(self.layers), self.upstream.width

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second."""
        return self.upstream.sampling_rate / self.upstream.hop_samples

    def of_cuts(self, cuts: Iterable[Cut]) -> Iterator[tuple[Cut, torch.Tensor | BadAudio]]:
        """(F, layers, D) float16 of each cut, or why there are none."""
        return extract(cuts, self.upstream, self.layers, self._stacked, ExtractConfig(windows=None))

    def of_samples(self, samples: npt.NDArray[np.float32]) -> torch.Tensor:
        """(F, layers, D) float16 of (num_samples,) at the upstream's rate."""
        config = ExtractConfig(windows=None)
        return extract_arrays([samples], self.upstream, self.layers, self._stacked, config)[0]

    def _stacked(self, features: dict[int, torch.Tensor]) -> torch.Tensor:
        return torch.stack([features[layer] for layer in self.layers], dim=1).half()


def open_extractor(config: InputConfig, device: torch.device) -> FeatureExtractor | None:
    """What `inputs.features` names; None where no features are read."""
    if config.features is None:
        return None
    layers = config.layers or (0,)
    return FeatureExtractor(load_upstream(config.features, device=device, max_layer=max(layers)), layers)


@dataclass(frozen=True, eq=False)
class Computed:
    """Features of a corpus.

    Attributes:
        of_cuts: (F, layers, D) by cut id.
        rejected: rows for rejected.jsonl: what has none, and why.
        key: hash of what made them: the extractor, the cuts and the state of their audio files.
    """

    of_cuts: dict[str, Floats]
    rejected: list[dict[str, str]]
    key: str


def features_on_disk(extractor: FeatureExtractor, cuts: Iterable[Cut], folder: Path) -> Computed:
    """Features, computed where `folder` does not have them yet; of cuts with one id, those of the first."""
    chosen = list(cuts)
    key = sha256([extractor.identity, [inputs_of(cut) for cut in chosen]])
    index = folder / "features.json"
    if not index.exists() or read_json(index)["inputs"] != key:
        _compute(extractor, chosen, folder, key)
    described = read_json(index)
    shape = (described["frames"], *extractor.shape)
    file = folder / "features.f16"  # which cannot be mapped where it is empty
    flat: Floats = np.memmap(file, np.float16, "r", 0, shape) if shape[0] else np.zeros(shape, np.float16)
    starts = described["starts"]
    of_cuts = {cut_id: flat[start:stop] for cut_id, (start, stop) in starts.items()}
    return Computed(of_cuts, described["rejected"], key)


def _compute(extractor: FeatureExtractor, cuts: list[Cut], folder: Path, key: str) -> None:
    (folder / "features.json").unlink(missing_ok=True)  # else it would stand for the array that is to come
    pairs = list(unique_cuts(cuts))
    rejected = [repeated.row() for _, repeated in pairs if repeated is not None]
    chosen = [cut for cut, repeated in pairs if repeated is None]
    starts: dict[str, tuple[int, int]] = {}
    frames = 0
    with atomic(folder / "features.f16") as file, Progress("features", sum(cut.duration for cut in chosen)) as progress:
        for cut, found in extractor.of_cuts(chosen):
            progress.add(cut.duration)
            if isinstance(found, BadAudio):
                rejected.append(found.row())
                continue
            file.write(found.numpy().tobytes())
            starts[cut.id] = (frames, frames + len(found))
            frames += len(found)
    described = {"inputs": key, "frames": frames, "starts": starts, "rejected": rejected}
    write_json(folder / "features.json", described)
