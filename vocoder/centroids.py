"""Tokens as features: the centroid of each frame's token, of the SSL model and layer that the tokens were made on."""

from dataclasses import dataclass

import numpy as np
import torch

from voxtok.manifests.store import TokenStore
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import ConfigError, TokenizerMismatch
from voxtok.tokenize.quantizer import Quantizer, check_codes, open_quantizer
from voxtok.tokenize.tokenizer_folder import read_description, read_parts
from voxtok.vocoder.features import identity_fingerprint


@dataclass(frozen=True, eq=False)
class Centroids:
    """The codebook of a token store's tokenizer; needs no SSL model.

    Attributes:
        quantizer: of the tokenizer.
        tokenizer: its fingerprint.
        features: fingerprint of the features that centroids are means of.
    """

    quantizer: Quantizer
    tokenizer: str
    features: str

    @classmethod
    def open(cls, store: TokenStore) -> "Centroids":
        """Read the tokenizer that lies in a store.

        Raises:
            CorruptFile: there is none, or it is damaged.
            ConfigError: the store holds subwords.
        """
        if store.info.bpe is not None:
            raise ConfigError(f"{store.folder} holds subwords: encode the speech with --bpe false")
        folder = store.folder / "tokenizer"
        described = read_description(folder)
        codebook, _ = read_parts(folder, described)
        features = identity_fingerprint(described["identity"], described["layers"])
        return cls(open_quantizer(codebook, torch.device("cpu")), store.fingerprint, features)

    def frames(self, tokens: TokenSequence) -> torch.Tensor:
        """(N, D) float32 of a token sequence, one row a frame: merged tokens are repeated.

        Raises:
            TokenizerMismatch: tokens of another tokenizer.
            ConfigError: tokens that the codebook does not have.
        """
        if tokens.fingerprint != self.tokenizer:
            raise TokenizerMismatch(
                f"tokens of tokenizer {tokens.fingerprint[:12]} have no centroids in that of {self.tokenizer[:12]}: "
                "encode the speech again with the latter"
            )
        codes = torch.from_numpy(tokens.expand().codes.astype(np.int64))
        check_codes(codes, self.quantizer.vocab_sizes)
        return self.quantizer.decode(codes)
