"""`voxtok text-model`: transcripts -> the text model that a recognizer writes with."""

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxtok.asr.normalization import Case, Punctuation, TextNormalization
from voxtok.asr.references import reference_of
from voxtok.asr.text import Kind, TextConfig, train_text_model
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.store import TokenStore
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError

TEXT_SUFFIXES = (".txt", ".txt.gz")


@dataclass(frozen=True, kw_only=True)
class FitTextConfig:
    """Make a text model: characters, or sentencepiece's subword units within words."""

    texts: tuple[str, ...]
    """Token stores, Lhotse cuts, or files named .txt or .txt.gz with a text a line."""
    out: str
    """JSON file to write."""
    kind: Kind
    """characters, bpe or unigram."""
    case: Case
    """Case of what is written: lower, upper or keep."""
    punctuation: Punctuation
    """Punctuation of what is written: remove or keep."""
    vocab_size: int | None = None
    """Number of outputs with blank, unknown and sos/eos; needed but for characters."""


def read_texts(sources: Sequence[str]) -> Iterator[str]:
    """The texts of token stores, cuts, or text files; a cut without one gives an empty text.

    Raises:
        ConfigError: no sources, or a text file that cannot be read.
    """
    if not sources:
        raise ConfigError("texts needs at least one token store, manifest of cuts or text file")
    for source in sources:
        if source.endswith(TEXT_SUFFIXES):
            yield from _lines(Path(source))
        else:
            store = (Path(source) / "store.json").exists()
            cuts = TokenStore.open(source).cuts() if store else load_cuts(source)
            yield from (reference_of(cut).text for cut in cuts)


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            yield from (line.strip() for line in file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a text file in UTF-8 ({error})") from error


def main(argv: Sequence[str]) -> int:
    """The command `voxtok text-model`."""
    config = parse(FitTextConfig, argv, "voxtok text-model")
    normalization = TextNormalization(case=config.case, punctuation=config.punctuation)
    text = TextConfig(kind=config.kind, vocab_size=config.vocab_size, normalization=normalization)
    model = train_text_model(read_texts(config.texts), text)
    model.save(config.out)
    print(f"{model.vocab_size} numbers, {normalization}; {model.sha256[:12]} -> {config.out}")
    return 0
