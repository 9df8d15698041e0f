"""Spoken forms: numbers, money, ordinals, years and abbreviations written as the words that are said.

Numbers are said by num2words (extra `text`), in any language that it knows; abbreviations, money, per cent, ordinals
and years are English alone. Groups and decimals of numbers are read as 1.500 and 1,5 in the languages of
DECIMAL_COMMA, and as 1,500 and 1.5 in all others, which is not what some of them write (1 500 and 1,5 in French).
"""

import re
from collections.abc import Callable
from functools import partial

from voxtok.runtime.errors import ConfigError
from voxtok.runtime.optional import require

CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
}

DECIMAL_COMMA = ("da", "de", "de-de", "es", "es-es", "it", "it-it", "nl", "nl-nl", "pt", "pt-br", "pt-pt")
"""With a full stop between groups of three digits; not the regions with a point, such as es-mx, es-419 and de-ch."""

ENGLISH_ABBREVIATIONS = {
    "mr": "mister", "mrs": "missis", "ms": "miz", "dr": "doctor", "prof": "professor", "st": "saint", "jr": "junior",
    "sr": "senior", "capt": "captain", "lt": "lieutenant", "col": "colonel", "gen": "general", "sgt": "sergeant",
    "hon": "honorable", "rev": "reverend", "etc": "et cetera", "vs": "versus", "no": "number", "co": "company",
    "ltd": "limited", "e.g": "for example", "i.e": "that is",
}  # fmt: skip
"""As LJSpeech's recipes expand them; each stands before a full stop."""

NOT_AT_AN_END = ("no", "co", "gen", "col")
"""Abbreviations that are words too, or that end sentences as such: expanded before a number or a name alone."""

MONEY = re.compile(
    r"([$£€])\s?(\d+(?:,\d{3})*)(?:\.(\d+))?(?!\d)(?:\s(hundred|thousand|million|billion|trillion)\b)?", re.IGNORECASE
)
ORDINAL = re.compile(r"\b(\d+(?:,\d{3})*)(?:st|nd|rd|th)\b", re.IGNORECASE)
PERCENT = re.compile(r"(\d)\s?%")
YEAR = re.compile(r"\b(1[1-9]\d\d|20[1-9]\d)\b(?![.,]\d)")
NUMBER = re.compile(r"\d+(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?")
NUMBER_WITH_COMMA = re.compile(r"\d{1,3}(?:\.\d{3})+(?!\d)(?:,\d+)?|(?<!\d[.,])(?<!\d)\d+[.,]\d+(?![.,]?\d)|\d+")
BESIDE_LETTERS = re.compile(r"(?<=[^\W\d])(?=\d)|(?<=\d)(?=[^\W\d])")
ABBREVIATION = re.compile(
    r"\b(" + "|".join(map(re.escape, ENGLISH_ABBREVIATIONS)) + r")\.(?=(\s*)(\S?))", re.IGNORECASE
)


def expand(text: str, language: str) -> str:
    """The text with digits and abbreviations spelled as words; text without any stays as it is.

    Args:
        language: such as en-us or de; regions share their language's numbers.

    Worked, in English: `Dr. Lee paid $3.50 in 1999` becomes `doctor Lee paid three dollars, fifty cents in nineteen
    ninety-nine`.

    Raises:
        ConfigError: there is a number that num2words cannot say: too long, or of a language that it does not know.
        MissingPart: there is a digit and num2words is not installed.
    """
    english = language.split("-")[0] == "en"
    if english:
        text = ABBREVIATION.sub(_abbreviation, text)
    if not re.search(r"\d", text):
        return text
    say = partial(require("num2words", "text").num2words, lang=language.split("-")[0])
    said = text
    try:
        if english:
            said = PERCENT.sub(r"\1 percent", said)
            said = MONEY.sub(partial(_money, say), said)
            said = ORDINAL.sub(lambda found: say(int(_plain(found[1])), to="ordinal"), said)
            said = YEAR.sub(lambda found: say(int(found[1]), to="year"), said)
        said = BESIDE_LETTERS.sub(" ", said)
        if language.lower() in DECIMAL_COMMA:
            return NUMBER_WITH_COMMA.sub(lambda found: _with_comma(say, found[0]), said)
        return NUMBER.sub(lambda found: say(_plain(found[0])), said)
    except Exception as error:  # num2words raises whatever it stumbles over
        raise ConfigError(
            f"num2words cannot say the numbers of {text[:100]!r} in language {language!r}: write them as words"
        ) from error


def _plain(digits: str) -> str:
    return digits.replace(",", "")


def _with_comma(say: Callable[..., str], digits: str) -> str:
    """1.500,5 and 1,5; a full stop that no group follows is a decimal point all the same."""
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?", digits):
        digits = digits.replace(".", "")
    digits = digits.replace(",", ".")
    return say(float(digits) if "." in digits else digits)  # Italian drops the decimals of text


def _money(say: Callable[..., str], found: re.Match[str]) -> str:
    """An amount in English; parts of the currency are said where they are written, and are not none.

    Worked: `$5` five dollars; `$3.50` three dollars, fifty cents; `$2.5 million` two point five million dollars.
    """
    one, many, cent, cents = CURRENCIES[found[1]]
    whole, decimals, magnitude = _plain(found[2]), found[3] or "", found[4]
    if magnitude or len(decimals) > 2:
        number = say(f"{whole}.{decimals}" if decimals else whole)
        return " ".join([number, *([magnitude] if magnitude else []), many])
    parts = int(decimals.ljust(2, "0") or 0)
    said = [f"{say(parts)} {cent if parts == 1 else cents}"] if parts else []
    if int(whole) or not parts:
        said.insert(0, f"{say(whole)} {one if int(whole) == 1 else many}")
    return ", ".join(said)


def _abbreviation(found: re.Match[str]) -> str:
    """The words of an abbreviation; at the end of a sentence its full stop stays."""
    short, space, following = found[1].lower(), found[2], found[3]
    ends = not following or (space and following.isupper() and short in ("etc", "ltd", "co", "jr", "sr"))
    if short in NOT_AT_AN_END and not (following.isdigit() if short == "no" else following.isupper()):
        return found[0]
    return ENGLISH_ABBREVIATIONS[short] + ("." if ends else "")
