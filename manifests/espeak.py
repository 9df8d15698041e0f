"""espeak-ng through ctypes: a sentence and a voice -> samples, with the time of every phone and word.

Only worker processes call `speak`: the library keeps state between utterances (the phase of the pitch's flutter, the
noise generator), so it is unloaded and loaded again for each one, and a crash in it must not take the caller along.
The other functions read espeak-ng's data as files and are safe anywhere.

Phones are espeak-ng's own mnemonics without stress marks (ASCII, close to X-SAMPA), one a phoneme event.
"""

import ctypes
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxtok.runtime.errors import VoxtokError
from voxtok.runtime.optional import require

RATE = 22050
"""Hz, of what espeak-ng makes."""

SILENCE = "SIL"

ENGLISH = {
    "t2": "t", "I2": "I", "I#": "I", "i": "i:", "@2": "@", "@-": "@", "a#": "@", "aa": "a", "r-": "r", "n-": "n",
    "O2": "O:", "o@": "O@", "i@3": "i@", "aI3": "aI@", ";": "j",
}  # fmt: skip
"""Allophones that espeak-ng tells apart in English, folded into their phoneme: about 50 symbols are left."""

AMERICAN = {**ENGLISH, "0": "A:"}

LEFT_OUT = re.compile(r"Demonic|UniRobot|anikaRobot|robosoft\d?|croak|fast|whisperf?|caleb")
"""Variants not used: robots, whispers, `fast` (a rate), and `caleb`, which has a DC offset as large as its speech."""

CODA_SHARE = 0.4
"""Share of a vowel's time that a following /l/ takes where espeak-ng renders it inside the vowel (measured on F2)."""

SYNCHRONOUS, PHONEME_EVENTS, DONT_EXIT, CHARS_UTF8 = 2, 1, 0x8000, 1
SET_RATE, SET_VOLUME, SET_PITCH, SET_RANGE = 1, 2, 3, 4
END_OF_LIST, WORD, PHONEME = 0, 1, 7


@dataclass(frozen=True)
class Voice:
    """A voice of espeak-ng; `variant` is the name of a file that `prepare_data` wrote."""

    language: str
    variant: str
    pitch: int  # 0 .. 99; 50 is the variant's own
    pitch_range: int  # 0 .. 99; 50 is the variant's own
    rate_wpm: int


@dataclass(frozen=True)
class Unit:
    """A phone or word from sample `start` to sample `stop`."""

    symbol: str
    start: int
    stop: int


@dataclass(frozen=True)
class Spoken:
    """What `speak` gives: samples are (n,) int16 at RATE; phones cover all of them, without gaps."""

    samples: npt.NDArray[np.int16]
    phones: tuple[Unit, ...]
    words: tuple[Unit, ...]


@dataclass(frozen=True)
class _Event:
    kind: int
    sample: int
    text_position: int  # characters, from 1
    symbol: str


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _EventStruct(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_EventStruct))


def data_path() -> Path:
    """Folder of espeak-ng's data.

    Raises:
        MissingPart: the wheel is not installed.
    """
    return Path(require("espeakng_loader", "synth").get_data_path())


@cache
def languages() -> dict[str, str]:
    """The voice file of each language that espeak-ng speaks, by its code, such as en-us, en-gb, de, cmn."""
    files: dict[str, str] = {}
    for file in sorted(path for path in (data_path() / "lang").rglob("*") if path.is_file()):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("language "):
                files.setdefault(line.split()[1].lower(), file.name)
    return files


def variants() -> list[str]:
    """Names of the voice variants that sound like people, sorted."""
    names = (file.name for file in (data_path() / "voices" / "!v").iterdir())
    return sorted(name for name in names if not LEFT_OUT.fullmatch(name))


def variant_text(name: str, formant_scale: float) -> str:
    """A variant's file without its echo and with formants 1 to 8 scaled, as by the length of the vocal tract.

    Echo would smear phones over the next ones' time and fill the silences that tell where a closure begins.
    """
    lines = (data_path() / "voices" / "!v" / name).read_text(encoding="utf-8", errors="replace").splitlines()
    formants = {number: ["100", "100", "100"] for number in range(1, 9)}
    kept = []
    for line in lines:
        words = line.split()
        if words[:1] == ["formant"] and int(words[1]) in formants:
            formants[int(words[1])] = words[2:]
        elif words[:1] != ["echo"]:
            kept.append(line)
    for number, (frequency, *rest) in formants.items():
        kept.append(" ".join(["formant", str(number), str(round(int(frequency) * formant_scale)), *rest]))
    return "\n".join(kept) + "\n"


def gender(variant: str) -> str | None:
    """`M`, `F` or None, as the variant's file says."""
    for line in (data_path() / "voices" / "!v" / variant).read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("gender "):
            return {"male": "M", "female": "F"}.get(line.split()[1].lower())
    return None


