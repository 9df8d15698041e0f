"""Tokens in the form that a vocoder was made for: pieces as units, merged units as frames, or the other way round.

A tokenizer with dedup or subwords has another fingerprint than without, though its codebook is the same. A model of
the one may speak through a vocoder for the other; tokens of another codebook stay refused.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voxtok.manifests.subwords import Subwords
from voxtok.manifests.tokens import Codes, TokenSequence, compact, smallest_dtype
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.tokenizer_folder import config_of, fingerprint, read_description, read_parts
from voxtok.vocoder.vocoder import Vocoder

Frames = npt.NDArray[np.int64]

NO_DURATIONS = (
    "this model makes units without durations: give a vocoder that predicts them (trained on tokens with "
    "--dedup true, with model.durations), or train with rows timed"
)


def tokens_for(tokens: TokenSequence, tokenizer: Path | str, wanted: str, *, untimed: bool) -> TokenSequence:
    """What a model has made as tokens with the fingerprint `wanted`, where that is the same codebook's.

    Args:
        tokens: of the tokenizer at `tokenizer`, its units merged where they are `untimed`.
        tokenizer: folder of the model's tokenizer.
        wanted: fingerprint of the tokenizer that a vocoder takes tokens of.
        untimed: whether the model makes merged units or pieces without durations.

    Returns:
        The tokens in that form; unchanged where the fingerprint is of another codebook, which the vocoder then refuses.

    Raises:
        ConfigError: the model makes no durations, and the vocoder needs frames.
    """
    if wanted == tokens.fingerprint and not untimed:
        return tokens
    described = read_description(tokenizer)
    config, (codebook, subwords) = config_of(described), read_parts(tokenizer, described)
    forms = {
        fingerprint(replace(config, dedup=dedup), described["identity"], codebook, None): dedup
        for dedup in (False, True)
    }
    if wanted not in forms or described["fingerprint"] != tokens.fingerprint:
        return tokens
    codes, durations = tokens.codes, tokens.durations
    if subwords is not None:
        codes, durations = units_of(tokens, subwords, merged=config.dedup)
    if untimed and (subwords is None or config.dedup):  # pieces of frames say themselves how long they are
        if not forms[wanted]:
            raise ConfigError(NO_DURATIONS)
        return TokenSequence(codes, tokens.frame_rate_hz, wanted)
    units = TokenSequence(codes, tokens.frame_rate_hz, wanted, durations)
    return units.expand().dedup() if forms[wanted] else units.expand()


def timed_for(tokens: TokenSequence, tokenizer: Path | str, vocoder: Vocoder, *, untimed: bool) -> TokenSequence:
    """`tokens_for` a vocoder, merged units that nobody knows the durations of with those that it predicts.

    Raises:
        TokenizerMismatch: tokens of another codebook.
        ConfigError: durations are needed, and neither model nor vocoder makes them.
    """
    found = tokens_for(tokens, tokenizer, vocoder.facts.tokenizer or "", untimed=untimed)
    return vocoder.lasting(found) if untimed and has_merged_units(tokenizer) else found


def has_merged_units(tokenizer: Path | str) -> bool:
    """Whether rows without durations stand for runs of frames; pieces of frames say themselves how long they are."""
    described = read_description(tokenizer)
    _, subwords = read_parts(tokenizer, described)
    return subwords is None or config_of(described).dedup


def check_form(rate_hz: float, made_by: str, tokenizer: Path | str, vocoder: Vocoder, *, untimed: bool) -> None:
    """Refuse a vocoder that cannot speak a model's tokens before any are made.

    Args:
        rate_hz: frame rate of the tokens.
        made_by: fingerprint of the tokens.
        tokenizer: folder of the model's tokenizer.
        vocoder: to speak with.
        untimed: as in `tokens_for`.

    Raises:
        TokenizerMismatch: the vocoder is for tokens of another codebook.
        ConfigError: it takes no tokens, or needs durations that the model does not make, or does not predict them.
    """
    none = TokenSequence(np.empty((0, 1), dtype=np.uint8), rate_hz, made_by)
    if vocoder.facts.tokenizer is not None:
        none = tokens_for(none, tokenizer, vocoder.facts.tokenizer, untimed=untimed)
    vocoder.check_tokenizer(none.fingerprint)
    if untimed and has_merged_units(tokenizer) and vocoder.model.durations is None:
        raise ConfigError(NO_DURATIONS)


def units_of(tokens: TokenSequence, subwords: Subwords, *, merged: bool) -> tuple[Codes, Codes | None]:
    """(units, 1) codes that pieces are made of, and frames of each: None where a unit is a frame, or unknown.

    Worked: a piece of units 7 7 2 that lasts 8 frames in all gives durations 3 3 2.
    """
    pieces = tokens.codes[:, 0]
    units = subwords.decode(pieces)[:, None].astype(smallest_dtype(subwords.unit_vocab_size))
    if not merged or tokens.durations is None:
        return units, None
    lengths: Frames = subwords.lengths[pieces]
    frames = np.maximum(tokens.durations.astype(np.int64), lengths)
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # of each unit in its piece
    base, rest = np.repeat(frames // lengths, lengths), np.repeat(frames % lengths, lengths)
    return units, compact(base + (place < rest))
