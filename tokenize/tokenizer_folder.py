"""A tokenizer's folder and its identity: what decides its tokens, as files that need no SSL model to be read.

tokenizer.json          format version, upstream and its identity, layers, windows, dedup, codebook hash
codebook.safetensors    centroids
bpe.model               subword units over the tokens, where there are any
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from voxtok.manifests.codebook import Codebook
from voxtok.manifests.subwords import Subwords
from voxtok.runtime import files
from voxtok.runtime.errors import CorruptFile, TokenizerMismatch
from voxtok.runtime.files import sha256, write_json
from voxtok.tokenize.upstream import Dtype, Normalization
from voxtok.tokenize.windows import WindowConfig

FORMAT = "voxtok-tokenizer"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What tokenizer.json holds beside the identity of the upstream's weights and of the codebook."""

    upstream: str
    """mfcc, a Hugging Face folder or id, ...: where to find the weights, not which they are."""
    layers: tuple[int, ...]
    """Outputs of transformer blocks, 1-based; 0 is the input to block 1. Several are quantized side by side."""
    normalization: Normalization
    """Waveform normalisation: checkpoint, utterance or none."""
    dtype: Dtype
    """float32 or bfloat16."""
    windows: WindowConfig | None
    """How recordings longer than a window are computed; None computes every recording whole."""
    dedup: bool
    """Whether runs of equal tokens are merged into one token with a duration."""

    @property
    def layer_name(self) -> str:
        """Such as 9, or 6+9 for two layers."""
        return "+".join(map(str, self.layers))


def fingerprint(
    config: TokenizerConfig, upstream_identity: dict[str, Any], codebook: Codebook, subwords: Subwords | None
) -> str:
    """SHA-256 over everything that changes a token; the upstream's path is not part of it, its weights are."""
    identity = {
        "format": [FORMAT, VERSION],
        "upstream": upstream_identity,
        "layers": list(config.layers),
        "windows": None if config.windows is None else asdict(config.windows),
        "codebook": codebook.sha256,
        "dedup": config.dedup,
    }
    return sha256(identity if subwords is None else identity | {"bpe": subwords.sha256})


def tokenizer_folder(name: Path | str) -> Path:
    """The folder of a tokenizer: "mini" is the installed one, as in `--upstream mini`; everything else is a path."""
    installed = Path(__file__).parents[1] / "models" / "mini-500"  # in a checkout as in an installed package
    return installed if name == "mini" else Path(name)


def read_description(folder: Path | str) -> dict[str, Any]:
    """tokenizer.json, checked for format and version; needs no model."""
    path = tokenizer_folder(folder) / "tokenizer.json"
    if not path.exists():
        raise CorruptFile(f"{folder}: not a tokenizer folder (no tokenizer.json)")
    keys = ("fingerprint", "identity", "codebook", "vocab_sizes", *(field.name for field in fields(TokenizerConfig)))
    return files.read_description(path, FORMAT, VERSION, keys)


def config_of(described: dict[str, Any]) -> TokenizerConfig:
    """The configuration in tokenizer.json."""
    windows = described["windows"]
    return TokenizerConfig(
        upstream=described["upstream"],
        layers=tuple(described["layers"]),
        normalization=described["normalization"],
        dtype=described["dtype"],
        windows=None if windows is None else WindowConfig(**windows),
        dedup=described["dedup"],
    )


def read_parts(folder: Path | str, described: dict[str, Any]) -> tuple[Codebook, Subwords | None]:
    """The codebook and the subwords that tokenizer.json describes; needs no SSL model.

    Raises:
        CorruptFile: one is missing, damaged or another, or there is a bpe.model that is not described.
    """
    folder = tokenizer_folder(folder)
    codebook = Codebook.load(folder / "codebook.safetensors")
    if codebook.sha256 != described["codebook"]:
        raise CorruptFile(f"{folder}: codebook.safetensors is not the codebook that tokenizer.json describes")
    model = folder / "bpe.model"
    wanted = described.get("bpe")
    if wanted is None and model.exists():
        raise CorruptFile(f"{model} is not part of this tokenizer: `voxtok bpe train` adds subwords; delete it")
    subwords = None if wanted is None else Subwords.load(model)
    if subwords is not None and subwords.sha256 != wanted:
        raise CorruptFile(f"{folder}: bpe.model is not the one that tokenizer.json describes")
    return codebook, subwords


def write_folder(folder: Path, described: dict[str, Any], codebook: Codebook, subwords: Subwords | None) -> None:
    """Write a tokenizer folder; tokenizer.json comes last, so that one that opens is complete."""
    codebook.save(folder / "codebook.safetensors")
    if subwords is None:
        (folder / "bpe.model").unlink(missing_ok=True)
    else:
        subwords.save(folder / "bpe.model")
    write_json(folder / "tokenizer.json", described)


def from_anywhere(upstream: str) -> str:
    """The name with an absolute path, so that the tokenizer works from another folder; other names, and "mini", stay.

    Worked: in /exp, `pooled:hubert` is `pooled:/exp/hubert` if there is such a folder, `predicted:1:iter6` likewise,
    and `torchaudio:HUBERT_BASE=base.pt` is `torchaudio:HUBERT_BASE=/exp/base.pt`.
    """
    kind, _, rest = upstream.partition(":")
    if kind == "pooled":
        return f"pooled:{from_anywhere(rest)}"
    separator = {"predicted": ":", "torchaudio": "="}.get(kind)
    if separator:
        name, _, path = rest.partition(separator)
        return f"{kind}:{name}{separator}{Path(path).resolve()}" if path and Path(path).exists() else upstream
    return str(Path(upstream).resolve()) if upstream != "mini" and Path(upstream).is_dir() else upstream


def require_same(expected: str, found: str, where: str) -> None:
    """Refuse tokens of another tokenizer.

    Raises:
        TokenizerMismatch: names both fingerprints and says how to re-encode.
    """
    if expected != found:
        raise TokenizerMismatch(
            f"{where} holds tokens of tokenizer {found[:12]}, but {expected[:12]} is needed: "
            "encode the corpus again with that tokenizer (voxtok encode --tokenizer ...)"
        )
