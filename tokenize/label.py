"""`voxtok label`: cuts with phone times -> a token store of phones, as targets that guide `voxtok pretrain`.

A synthetic corpus (`voxtok corpus synth`) has exact phone times that no human made: supervision-guided codebooks (Wang
et al. 2022) at no cost. The store is one like those of `voxtok encode`, but without a tokenizer; phones.json in it has
the symbol of every token.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut

from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.identity import inputs_of
from voxtok.manifests.store import StoreInfo, TokenStore
from voxtok.manifests.tokens import TokenSequence, smallest_dtype
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError, ManifestError
from voxtok.runtime.files import sha256, write_json
from voxtok.tokenize.crops import CENTRE_SAMPLES, RATE
from voxtok.tokenize.phones import SILENCES, Phone, without_stress

HOP_SAMPLES = 160  # 100 frames a second, centred where those of MFCC are: frame i at i * 160 + 200 samples
SHARD_SIZE = 1000


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Turn the phone alignment of cuts into tokens, one a frame."""

    cuts: str
    """Cuts whose supervisions have an alignment `phone`; each of them needs one."""
    out: str
    """Token store to write."""
    parts: int = 1
    """Tokens of a phone, each for an equal part of its time: 3 are like the states of an HMM. Silence has one."""

    def __post_init__(self) -> None:
        if self.parts < 1:
            raise ConfigError("--parts must be at least 1")


def label(config: LabelConfig) -> TokenStore:
    """Write the store, anew if it is there.

    Raises:
        ManifestError: a cut without phones, or cuts that cannot be read.
    """
    cuts = list(load_cuts(config.cuts))
    symbols = sorted({phone.symbol for cut in cuts for phone in timed_phones(cut)})
    names = ["SIL", *(f"{symbol}_{part}" for symbol in symbols for part in range(config.parts))]
    fingerprint = sha256(["phones", config.parts, names])
    info = StoreInfo(
        fingerprint=fingerprint,
        frame_rate_hz=RATE / HOP_SAMPLES,
        vocab_sizes=(len(names),),
        dedup=False,
        shard_size=SHARD_SIZE,
    )
    store = TokenStore.create(config.out, info)
    write_json(store.folder / "phones.json", names)
    ids = {name: index for index, name in enumerate(names)}
    inputs: list[str] = []
    for shard, first in enumerate(range(0, len(cuts), SHARD_SIZE)):
        members = cuts[first : first + SHARD_SIZE]
        inputs.append(sha256([fingerprint, [inputs_of(cut) for cut in members]]))
        labelled = [(cut, _sequence(cut, config.parts, ids, info)) for cut in members]
        store.write_shard(shard, labelled, [], inputs[shard])
    store.finish(inputs)
    return store


def timed_phones(cut: Cut) -> Iterator[Phone]:
    """The phones of a cut that are no silence, in order.

    Raises:
        ManifestError: there is none.
    """
    tiers = [(supervision.alignment or {}).get("phone", []) for supervision in cut.supervisions]
    items = sorted(chain.from_iterable(tiers), key=lambda item: float(item.start))
    if not items:
        raise ManifestError(f"{cut.id} has no alignment `phone`")
    for item in items:
        if item.symbol not in SILENCES:
            yield Phone(without_stress(item.symbol), item.start, item.start + item.duration)


def frame_labels(
    phones: Sequence[Phone], num_frames: int, parts: int, ids: dict[str, int]
) -> npt.NDArray[np.unsignedinteger]:
    """The token under the centre of each frame; 0, silence, where there is no phone.

    Worked: one phone from 0.1 to 0.2 s in two parts. Frame i is centred at 0.0125 + i * 0.01 s, so frames 9 to 13, at
    0.1025 to 0.1425 s, have its first part and 14 to 18 its second.
    """
    codes = np.zeros(num_frames, dtype=smallest_dtype(len(ids)))
    for phone in phones:
        length_s = (phone.end_s - phone.start_s) / parts
        bounds = [_first_frame(phone.start_s + part * length_s) for part in range(parts + 1)]
        for part in range(parts):
            codes[bounds[part] : bounds[part + 1]] = ids[f"{phone.symbol}_{part}"]
    return codes


def _first_frame(time_s: float) -> int:
    """Index of the first frame that is centred at `time_s` or later."""
    return max(0, math.ceil(round((time_s * RATE - CENTRE_SAMPLES) / HOP_SAMPLES, 6)))


def _sequence(cut: Cut, parts: int, ids: dict[str, int], info: StoreInfo) -> TokenSequence:
    num_frames = max(1, round(cut.duration * RATE) // HOP_SAMPLES)
    codes = frame_labels(list(timed_phones(cut)), num_frames, parts, ids)
    return TokenSequence(codes[:, None], info.frame_rate_hz, info.fingerprint)


def main(argv: Sequence[str]) -> int:
    """`voxtok label --cuts CUTS --out STORE`."""
    config = parse(LabelConfig, argv, "voxtok label")
    store = label(config)
    summary = store.summary
    print(
        f"{summary['utterances']} utterances, {summary['duration_s'] / 3600:.2f} h, {store.vocab_size} labels"
        f" -> {Path(config.out)}"
    )
    return 0
