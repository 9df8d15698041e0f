"""Phones of an utterance: which frames they own, and the triphones that ABX compares.

Frame i stands for the time (i + 0.5) / frame_rate_hz, the centre of its hop, and belongs to the phone that holds it.
The first and last phone of each supervision are not scored: aligners let edge silence leak into them.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lhotse.cut import Cut

SILENCES = ("", "SIL", "SP", "SPN", "NSN", "+NSN+", "+SPN+", "sil", "sp", "spn", "nsn", "<eps>", "pau", "h#", "_", "_:")
"""What aligners write for silence and noise: Kaldi, PocketSphinx, MFA, TIMIT, eSpeak."""

Unit = Literal["triphone", "phone"]

TOUCHING_S = 1e-3  # phones further apart are not neighbours


@dataclass(frozen=True)
class Phone:
    """One aligned phone; times in seconds from the start of the cut."""

    symbol: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Speech:
    """The phones of one supervision, in order, and who says them."""

    speaker: str | None
    phones: list[Phone]


@dataclass(frozen=True)
class Segment:
    """A phone in its context: what ABX tells from the other phones of the same context.

    Attributes:
        phone: the middle phone.
        context: its neighbours, such as `B_T` for the AE of B AE T.
        start_s: start of the triphone, or of the middle phone alone.
        end_s: end of the same.
    """

    phone: str
    context: str
    start_s: float
    end_s: float


def read_phones(cut: Cut, silences: Sequence[str]) -> list[Speech]:
    """The scored phones of every supervision that has an alignment, silences included.

    ARPABET stress is dropped (AH0 and AH1 are both AH), as Hsu et al. 2021 do.
    """
    found = []
    for supervision in cut.supervisions:
        tier = sorted((supervision.alignment or {}).get("phone", []), key=lambda item: float(item.start))
        phones = [Phone(without_stress(item.symbol), item.start, item.start + item.duration) for item in tier]
        if phones:
            found.append(Speech(supervision.speaker, _without_edges(phones, silences)))
    return found


def without_stress(symbol: str) -> str:
    """AH0 -> AH; what is not ARPABET stays."""
    return re.sub(r"^([A-Z]{2})[012]$", r"\1", symbol)


def _without_edges(phones: list[Phone], silences: Sequence[str]) -> list[Phone]:
    spoken = [i for i, phone in enumerate(phones) if phone.symbol not in silences]
    edges = {spoken[0], spoken[-1]} if spoken else set()
    return [phone for i, phone in enumerate(phones) if i not in edges]


def first_frame(time_s: float, frame_rate_hz: float) -> int:
    """Index of the first frame whose centre is at `time_s` or later.

    Worked: at 50 Hz the centres are 0.01, 0.03, 0.05 ... s, so 0.03 s gives 1 and 0.04 s gives 2.
    """
    return max(0, math.ceil(round(time_s * frame_rate_hz - 0.5, 6)))  # rounded: 0.07 * 50 - 0.5 is 3.0000000000000004


def phone_frames(phone: Phone | Segment, num_frames: int, frame_rate_hz: float) -> slice:
    """The frames whose centres lie in [start, end), of those that exist; may be empty."""
    start, end = first_frame(phone.start_s, frame_rate_hz), first_frame(phone.end_s, frame_rate_hz)
    return slice(min(start, num_frames), min(end, num_frames))


def segments(phones: Sequence[Phone], unit: Unit, silences: Sequence[str]) -> Iterator[Segment]:
    """Every phone between two neighbours that touch it, none of the three a silence.

    With `triphone` the stretch spans all three (ZeroSpeech 2021's items), with `phone` the middle one alone.
    """
    for before, phone, after in zip(phones, phones[1:], phones[2:], strict=False):
        gap_s = max(phone.start_s - before.end_s, after.start_s - phone.end_s)
        if gap_s > TOUCHING_S or {before.symbol, phone.symbol, after.symbol} & set(silences):
            continue
        ends = (before.start_s, after.end_s) if unit == "triphone" else (phone.start_s, phone.end_s)
        yield Segment(phone.symbol, f"{before.symbol}_{after.symbol}", *ends)
