"""The tokenizer: SSL model, layer, codebook and post-processing as one folder with one identity.

tokenizer.json          format version, upstream and its identity, layer, windows, dedup, codebook hash
codebook.safetensors    centroids
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchaudio

from voxtok.manifests.codebook import Codebook
from voxtok.manifests.tokens import Codes, TokenSequence, smallest_dtype
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import ConfigError, CorruptFile, TokenizerMismatch
from voxtok.runtime.files import read_json, sha256, write_json
from voxtok.tokenize.assign import Assigner
from voxtok.tokenize.extract import ExtractConfig, extract_arrays
from voxtok.tokenize.upstream import Dtype, Normalization, Upstream
from voxtok.tokenize.windows import WindowConfig

FORMAT = "voxtok-tokenizer"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What tokenizer.json holds beside the identity of the upstream's weights and of the codebook."""

    upstream: str
    """mfcc, logmel, a Hugging Face folder or id, or torchaudio:NAME; where to find the weights, not which they are."""
    layer: int
    """Output of the layer-th transformer block, 1-based; 0 is the input to block 1."""
    normalization: Normalization
    """Waveform normalisation: checkpoint, utterance or none."""
    dtype: Dtype
    """float32 or bfloat16."""
    windows: WindowConfig | None
    """How recordings longer than a window are computed; None computes every recording whole."""
    dedup: bool
    """Whether runs of equal tokens are merged into one token with a duration."""


