"""Tokens as characters: what sentencepiece reads in their place, and nobody is ever shown."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCKS = (
    *((lead << 6, 64) for lead in range(0x04, 0x20)),  # U+0100 .. U+07FF, two bytes of UTF-8
    *((lead << 12, 4096) for lead in (4, 5, 6, 7, 8, 9, 10, 11, 12, 14)),  # three bytes
    *((max(lead << 18, 0x10000), 32768) for lead in range(5)),  # four bytes
)
"""(first code point, size) of the characters for tokens; each block has a first byte of UTF-8 of its own.

Left out are white space, surrogates, and what has a meaning to sentencepiece: U+2581 and U+FFFD among them.
"""
MOST_TOKENS = sum(size for _, size in BLOCKS)


@cache
def code_points() -> npt.NDArray[np.uint32]:
    """(MOST_TOKENS,) the character of each token: from every block one, then from every block the next.

    sentencepiece 0.2.3 looks for the substrings to begin unigram with among bytes, and finds only those that are
    followed by characters with different first bytes: tokens from one block would give it next to none.
    """
    points = np.concatenate([np.arange(start, start + size) for start, size in BLOCKS])
    places = np.concatenate([np.arange(size) for _, size in BLOCKS])
    return points[np.argsort(places, kind="stable")].astype("<u4")


def as_text(codes: npt.NDArray[Any]) -> str:
    """Tokens as sentencepiece sees them; never to be shown."""
    points: npt.NDArray[np.uint32] = code_points()[codes]
    return points.tobytes().decode("utf-32-le")


def from_text(text: str) -> npt.NDArray[np.int64]:
    """The inverse of `as_text`.

    Raises:
        ValueError: a character that stands for no token.
    """
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    order = np.argsort(code_points())
    places = np.searchsorted(code_points()[order], points).clip(max=MOST_TOKENS - 1)
    tokens: npt.NDArray[np.int64] = order[places]
    if not np.array_equal(code_points()[tokens], points):
        raise ValueError("its pieces are not made of tokens")
    return tokens
