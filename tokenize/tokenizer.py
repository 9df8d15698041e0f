"""The tokenizer: SSL model, layer, codebook and post-processing as one object with one identity."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from voxtok.manifests.codebook import Codebook
from voxtok.manifests.samples import mono, resample
from voxtok.manifests.subwords import Subwords
from voxtok.manifests.tokens import Codes, TokenSequence, smallest_dtype
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import ConfigError, TokenizerMismatch
from voxtok.tokenize.extract import ExtractConfig, Reduce, extract_arrays
from voxtok.tokenize.quantizer import RESIDUAL, Quantizer, check_codes, open_quantizer
from voxtok.tokenize.tokenizer_folder import (
    FORMAT,
    VERSION,
    TokenizerConfig,
    config_of,
    fingerprint,
    from_anywhere,
    read_description,
    read_parts,
    write_folder,
)
from voxtok.tokenize.upstream import Upstream

if TYPE_CHECKING:
    from voxtok.tokenize.stream import TokenStream


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
        """Identity of this tokenizer; see `tokenizer_folder.fingerprint`."""
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
            "upstream": from_anywhere(self.config.upstream),
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
