"""Tokens in the form that a vocoder was made for: pieces as units, merged units as frames, or the other way round.

A tokenizer with dedup or subwords has another fingerprint than without, though its codebook is the same. A language
model over the one may speak through a vocoder for the other; tokens of another codebook stay refused.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voxtok.manifests.subwords import Subwords
from voxtok.manifests.tokens import Codes, TokenSequence, compact, smallest_dtype
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.tokenizer import config_of, fingerprint, read_description, read_parts
from voxtok.tts.layout import Layout

Frames = npt.NDArray[np.int64]


def tokens_for(tokens: TokenSequence, layout: Layout, tokenizer: Path | str, wanted: str) -> TokenSequence:
    """What a model has drawn as tokens with the fingerprint `wanted`, where that is the same codebook's.

    Args:
        tokens: as `Layout.tokens_of` gives them.
        layout: of the model.
        tokenizer: folder of the model's tokenizer.
        wanted: fingerprint of the tokenizer that a vocoder takes tokens of.

    Returns:
        The tokens in that form; unchanged where the fingerprint is of another codebook, which the vocoder then refuses.

    Raises:
        ConfigError: the model draws no durations, and the vocoder needs frames.
    """
    no_durations = layout.rows == "merged" and not layout.pieces
    if wanted == tokens.fingerprint and not (no_durations and not layout.has_durations):
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
    if durations is None and (no_durations or (layout.pieces and config.dedup)):
        if not forms[wanted]:
            raise ConfigError(
                "this model draws units without durations: give a vocoder that predicts them (trained on tokens with "
                "--dedup true, with model.durations), or train with rows timed"
            )
        return TokenSequence(codes, tokens.frame_rate_hz, wanted)
    units = TokenSequence(codes, tokens.frame_rate_hz, wanted, durations)
    return units.expand().dedup() if forms[wanted] else units.expand()


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