def fingerprint(config: TokenizerConfig, upstream_identity: dict[str, Any], codebook: Codebook) -> str:
    """SHA-256 over everything that changes a token; the upstream's path is not part of it, its weights are."""
    return sha256(
        {
            "format": [FORMAT, VERSION],
            "upstream": upstream_identity,
            "layer": config.layer,
            "windows": None if config.windows is None else asdict(config.windows),
            "quantizer": "kmeans",
            "codebook": codebook.sha256,
            "dedup": config.dedup,
        }
    )


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

    def __post_init__(self) -> None:
        if not 0 <= self.config.layer <= self.upstream.num_layers:
            raise ConfigError(
                f"layer {self.config.layer} is not one of this upstream's 0 .. {self.upstream.num_layers}"
            )
        if self.codebook.width != self.upstream.width:
            raise ConfigError(
                f"the codebook's centroids have {self.codebook.width} dimensions, "
                f"{self.config.upstream} layer {self.config.layer} has {self.upstream.width}"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Identity of this tokenizer; see `fingerprint` above."""
        return fingerprint(self.config, self.upstream.identity, self.codebook)

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second before dedup."""
        return self.upstream.sampling_rate / self.upstream.hop_samples

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.codebook.vocab_size

    @cached_property
    def assigner(self) -> Assigner:
        """Nearest centroid on the upstream's device."""
        return Assigner(torch.from_numpy(self.codebook.centroids), self.upstream.device)

    def with_dedup(self, dedup: bool) -> "Tokenizer":
        """The same tokenizer with dedup on or off, which is another identity."""
        return replace(self, config=replace(self.config, dedup=dedup))

    def features(self, samples: npt.ArrayLike, sampling_rate: int) -> torch.Tensor:
        """Features of the tokenizer's layer: (frames, D) float32 on the CPU.

        Args:
            samples: (num_samples,) or (channels, num_samples); channels are averaged.
            sampling_rate: of `samples`, Hz; resampled where it differs from the upstream's.

        Raises:
            ConfigError: too short for one frame, non-finite, or of another shape.
        """
        return self._features([samples], sampling_rate)[0]

    def encode(self, samples: npt.ArrayLike, sampling_rate: int) -> TokenSequence:
        """Tokens of one utterance; arguments and errors as in `features`."""
        return self.encode_batch([samples], sampling_rate)[0]

    def encode_batch(self, batch: Sequence[npt.ArrayLike], sampling_rate: int) -> list[TokenSequence]:
        """Tokens of several utterances, equal to those of each alone."""
        return [self.quantize(frames) for frames in self._features(batch, sampling_rate)]

    def quantize(self, frames: torch.Tensor) -> TokenSequence:
        """Tokens of (frames, D) features, with the tokenizer's dedup."""
        return self.sequence(self.assigner.labels(frames.to(self.upstream.device)).cpu().numpy())

    def sequence(self, labels: npt.NDArray[np.int64]) -> TokenSequence:
        """Wrap (frames,) labels as a TokenSequence, with the tokenizer's dedup."""
        codes = labels[:, None].astype(smallest_dtype(self.vocab_size))
        tokens = TokenSequence(codes, self.frame_rate_hz, self.fingerprint)
        return tokens.dedup() if self.config.dedup else tokens

    def centroids(self, codes: Codes) -> npt.NDArray[np.float32]:
        """The (frames, D) vectors that (frames, 1) codes stand for.

        Raises:
            ConfigError: a code that the codebook does not have.
        """
        if codes.size and int(codes.max()) >= self.vocab_size:
            raise ConfigError(f"token {int(codes.max())} is not in a codebook of {self.vocab_size}")
        chosen: npt.NDArray[np.float32] = self.codebook.centroids[codes[:, 0]]
        return chosen

    def _features(self, batch: Sequence[npt.ArrayLike], sampling_rate: int) -> list[torch.Tensor]:
        utterances = [self._mono(samples, sampling_rate) for samples in batch]
        layer = self.config.layer
        config = ExtractConfig(windows=self.config.windows)
        return extract_arrays(utterances, self.upstream, [layer], lambda features: features[layer], config)

    def _mono(self, samples: npt.ArrayLike, sampling_rate: int) -> npt.NDArray[np.float32]:
        array = np.atleast_2d(np.asarray(samples, dtype=np.float32))
        if array.ndim != 2:
            raise ConfigError(f"samples are (num_samples,) or (channels, num_samples), not {array.shape}")
        mono = torch.from_numpy(array.mean(axis=0))
        if not torch.isfinite(mono).all():
            raise ConfigError("samples have NaN or infinite values")
        mono = torchaudio.functional.resample(mono, sampling_rate, self.upstream.sampling_rate)
        if len(mono) < self.upstream.min_samples:
            raise ConfigError(f"{len(mono)} samples are too short: one frame needs {self.upstream.min_samples}")
        return mono.numpy()

    def save(self, folder: Path | str) -> None:
        """Write the folder; tokenizer.json comes last, so a folder that has it is complete."""
        folder = Path(folder)
        self.codebook.save(folder / "codebook.safetensors")
        write_json(
            folder / "tokenizer.json",
            {
                "format": FORMAT,
                "version": VERSION,
                "fingerprint": self.fingerprint,
                **asdict(self.config),
                "identity": self.upstream.identity,
                "frame_rate_hz": self.frame_rate_hz,
                "vocab_size": self.vocab_size,
                "codebook": self.codebook.sha256,
            },
        )

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto", upstream: str | None = None) -> "Tokenizer":
        """Open a tokenizer folder; loads the SSL model it names, or the copy of it at `upstream`.

        Raises:
            CorruptFile: not a tokenizer folder, or its codebook is not the one it was saved with.
            TokenizerMismatch: the SSL model found is not the one the tokenizer was fitted on.
        """
        from voxtok.tokenize.load import load_upstream

        described = read_description(folder)
        codebook = Codebook.load(Path(folder) / "codebook.safetensors")
        if codebook.sha256 != described["codebook"]:
            raise CorruptFile(f"{folder}: codebook.safetensors is not the codebook that tokenizer.json describes")
        config = TokenizerConfig(
            upstream=upstream or described["upstream"],
            layer=described["layer"],
            normalization=described["normalization"],
            dtype=described["dtype"],
            windows=None if described["windows"] is None else WindowConfig(**described["windows"]),
            dedup=described["dedup"],
        )
        model = load_upstream(
            config.upstream,
            device=pick_device(device),
            dtype=config.dtype,
            normalization=config.normalization,
            max_layer=config.layer,
        )
        tokenizer = cls(config, model, codebook)
        if tokenizer.fingerprint != described["fingerprint"]:
            raise TokenizerMismatch(
                f"{folder} was fitted on {described['identity']}, but {config.upstream} is {model.identity}: "
                "give the original model with --upstream, or fit again"
            )
        return tokenizer


def read_description(folder: Path | str) -> dict[str, Any]:
    """tokenizer.json, checked for format and version; needs no model."""
    path = Path(folder) / "tokenizer.json"
    if not path.exists():
        raise CorruptFile(f"{folder}: not a tokenizer folder (no tokenizer.json)")
    described: dict[str, Any] = read_json(path)
    if described.get("format") != FORMAT or described.get("version") != VERSION:
        found = f"{described.get('format')} version {described.get('version')}"
        raise CorruptFile(f"{path}: expected {FORMAT} version {VERSION}, found {found}")
    return described


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
