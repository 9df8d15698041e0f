"""A checkpoint on disk or on the Hugging Face hub: its configuration, its preprocessor and its weights."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxtok.runtime.errors import ConfigError, CorruptFile, one_line
from voxtok.runtime.files import read_json
from voxtok.tokenize.weights import Weights, read_weights

SMALL_FILES = ["config.json", "preprocessor_config.json"]
SAFE_FILES = ["model*.safetensors", "model.safetensors.index.json"]
TORCH_FILES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


@dataclass(frozen=True)
class Checkpoint:
    """A folder as `save_pretrained` writes it.

    Attributes:
        name: what the user called it.
        folder: where its files are.
    """

    name: str
    folder: Path

    @property
    def model_type(self) -> str:
        """The architecture that config.json names, such as "hubert"."""
        return str(self._json("config.json").get("model_type"))

    def config(self) -> Any:
        """The transformers configuration object, with the defaults that config.json leaves out."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.folder, local_files_only=True)

    def preprocessor(self) -> dict[str, Any]:
        """What preprocessor_config.json says; empty where there is none."""
        return self._json("preprocessor_config.json") if (self.folder / "preprocessor_config.json").exists() else {}

    def weights(self) -> Weights:
        """Read all tensors as they are stored, in the checkpoint's dtype.

        Raises:
            ConfigError: the folder holds no weights.
            CorruptFile: a weight file is damaged.
        """
        weights: Weights = {}
        for path in self.weight_files():
            weights |= read_weights(path)
        return weights

    def weight_files(self) -> list[Path]:
        """The file, or the shards that an index names, that hold the weights; safetensors are preferred."""
        for stem in ("model.safetensors", "pytorch_model.bin"):
            if (self.folder / stem).exists():
                return [self.folder / stem]
            if (self.folder / f"{stem}.index.json").exists():
                index = self._json(f"{stem}.index.json")
                return [self.folder / name for name in sorted(set(index["weight_map"].values()))]
        raise ConfigError(f"{self.name}: no model.safetensors and no pytorch_model.bin in {self.folder}")

    def _json(self, name: str) -> dict[str, Any]:
        value = read_json(self.folder / name)
        if not isinstance(value, dict):
            raise CorruptFile(f"{self.folder / name} should hold a JSON object")
        return value


def open_checkpoint(name: str) -> Checkpoint:
    """Find a checkpoint: a local folder, else the hub's cache, else (unless offline) the hub.

    Args:
        name: a folder, or a hub id with an optional "@revision", such as "facebook/hubert-base-ls960@main".

    Raises:
        ConfigError: there is no such folder and no such model; the message says where was looked.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _from_hub(name)
    if not (folder / "config.json").exists():
        raise ConfigError(f"{name}: {folder} has no config.json, so it is not a checkpoint that save_pretrained wrote")
    return Checkpoint(name, folder)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    hub = "the hub's local cache (HF_HUB_OFFLINE is set)" if offline else "the Hugging Face hub and its local cache"

    def download(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(repo, revision=revision or None, allow_patterns=patterns, local_files_only=offline)
        )

    try:
        folder = download(SMALL_FILES + SAFE_FILES)
        return folder if any(folder.glob("*.safetensors")) else download(SMALL_FILES + TORCH_FILES)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = "" if offline else f" ({one_line(error)})"
        raise ConfigError(
            f"no model {name!r}: not a folder here, and not found as {repo!r} in {hub}{reason};"
            " give a folder that save_pretrained wrote, a hub id, torchaudio:NAME, mfcc or logmel"
        ) from error
