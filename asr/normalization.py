"""Text normalisation: which spelling of a transcript is trained on, decoded to and scored."""

import unicodedata
from dataclasses import dataclass
from typing import Literal

Case = Literal["lower", "upper", "keep"]
Punctuation = Literal["remove", "keep"]

APOSTROPHES = "'\u2019\u02bc"
"""Typewriter, typographic and modifier letter; inside a word all become the first."""


@dataclass(frozen=True, kw_only=True)
class TextNormalization:
    """How texts are spelled; always in Unicode's NFKC form and with single spaces between words."""

    case: Case
    """lower, upper, or keep as written."""
    punctuation: Punctuation
    """remove: punctuation and symbols become spaces, but for apostrophes inside words; or keep."""

    def apply(self, text: str) -> str:
        """The text in this spelling; a second time changes nothing.

        Worked: lower and remove make `It's  well-known: “no”!` into `it's well known no`.
        """
        text = unicodedata.normalize("NFKC", text)
        if self.case != "keep":
            text = text.lower() if self.case == "lower" else text.upper()
        if self.punctuation == "remove":
            text = "".join(_kept(text, place) for place in range(len(text)))
        return " ".join(unicodedata.normalize("NFKC", text).split())

    def __str__(self) -> str:
        """In one phrase, for reports."""
        return f"NFKC, case {self.case}, punctuation {self.punctuation}"


def _kept(text: str, place: int) -> str:
    """The character at `place`, or the space that takes the place of a mark."""
    mark = text[place]
    if mark in APOSTROPHES:
        inside = text[max(place - 1, 0) : place].isalnum() and text[place + 1 : place + 2].isalnum()
        return "'" if inside else " "
    return " " if unicodedata.category(mark)[0] in "PSCZ" else mark
