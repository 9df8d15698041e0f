"""`voxtok import-codec`: a neural codec becomes a tokenizer: its encoder, and the first streams of its quantizer.

The tokenizer then goes wherever others go: `voxtok encode`, `quality`, `export`, ASR. `decode_codec` makes speech of
its tokens with the codec's own decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.codec import Codec
from voxtok.tokenize.codec_quantizer import codec_codebook
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.quantizer import check_codes
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.tokenizer_folder import TokenizerConfig, require_same


@dataclass(frozen=True, kw_only=True)
class ImportCodecConfig:
    """Make a tokenizer of EnCodec (24 kHz), DAC or Mimi; recordings are computed whole, whatever their length."""

    codecs: tuple[str, ...]
    """The codec: one folder that save_pretrained wrote, or a hub id such as facebook/encodec_24khz or kyutai/mimi."""
    streams: int
    """How many of its quantizers are used, from the first: tokens a frame."""
    dedup: bool
    """Whether the tokenizer merges runs of equal frames."""
    out: str
    """Tokenizer folder to write."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if len(self.codecs) != 1:
            raise ConfigError(f"give one codec, not {len(self.codecs)}")


def codec_tokenizer(name: str, *, streams: int, dedup: bool, device: str = "auto") -> Tokenizer:
    """The tokenizer that a codec is.

    Args:
        name: a folder that `save_pretrained` wrote, or a hub id.
        streams: quantizers used, from the first.
        dedup: whether runs of equal frames are merged.
        device: where it computes.

    Raises:
        ConfigError: not a codec, one that tokens alone do not describe, or streams that it does not have.
    """
    upstream = load_upstream(name, device=pick_device(device))
    if not isinstance(upstream, Codec):
        raise ConfigError(f"{name} is no codec: fit a tokenizer on it with voxtok fit --upstream {name}")
    config = TokenizerConfig(
        upstream=name, layers=(0,), normalization="checkpoint", dtype="float32", windows=None, dedup=dedup
    )
    return Tokenizer(config, upstream, codec_codebook(upstream.model, streams))


def decode_codec(tokenizer: Tokenizer, tokens: TokenSequence) -> npt.NDArray[np.float32]:
    """Tokens of a codec tokenizer to samples, by the codec's own decoder.

    Returns:
        (num_samples,) float32 at `tokenizer.upstream.sampling_rate`; about frames x hop samples, as the codec has it.

    Raises:
        ConfigError: not a codec's tokenizer, no tokens, or tokens out of range.
        TokenizerMismatch: tokens of another tokenizer.
    """
    if not isinstance(tokenizer.upstream, Codec) or tokenizer.codebook.kind != "codec":
        raise ConfigError("only a codec's own tokens can be decoded by the codec: see voxtok import-codec")
    require_same(tokenizer.fingerprint, tokens.fingerprint, "the token sequence")
    codes = torch.from_numpy(tokens.expand().codes.astype(np.int64))
    check_codes(codes, tokenizer.vocab_sizes)
    if not len(codes):
        raise ConfigError("there are no tokens to decode")
    return tokenizer.upstream.decode(tokenizer.quantizer.decode(codes)).numpy()


def main(argv: Sequence[str]) -> int:
    """The command `voxtok import-codec`."""
    config = parse(ImportCodecConfig, argv, "voxtok import-codec", positional="codecs")
    tokenizer = codec_tokenizer(config.codecs[0], streams=config.streams, dedup=config.dedup, device=config.device)
    tokenizer.save(config.out)
    sizes = tokenizer.vocab_sizes
    print(
        f"{len(sizes)} streams of {sizes[0]} tokens at {tokenizer.frame_rate_hz:g} Hz, "
        f"{tokenizer.fingerprint[:12]} -> {config.out}"
    )
    return 0
