"""Copies of the tokenizers beside a recognizer's weights, so that one folder takes audio to text.

tokenizers/0, tokenizers/1, ...   one for each store whose streams stand side by side; SSL models stay where they are
"""

from collections.abc import Sequence
from pathlib import Path

from voxtok.asr.inputs import Source
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import write_bytes
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.tokenizer_folder import read_description, require_same, tokenizer_folder

FOLDER = "tokenizers"
DESCRIPTION = "tokenizer.json"


def copy_tokenizers(tokenizers: Sequence[Path], model: Path) -> None:
    """Copy tokenizer folders into a recognizer's; a store without one, made elsewhere, leaves its place empty."""
    for place, folder in enumerate(tokenizers):
        files = sorted(folder.iterdir(), key=lambda path: path.name == DESCRIPTION) if folder.is_dir() else []
        for path in files:  # the description comes last, so that a copy that opens is complete
            write_bytes(model / FOLDER / str(place) / path.name, path.read_bytes())


def open_tokenizers(
    model: Path, source: Source, *, device: str, tokenizers: Sequence[str] = (), upstream: str | None = None
) -> list[Tokenizer]:
    """The tokenizers of a recognizer's tokens, in the order of its streams.

    Args:
        model: the recognizer's folder.
        source: what made its inputs.
        device: where the SSL models run.
        tokenizers: folders to take in place of the copies.
        upstream: another place of the SSL model, if it moved.

    Raises:
        ConfigError: there is no copy, and no folder is given.
        TokenizerMismatch: a tokenizer is not the one whose tokens the recognizer was trained on.
    """
    copies = [model / FOLDER / str(place) for place in range(len(source.tokenizers))]
    folders = [tokenizer_folder(folder) for folder in tokenizers] or copies
    if len(folders) != len(copies):
        raise ConfigError(f"{model} reads tokens of {len(copies)} tokenizers, not {len(folders)}")
    found = []
    for folder, expected in zip(folders, source.tokenizers, strict=True):
        if not tokenizers and not (folder / DESCRIPTION).exists():
            raise ConfigError(f"{model} has no copy of tokenizer {expected[:12]}: give its folder with --tokenizers")
        require_same(expected, read_description(folder)["fingerprint"], str(folder))
        found.append(Tokenizer.load(folder, device=device, upstream=upstream))
    return found
