"""Unit edit distance: how much the tokens change when the signal does and the words do not (Gat et al. 2022)."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import kaldialign
import numpy as np
import numpy.typing as npt
import torch
from lhotse.cut import Cut

from voxtok.manifests.audio import Samples, read_audio
from voxtok.runtime.errors import BadAudio
from voxtok.tokenize.augment import AUGMENTATIONS, TEMPO, Augmentation, augment
from voxtok.tokenize.upstream import Upstream
from voxtok.tokenize.usage import dedup

Codes = npt.NDArray[np.integer]
EncodedPairs = dict[Augmentation, list[tuple[Codes, Codes]]]
"""Tokens of utterances, clean and changed."""


@dataclass(frozen=True)
class UnitEdit:
    """Unit edit distance under one augmentation; 0 is best, lower is better.

    Attributes:
        ued: mean over utterances of edits / frames, the paper's normalisation.
        token_error_rate: edits over the clean tokens after dedup, of all utterances together, as a word error rate is.
        utterances: measured.
    """

    ued: float
    token_error_rate: float
    utterances: int


def edits(clean: Codes, changed: Codes) -> int:
    """Levenshtein distance of two (frames,) token sequences after dedup.

    Worked: 1 1 1 2 3 3 and 1 1 4 4 3 become 1 2 3 and 1 4 3: one substitution.
    """
    found = kaldialign.edit_distance(dedup(clean).tolist(), dedup(changed).tolist())
    return int(found["total"])


def unit_edit(pairs: Sequence[tuple[Codes, Codes]]) -> UnitEdit | None:
    """UED over (clean, changed) pairs of (frames,) tokens; None where there are none.

    Worked: the pair above has 1 edit over 6 frames, a UED of 0.167, and over 3 tokens, an error rate of 0.333.
    """
    if not pairs:
        return None
    counts = [edits(clean, changed) for clean, changed in pairs]
    return UnitEdit(
        ued=float(np.mean([count / len(clean) for count, (clean, _) in zip(counts, pairs, strict=True)])),
        token_error_rate=sum(counts) / sum(len(dedup(clean)) for clean, _ in pairs),
        utterances=len(pairs),
    )


def encoded_pairs(
    cuts: Iterable[Cut],
    upstream: Upstream,
    encode: Callable[[Samples], Codes],
    seed: int,
    reject: Callable[[BadAudio], None],
) -> EncodedPairs:
    """Tokens of each cut, clean and changed; cuts that cannot be read or are too short are left out.

    What an utterance undergoes depends on the seed and its id, not on its neighbours.

    Args:
        cuts: with audio.
        upstream: says at which rate `encode` takes samples, and how many it needs.
        encode: (num_samples,) samples to (frames,) tokens before dedup, or to several columns of them.
        seed: of the changes.
        reject: is told what is left out, and why.
    """
    rate = upstream.sampling_rate
    pairs: EncodedPairs = {name: [] for name in AUGMENTATIONS}
    for cut in cuts:
        try:
            samples = torch.from_numpy(read_audio(cut, rate))
        except BadAudio as error:
            reject(error)
            continue
        if len(samples) < upstream.min_samples * TEMPO[1]:  # the fastest must still give a frame
            reject(BadAudio(cut.id, "too short", f"{len(samples)} samples give no frame once they are played faster"))
            continue
        clean = encode(samples.numpy())
        for name in AUGMENTATIONS:
            changed = augment(samples, rate, name, _generator(seed, name, cut.id))
            pairs[name].append((clean, encode(changed.numpy())))
    return pairs


def _generator(seed: int, augmentation: Augmentation, cut_id: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}\n{augmentation}\n{cut_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))
