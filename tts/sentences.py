"""Sentences to be said, as cuts without audio; and what is noted of those that were said."""

from collections import Counter
from pathlib import Path

from lhotse import SupervisionSegment
from lhotse.cut import Cut, MonoCut
from lhotse.utils import fastcopy

from voxtok.manifests.cuts import load_cuts, unique_cuts
from voxtok.manifests.tokens import TokenSequence, words
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.tts.failures import FAILURES, Failure
from voxtok.tts.utterances import text_of

LONGEST_S = 86400.0
"""Of a sentence that is not said yet."""


def read_sentences(path: str, text_field: str) -> list[Cut | BadAudio]:
    """Sentences as cuts without audio: of a text file, numbered from 1, or of Lhotse cuts, which keep their ids.

    Raises:
        ConfigError: a text file that cannot be read, or without sentences.
        ManifestError: no cuts are there.
    """
    if Path(path).suffix == ".txt":
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--texts {path}: {error}") from error
        texts = [line.strip() for line in lines if line.strip()]
        if not texts:
            raise ConfigError(f"--texts {path}: no sentence in it")
        digits = max(4, len(str(len(texts))))
        return [_sentence(f"{number:0{digits}d}", text) for number, text in enumerate(texts, start=1)]
    found: list[Cut | BadAudio] = []
    for cut, twice in unique_cuts(load_cuts(path)):
        found.append(twice or _sentence(cut.id, text_of(cut, text_field)))
    return found


def _sentence(name: str, text: str) -> Cut:
    segment = SupervisionSegment(name, name, 0.0, LONGEST_S, text=text)
    return MonoCut(name, 0.0, LONGEST_S, 0, supervisions=[segment])


def said_text(cut: Cut) -> str:
    """What a sentence says."""
    return str(cut.supervisions[0].text or "")


def count_failures(out: Path) -> dict[str, int]:
    """How many sentences of a folder have each failure."""
    found = Counter((cut.supervisions[0].custom or {}).get("failure") for cut in load_cuts(out / "cuts.jsonl.gz"))
    return {failure: found[failure] for failure in FAILURES}


def with_tokens(cut: Cut, tokens: TokenSequence, failure: Failure | None) -> Cut:
    """The sentence with its tokens, one a frame, as `words` writes them, and with what went wrong, if anything did."""
    custom = {"tokens": words(tokens.expand()), "frame_rate_hz": tokens.frame_rate_hz, "failure": failure}
    return fastcopy(cut, supervisions=[fastcopy(cut.supervisions[0], custom=custom)])