def prepare_data(folder: Path, variant_texts: dict[str, str]) -> None:
    """Make a data folder for `speak`: links to espeak-ng's own, and these variants.

    It also keeps the path short: espeak-ng refuses paths beyond 160 characters.
    """
    for entry in data_path().iterdir():
        if entry.name != "voices":
            (folder / entry.name).symlink_to(entry)
    (folder / "voices" / "!v").mkdir(parents=True)
    for name, text in variant_texts.items():
        (folder / "voices" / "!v" / name).write_text(text, encoding="utf-8")


def speak(text: str, voice: Voice, data: Path) -> Spoken:
    """Say one sentence; equal arguments give equal samples, whatever was said before.

    Args:
        data: folder that `prepare_data` made.

    Raises:
        VoxtokError: espeak-ng does not start, does not know the voice, or says nothing.
    """
    blocks: list[npt.NDArray[np.int16]] = []
    events: list[_Event] = []

    def receive(samples: Any, count: int, entries: Any) -> int:
        if samples and count:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).astype(np.int16))
        index = 0
        while entries[index].type != END_OF_LIST:
            entry = entries[index]
            symbol = entry.id.string.decode(errors="ignore") if entry.type == PHONEME else ""
            events.append(_Event(entry.type, entry.sample, entry.text_position, symbol))
            index += 1
        return 0

    callback = _Callback(receive)
    library = ctypes.CDLL(require("espeakng_loader", "synth").get_library_path())
    try:
        if library.espeak_Initialize(SYNCHRONOUS, 0, str(data).encode(), PHONEME_EVENTS | DONT_EXIT) != RATE:
            raise VoxtokError(f"espeak-ng does not start with the data in {data}")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(f"{languages()[voice.language]}+{voice.variant}".encode()):
            raise VoxtokError(f"espeak-ng has no voice {voice.language!r}")
        settings = {SET_RATE: voice.rate_wpm, SET_VOLUME: 60, SET_PITCH: voice.pitch, SET_RANGE: voice.pitch_range}
        for parameter, value in settings.items():
            library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 1, 0, CHARS_UTF8, None, None)
        library.espeak_Terminate()
    finally:
        _unload(library)
    samples = np.concatenate([np.zeros(0, dtype=np.int16), *blocks])
    if not samples.any():
        raise VoxtokError(f"espeak-ng says nothing to {text!r} in {voice.language!r}")
    fold = AMERICAN if voice.language == "en-us" else ENGLISH if voice.language.split("-")[0] == "en" else {}
    return Spoken(samples, *_align(samples, events, text, fold))


def _unload(library: ctypes.CDLL) -> None:
    close = ctypes.CDLL(None).dlclose
    close.argtypes = [ctypes.c_void_p]
    close(library._handle)


def _align(
    samples: npt.NDArray[np.int16], events: Iterable[_Event], text: str, fold: dict[str, str]
) -> tuple[tuple[Unit, ...], tuple[Unit, ...]]:
    """Phones that cover the samples, and the words, each from its first phone to its last.

    A phoneme event marks where the phoneme's own sound begins; the silence just before it (the closure of a stop)
    belongs to it too, as TIMIT's closures and forced aligners count it, unless that silence is a pause of its own.
    """
    loud = np.where(np.abs(samples.astype(np.int32)) > 4, np.arange(1, len(samples) + 1), 0)
    after_loud = np.concatenate([[0], np.maximum.accumulate(loud)])  # where the silence before a sample begins
    starts: list[int] = []
    symbols: list[str] = []
    word_of: list[int] = []
    positions: list[int] = []
    for event in events:
        if event.kind == WORD:
            positions.append(event.text_position - 1)
        if event.kind != PHONEME or not event.symbol or event.symbol.startswith("("):  # (en) announces a language
            continue
        bare = event.symbol.lstrip("',%=|")
        pause = event.symbol.startswith("_")
        after_pause = bool(symbols) and symbols[-1] == SILENCE
        if pause and after_pause:
            continue
        start = min(event.sample, len(samples))
        if not pause and not after_pause:
            start = max(int(after_loud[start]), starts[-1] if starts else 0)
        starts.append(start)
        symbols.append(SILENCE if pause else fold.get(bare, bare))
        word_of.append(-1 if pause else len(positions) - 1)
    stops = [*starts[1:], len(samples)]
    for index in range(1, len(starts)):
        if symbols[index] == "l" and after_loud[stops[index]] <= starts[index]:
            starts[index] = stops[index - 1] = round(stops[index] - CODA_SHARE * (stops[index] - starts[index - 1]))
    units = [Unit(*unit) for unit in zip(symbols, starts, stops, strict=True)]
    words = []
    for index, position in enumerate(positions):
        own = [unit for unit, word in zip(units, word_of, strict=True) if word == index]
        following = positions[index + 1] if index + 1 < len(positions) else len(text)
        if own:
            words.append(Unit(text[position:following].strip(" .,;:!?\"'()"), own[0].start, own[-1].stop))
    if starts and starts[0] > 0:
        units.insert(0, Unit(SILENCE, 0, starts[0]))
    return tuple(unit for unit in units if unit.stop > unit.start), tuple(words)
