"""Phone purity, cluster purity and PNMI: how far the tokens of frames tell their phones (Hsu et al. 2021, HuBERT)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]

DRAWABLE = 10**9  # numpy's multivariate_hypergeometric takes fewer frames than these


class JointCounts:
    """Frames by phone and token, added up utterance by utterance."""

    def __init__(self, vocab_size: int) -> None:
        self.phones: list[str] = []
        self.table: Counts = np.zeros((0, vocab_size), dtype=np.int64)  # (phones, K)

    def add(self, phone: str, codes: npt.NDArray[np.integer]) -> None:
        """Count frames of `phone` whose tokens are `codes` (frames,)."""
        if phone not in self.phones:
            self.phones.append(phone)
            self.table = np.vstack([self.table, np.zeros_like(self.table, shape=(1, self.table.shape[1]))])
        np.add.at(self.table[self.phones.index(phone)], codes, 1)


@dataclass(frozen=True)
class Purity:
    """How well tokens and phones agree, over frames; higher is better for all three.

    Each comes with its `chance_`: the same for tokens shuffled over the frames, which is above 0 since many tokens over
    few frames agree with anything to some degree. Compare vocabularies by what is above chance.

    Attributes:
        phone_purity: accuracy of guessing a frame's phone as the most frequent one of its token.
        cluster_purity: accuracy of guessing a frame's token as the most frequent one of its phone; falls as K grows.
        pnmi: phone-normalized mutual information, I(phone; token) / H(phone): the share of the uncertainty about the
            phone that the token takes away.
        frames: frames scored.
    """

    phone_purity: float
    cluster_purity: float
    pnmi: float
    chance_phone_purity: float
    chance_cluster_purity: float
    chance_pnmi: float
    frames: int


def phone_purity(counts: Counts) -> float:
    """Sum over tokens of their most frequent phone's frames, over all frames; `counts` is (phones, K).

    Worked: 5 frames of A in tokens 0 0 0 1 1 and 3 of B in 1 1 1 give [[3, 2], [0, 3]]. Token 0 is A (3 frames right),
    token 1 is B (3 right): 6/8.
    """
    return float(counts.max(axis=0).sum() / counts.sum())


def cluster_purity(counts: Counts) -> float:
    """Sum over phones of their most frequent token's frames, over all frames; `counts` is (phones, K).

    Worked: for [[3, 2], [0, 3]], A is mostly token 0 (3 frames), B token 1 (3 frames): 6/8.
    """
    return float(counts.max(axis=1).sum() / counts.sum())


def pnmi(counts: Counts) -> float:
    """I(phone; token) / H(phone) of (phones, K) counts; 0 where there is but one phone.

    Worked: [[2, 0], [0, 2]] is 1, since the token gives the phone; [[1, 1], [1, 1]] is 0; [[3, 2], [0, 3]] has
    H(phone) = 0.954 bits and H(phone | token) = 5/8 * 0.971 = 0.607 bits: 1 - 0.607 / 0.954 = 0.364.
    """
    phone_entropy = entropy_bits(counts.sum(axis=1))
    if phone_entropy == 0:
        return 0.0
    mutual = phone_entropy + entropy_bits(counts.sum(axis=0)) - entropy_bits(counts.ravel())
    return max(0.0, mutual / phone_entropy)


def entropy_bits(counts: Counts) -> float:
    """Entropy of the distribution that (N,) counts describe, in bits."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0  # + 0.0: never -0.0


def shuffled(counts: Counts, seed: int) -> Counts:
    """Counts of the same phones and tokens with the tokens shuffled over the frames: a random table, equal margins.

    Beyond 10**9 frames the margins are those of a table with a part of the counts, in proportion.
    """
    rng = np.random.default_rng(seed)
    counts = counts // (1 + int(counts.sum()) // DRAWABLE)
    left = counts.sum(axis=0)
    table = np.zeros_like(counts)
    for row, frames in enumerate(counts.sum(axis=1)):
        table[row] = rng.multivariate_hypergeometric(left, int(frames), method="marginals")
        left = left - table[row]
    return table


def purity(counts: Counts, seed: int) -> Purity | None:
    """All of the above from (phones, K) counts; None where no frame was counted."""
    if not counts.sum():
        return None
    chance = shuffled(counts, seed)
    return Purity(
        phone_purity=phone_purity(counts),
        cluster_purity=cluster_purity(counts),
        pnmi=pnmi(counts),
        chance_phone_purity=phone_purity(chance),
        chance_cluster_purity=cluster_purity(chance),
        chance_pnmi=pnmi(chance),
        frames=int(counts.sum()),
    )


def without(counts: Counts, phones: Sequence[str], left_out: Sequence[str]) -> Counts:
    """The rows of (phones, K) counts whose phones are not among `left_out`, such as silences."""
    return counts[[phone not in left_out for phone in phones]]
