"""A folder of made recordings that a killed job completes: waveforms, their manifest, and what could not be made.

audio/               one .wav an utterance, 16 bit
cuts.jsonl.gz        Lhotse cuts of them, in the order of their sources, with the sources' texts and speakers
rejected.jsonl       what could not be made, and why
progress/            one .json an utterance that is done, with the hash of what it was made of
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import soundfile
from lhotse import Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item
from lhotse.utils import fastcopy

from voxtok.manifests.cuts import save_cuts
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import BadAudio
from voxtok.runtime.files import atomic, read_json, sha256, write_json, write_jsonl

Samples = npt.NDArray[np.float32]

MAX_NAME_BYTES = 200
"""Of an id in a file's name: file systems take 255 with what is put around it, and a letter may take 9."""


@dataclass(frozen=True)
class Order:
    """One utterance to be made.

    Attributes:
        source: the cut that it is made from; its id, which no other order has, names the result.
        inputs: hash of all that decides the result.
        speaker: whose voice the result has, where that is known.
    """

    source: Cut
    inputs: str
    speaker: str | None


def write_wav(path: Path | str, samples: Samples, sampling_rate: int) -> None:
    """Write 16-bit samples, whole or not at all; what is louder than full scale is clipped."""
    with atomic(path) as file:
        soundfile.write(file, np.clip(samples, -1, 1), sampling_rate, subtype="PCM_16", format="WAV")


class AudioFolder:
    """A folder that is filled order by order; every rank takes every n-th.

    Args:
        folder: to fill.
        orders: all that is to be made, on every rank the same.
        refused: what cannot be made, known before.
        ranks: this process's share.

    Example:
        folder = AudioFolder(out, orders, [], Ranks())
        for order in folder.open_orders():
            folder.add(order, make(order.source), sampling_rate)
        summary = folder.finish()
    """

    def __init__(self, folder: Path | str, orders: Sequence[Order], refused: Sequence[BadAudio], ranks: Ranks) -> None:
        self.folder = Path(folder)
        self._orders, self._refused, self._ranks = orders, refused, ranks

    def open_orders(self) -> list[Order]:
        """This rank's orders that are not done; where there are any, the manifest of before is removed."""
        mine = self._orders[self._ranks.rank :: self._ranks.world_size]
        found = [order for order in mine if self._row(order) is None]
        if found:
            (self.folder / "cuts.jsonl.gz").unlink(missing_ok=True)
        return found

    def add(self, order: Order, made: Samples | BadAudio, sampling_rate: int) -> None:
        """Note the result of an order: its waveform, or why there is none."""
        note, path = self._note(order.source.id), self.path(order.source.id)
        for stale in (note, path):  # in this order: a kill leaves no waveform beside the note of another
            stale.unlink(missing_ok=True)
        row: dict[str, Any] = {"inputs": order.inputs}
        if isinstance(made, BadAudio):
            row["rejected"] = made.row()
        else:
            write_wav(path, made, sampling_rate)
            row["cut"] = self._cut(order, len(made), sampling_rate).to_dict()
        write_json(note, row)

    def finish(self) -> dict[str, int] | None:
        """Once every order is done, write the manifest; None while other ranks still have some to do.

        Any rank may call it and several may at once: all of them write the same bytes.
        """
        rows = []
        for order in self._orders:
            row = self._row(order)
            if row is None:
                return None
            rows.append(row)
        cuts = [deserialize_item(row["cut"]) for row in rows if "cut" in row]
        rejected = [error.row() for error in self._refused] + [row["rejected"] for row in rows if "rejected" in row]
        save_cuts(self.folder / "cuts.jsonl.gz", cuts)
        write_jsonl(self.folder / "rejected.jsonl", rejected)
        return {"utterances": len(cuts), "rejected": len(rejected)}

    def path(self, source_id: str) -> Path:
        """Where the waveform of a source is written; names stay below the folder whatever the id."""
        return self.folder / "audio" / f"{_name(source_id)}.wav"

    def _note(self, source_id: str) -> Path:
        return self.folder / "progress" / f"{_name(source_id)}.json"

    def _row(self, order: Order) -> dict[str, Any] | None:
        """What `add` noted of an order; None where it is not done."""
        try:
            row: dict[str, Any] = read_json(self._note(order.source.id))
        except FileNotFoundError:
            return None
        whole = "rejected" in row or self.path(order.source.id).exists()
        return row if whole and row["inputs"] == order.inputs else None

    def _cut(self, order: Order, num_samples: int, sampling_rate: int) -> Cut:
        source, duration_s = order.source, num_samples / sampling_rate
        path = self.path(source.id).relative_to(self.folder)
        place = AudioSource("file", [0], str(path))  # relative, so that the folder can be moved
        cut: Cut = Recording(source.id, [place], sampling_rate, num_samples, duration_s).to_cut()
        if not source.supervisions and order.speaker is not None:
            cut.supervisions = [SupervisionSegment(source.id, source.id, 0, duration_s, 0, speaker=order.speaker)]
            return cut
        cut.supervisions = [
            fastcopy(
                one,
                recording_id=source.id,
                duration=min(one.duration, duration_s - one.start),
                speaker=order.speaker,
                channel=0,
            )
            for one in source.supervisions
            if one.start < duration_s
        ]
        return cut


def _name(source_id: str) -> str:
    """An id as a file's name; a long one, by its beginning and hash."""
    name = quote(source_id, safe=" +,;=@()")
    return name if len(name) <= MAX_NAME_BYTES else f"{name[: MAX_NAME_BYTES - 17]}-{sha256(source_id)[:16]}"
