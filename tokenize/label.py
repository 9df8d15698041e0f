"""`voxtok label`: cuts -> a token store of phones or of pauses, as targets that guide `voxtok pretrain`.

Phones come from the times in the cuts. A synthetic corpus (`voxtok corpus synth`) has exact ones that no human made:
supervision-guided codebooks (Wang et al. 2022) at no cost. Pauses are where the audio is quiet, so any corpus has them.
A store is like those of `voxtok encode`, but without a tokenizer; labels.json in it has the name of every token.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut

from voxtok.manifests.audio import read_audio
from voxtok.manifests.cuts import load_cuts, unique_cuts
from voxtok.manifests.identity import inputs_of
from voxtok.manifests.store import StoreInfo, TokenStore, require_apart
from voxtok.manifests.tokens import TokenSequence, smallest_dtype
from voxtok.runtime.config import parse
from voxtok.runtime.errors import BadAudio, ConfigError, ManifestError
from voxtok.runtime.files import sha256, write_json
from voxtok.tokenize.crops import CENTRE_SAMPLES, RATE
from voxtok.tokenize.phones import SILENCES, Phone, without_stress

HOP_SAMPLES = 160  # 100 frames a second, centred where those of MFCC are: frame i at i * 160 + 200 samples
SHARD_SIZE = 1000
PAUSE_DB = 25.0
NEIGHBOURS = 4  # frames on each side

Codes = npt.NDArray[np.unsignedinteger]
Labels = Callable[[Cut], Codes]


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Turn phone times, or pauses in the audio, into tokens: one a frame."""

    cuts: str
    """Cuts; for phones, with supervisions that have an alignment `phone`: cuts without are listed in rejected.jsonl."""
    out: str
    """Token store to write."""
    of: Literal["phones", "pauses"]
    """Phones as the cuts have them, or 1 for a frame in a pause and 0 for one in speech, by loudness."""
    parts: int = 1
    """Tokens of a phone, each for an equal part of its time: 3 are like the states of an HMM. Silence has one."""

    def __post_init__(self) -> None:
        if self.parts < 1:
            raise ConfigError("--parts must be at least 1")
        require_apart(self.cuts, self.out)


def label(config: LabelConfig) -> TokenStore:
    """Write the store, anew if it is there.

    A second cut of one id, or a cut without phones, or without usable audio where pauses are asked for, is a line in
    rejected.jsonl.

    Raises:
        ManifestError: no cut has phones, or the cuts cannot be read.
    """
    cuts = list(load_cuts(config.cuts))
    names, codes_of = _pauses() if config.of == "pauses" else _phones(cuts, config.parts)
    fingerprint = sha256([config.of, config.parts, names])
    info = StoreInfo(
        fingerprint=fingerprint,
        frame_rate_hz=RATE / HOP_SAMPLES,
        vocab_sizes=(len(names),),
        dedup=False,
        shard_size=SHARD_SIZE,
    )
    store = TokenStore.create(config.out, info)
    store.reopen()
    write_json(store.folder / "labels.json", names)
    inputs: list[str] = []
    pairs = list(unique_cuts(cuts))
    for shard, first in enumerate(range(0, len(pairs), SHARD_SIZE)):
        members = pairs[first : first + SHARD_SIZE]
        inputs.append(sha256([fingerprint, [[inputs_of(cut), twice is not None] for cut, twice in members]]))
        labelled, rejected = [], []
        for cut, twice in members:
            try:
                if twice is not None:
                    raise twice
                labelled.append((cut, TokenSequence(codes_of(cut)[:, None], info.frame_rate_hz, fingerprint)))
            except BadAudio as error:
                rejected.append(error.row())
        store.write_shard(shard, labelled, rejected, inputs[shard])
    store.finish(inputs)
    return store


def _pauses() -> tuple[list[str], Labels]:
    return ["speech", "pause"], lambda cut: pauses(read_audio(cut, RATE))


def _phones(cuts: Sequence[Cut], parts: int) -> tuple[list[str], Labels]:
    aligned = [cut for cut in cuts if is_aligned(cut)]
    if not aligned:
        raise ManifestError("no cut has a supervision with an alignment `phone`")
    symbols = sorted({phone.symbol for cut in aligned for phone in timed_phones(cut)})
    names = ["SIL", *(f"{symbol}_{part}" for symbol in symbols for part in range(parts))]
    ids = {name: index for index, name in enumerate(names)}

    def codes_of(cut: Cut) -> Codes:
        if not is_aligned(cut):
            raise BadAudio(cut.id, "no phones", "no supervision has an alignment `phone`")
        return frame_labels(list(timed_phones(cut)), max(1, round(cut.duration * RATE) // HOP_SAMPLES), parts, ids)

    return names, codes_of


def pauses(samples: npt.NDArray[np.float32]) -> Codes:
    """1 for a frame more than 25 dB below the loud ones, as are its neighbours within 40 ms; else 0.

    Closures of stops are shorter. Loudness is that above some 100 Hz, by a first difference (preemphasis).
    """
    sharp = np.append(samples[:1], samples[1:] - 0.97 * samples[:-1]).astype(np.float64)
    num_frames = max(1, len(samples) // HOP_SAMPLES)
    energy = np.concatenate([[0.0], np.square(np.pad(sharp, (0, 2 * CENTRE_SAMPLES))).cumsum()])
    first = np.arange(num_frames) * HOP_SAMPLES
    level_db = 10 * np.log10((energy[first + 2 * CENTRE_SAMPLES] - energy[first]) / (2 * CENTRE_SAMPLES) + 1e-10)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(level_db, NEIGHBOURS, "edge"), 2 * NEIGHBOURS + 1)
    quiet: Codes = (around.max(axis=1) < np.percentile(level_db, 95) - PAUSE_DB).astype(np.uint8)
    return quiet


def is_aligned(cut: Cut) -> bool:
    """Whether a cut has times of phones."""
    return any((supervision.alignment or {}).get("phone") for supervision in cut.supervisions)


def timed_phones(cut: Cut) -> Iterator[Phone]:
    """The phones of a cut that are no silence, in order."""
    tiers = [(supervision.alignment or {}).get("phone", []) for supervision in cut.supervisions]
    for item in sorted(chain.from_iterable(tiers), key=lambda item: float(item.start)):
        if item.symbol not in SILENCES:
            yield Phone(without_stress(item.symbol), item.start, item.start + item.duration)


def frame_labels(phones: Sequence[Phone], num_frames: int, parts: int, ids: dict[str, int]) -> Codes:
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


def main(argv: Sequence[str]) -> int:
    """`voxtok label --of phones --cuts CUTS --out STORE`."""
    config = parse(LabelConfig, argv, "voxtok label")
    store = label(config)
    summary = store.summary
    print(
        f"{summary['utterances']} utterances, {summary['duration_s'] / 3600:.2f} h, {store.vocab_size} labels"
        f" -> {Path(config.out)}"
        + (f", {summary['rejected']} rejected (see {config.out}/rejected.jsonl)" if summary["rejected"] else "")
    )
    return 0
