"""The tokenizer: SSL model, layer, codebook and post-processing as one folder with one identity.

tokenizer.json          format version, upstream and its identity, layers, windows, dedup, codebook hash
codebook.safetensors    centroids
bpe.model               subword units over the tokens, where there are any
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from voxtok.manifests.codebook import Codebook
from voxtok.manifests.samples import mono, resample
from voxtok.manifests.subwords import Subwords
from voxtok.manifests.tokens import Codes, TokenSequence, smallest_dtype
from voxtok.runtime import files
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import ConfigError, CorruptFile, TokenizerMismatch
from voxtok.runtime.files import sha256, write_json
from voxtok.tokenize.extract import ExtractConfig, Reduce, extract_arrays
from voxtok.tokenize.quantizer import RESIDUAL, Quantizer, check_codes, open_quantizer
from voxtok.tokenize.upstream import Dtype, Normalization, Upstream
from voxtok.tokenize.windows import WindowConfig

if TYPE_CHECKING:
    from voxtok.tokenize.stream import TokenStream

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


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Audio to tokens.

    Example:
        tokenizer = Tokenizer.load("exp/tokenizer")
        tokens = tokenizer.encode(samples, sampling_rate=16000)
    """

    config: TokenizerConfig
    upstream: Upstream
    codebook: Codebook
    subwords: Subwords | None = None

    def __post_init__(self) -> None:
        for layer in self.config.layers:
            if not 0 <= layer <= self.upstream.num_layers:
                raise ConfigError(f"layer {layer} is not one of this upstream's 0 .. {self.upstream.num_layers}")
        width = self.upstream.width * len(self.config.layers)
        if self.quantizer.width != width:
            raise ConfigError(
                f"the codebook is for frames of {self.quantizer.width} dimensions, "
                f"{self.config.upstream} layer {self.config.layer_name} has {width}"
            )
        if self.subwords is not None and self.quantizer.vocab_sizes != (self.subwords.unit_vocab_size,):
            raise ConfigError(
                f"the subwords are over one stream of {self.subwords.unit_vocab_size} tokens, "
                f"this tokenizer's streams have {list(self.quantizer.vocab_sizes)}"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Identity of this tokenizer; see `fingerprint` above."""
        return fingerprint(self.config, self.upstream.identity, self.codebook, self.subwords)

    @cached_property
    def quantizer(self) -> Quantizer:
        """Frames to tokens, on the upstream's device."""
        return open_quantizer(self.codebook, self.upstream.device)

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second before dedup."""
        return self.upstream.sampling_rate / self.upstream.hop_samples

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        """Number of different tokens of each stream; of subwords where there are any."""
        return self.quantizer.vocab_sizes if self.subwords is None else (self.subwords.vocab_size,)

    def with_dedup(self, dedup: bool) -> "Tokenizer":
        """The same tokenizer with dedup on or off, which is another identity."""
        return replace(self, config=replace(self.config, dedup=dedup))

    def with_bpe(self, subwords: Subwords | None) -> "Tokenizer":
        """The same tokenizer with other subwords, or with None the codebook's own tokens: another identity."""
        return replace(self, subwords=subwords)

    def features(self, samples: npt.ArrayLike, sampling_rate: int) -> torch.Tensor:
        """What is quantized: (frames, D) float32 on the CPU, several layers side by side.

        Args:
            samples: (num_samples,) or (channels, num_samples); channels are averaged.
            sampling_rate: of `samples`, Hz; resampled where it differs from the upstream's.

        Raises:
            ConfigError: too short for one frame, non-finite, or of another shape.
        """
        return self._extract([samples], sampling_rate, self.joined)[0]

    def encode(self, samples: npt.ArrayLike, sampling_rate: int) -> TokenSequence:
        """Tokens of one utterance; arguments and errors as in `features`."""
        return self.encode_batch([samples], sampling_rate)[0]

    def encode_batch(self, batch: Sequence[npt.ArrayLike], sampling_rate: int) -> list[TokenSequence]:
        """Tokens of several utterances, equal to those of each alone."""
        return [self.sequence(codes.numpy()) for codes in self._extract(batch, sampling_rate, self.quantize)]

    def joined(self, features: dict[int, torch.Tensor]) -> torch.Tensor:
        """The layers of {layer: (N, width)} side by side, (N, D)."""
        return torch.cat([features[layer] for layer in self.config.layers], dim=1)

    def quantize(self, features: dict[int, torch.Tensor]) -> torch.Tensor:
        """Tokens (N, streams) of {layer: (N, width)} features."""
        return self.quantizer.encode(self.joined(features))

    def sequence(self, codes: npt.NDArray[np.int64]) -> TokenSequence:
        """Wrap (frames, streams) codes as a TokenSequence, with the tokenizer's dedup and subwords."""
        tokens = self.frames(codes)
        tokens = tokens.dedup() if self.config.dedup else tokens
        return tokens if self.subwords is None else self.subwords.apply(tokens, self.fingerprint)

    def frames(self, codes: npt.NDArray[np.int64]) -> TokenSequence:
        """Wrap (frames, streams) codes as a TokenSequence, one row a frame."""
        small = codes.astype(smallest_dtype(max(self.quantizer.vocab_sizes)))
        return TokenSequence(small, self.frame_rate_hz, self.fingerprint)

    def stream(self, *, sampling_rate: int) -> "TokenStream":
        """Encode audio as it comes, in chunks; see `TokenStream`, also for what cannot be streamed.

        Raises:
            ConfigError: another sampling rate than the upstream's: a stream is not resampled.
        """
        from voxtok.tokenize.stream import TokenStream

        if sampling_rate != self.upstream.sampling_rate:
            raise ConfigError(
                f"a stream of {sampling_rate} Hz must be resampled to {self.upstream.sampling_rate} Hz as it comes: "
                "only whole recordings are resampled here"
            )
        return TokenStream(self)

    def centroids(self, codes: Codes) -> npt.NDArray[np.float32]:
        """The (frames, D) vectors that (frames, streams) codes of the codebook stand for; subwords are decoded first.

        Raises:
            ConfigError: another number of streams, or a token that the codebook does not have.
        """
        wanted = torch.from_numpy(codes.astype(np.int64))
        check_codes(wanted, self.quantizer.vocab_sizes, fewer=self.codebook.kind in RESIDUAL)
        vectors: npt.NDArray[np.float32] = self.quantizer.decode(wanted.to(self.upstream.device)).cpu().numpy()
        return vectors

    def _extract(self, batch: Sequence[npt.ArrayLike], sampling_rate: int, reduce: Reduce) -> list[torch.Tensor]:
        utterances = [self._mono(samples, sampling_rate) for samples in batch]
        config = ExtractConfig(windows=self.config.windows)
        return extract_arrays(utterances, self.upstream, self.config.layers, reduce, config)

    def _mono(self, samples: npt.ArrayLike, sampling_rate: int) -> npt.NDArray[np.float32]:
        resampled = resample(mono(samples), sampling_rate, self.upstream.sampling_rate)
        if len(resampled) < self.upstream.min_samples:
            raise ConfigError(f"{len(resampled)} samples are too short: one frame needs {self.upstream.min_samples}")
        return resampled

    def save(self, folder: Path | str) -> None:
        """Write the folder."""
        described = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            **asdict(self.config),
            "upstream": _from_anywhere(self.config.upstream),
            "identity": self.upstream.identity,
            "frame_rate_hz": self.frame_rate_hz,
            "vocab_sizes": self.vocab_sizes,
            "quantizer": self.codebook.kind,
            "codebook": self.codebook.sha256,
            "bpe": None if self.subwords is None else self.subwords.sha256,
        }
        write_folder(Path(folder), described, self.codebook, self.subwords)

    @classmethod
    def load(
        cls, folder: Path | str, *, device: str = "auto", upstream: str | None = None, compiled: bool = False
    ) -> "Tokenizer":
        """Open a tokenizer folder; loads the SSL model it names, or the copy of it at `upstream`.

        "mini" is the tokenizer that is installed with voxtok; a folder that is called so is "./mini". `compiled` lets
        torch.compile fuse the model's blocks (see load_upstream).

        Raises:
            CorruptFile: not a tokenizer folder, or its codebook or bpe.model is not the one it was saved with.
            TokenizerMismatch: the SSL model found is not the one the tokenizer was fitted on.
        """
        from voxtok.tokenize.load import load_upstream

        described = read_description(folder)
        codebook, subwords = read_parts(folder, described)
        config = config_of(described)
        config = replace(config, upstream=upstream or config.upstream)
        model = load_upstream(
            config.upstream,
            device=pick_device(device),
            dtype=config.dtype,
            normalization=config.normalization,
            max_layer=max(config.layers),
            compiled=compiled,
        )
        tokenizer = cls(config, model, codebook, subwords)
        if tokenizer.fingerprint != described["fingerprint"]:
            raise TokenizerMismatch(
                f"{folder} was fitted on {described['identity']}, but {config.upstream} is {model.identity}: "
                "give the original model with --upstream, or fit again"
            )
        return tokenizer


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


def _from_anywhere(upstream: str) -> str:
    """A folder's absolute path, so that the tokenizer works from another folder; other names, and "mini", stay."""
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
