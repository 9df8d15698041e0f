"""Phones of text by espeak-ng, in a worker process: a crash in the library must not take the caller along.

Phones are those of manifests/espeak.py: espeak-ng's own mnemonics, allophones of English folded; here with a mark
before the vowel of primary stress, such as 'oU.
"""

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass

from voxtok.manifests import espeak
from voxtok.runtime.errors import ConfigError, VoxtokError
from voxtok.runtime.optional import require
from voxtok.runtime.workers import in_workers

SEPARATOR = "_"
LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")


@dataclass(frozen=True)
class Task:
    """Clauses without punctuation, and the voice file that reads them."""

    clauses: tuple[str, ...]
    voice: str
    fold: dict[str, str]


def phonemize(clauses: Sequence[str], language: str) -> list[list[list[str]]]:
    """Phones of the words of each clause; short words may be joined to the next, as espeak-ng says them.

    Worked: in en-us, `hello world` is [[h, @, l, 'oU], [w, '3:, l, d]].

    Raises:
        ConfigError: espeak-ng does not speak the language.
        MissingPart: espeak-ng is not installed.
        VoxtokError: the worker died.
    """
    files = espeak.languages()
    if language not in files:
        raise ConfigError(f"espeak-ng does not speak {language!r}; of its {len(files)} languages, try en-us, de, fr")
    fold = espeak.AMERICAN if language == "en-us" else espeak.ENGLISH if language.split("-")[0] == "en" else {}
    different = tuple(dict.fromkeys(clauses))
    found = next(in_workers(read_clauses, [Task(different, files[language], fold)], 1)) if different else []
    known = dict(zip(different, found, strict=True))
    return [known[clause] for clause in clauses]


def read_clauses(task: Task) -> list[list[list[str]]]:
    """What the worker does: open espeak-ng and read every clause.

    Raises:
        VoxtokError: espeak-ng does not start, or has no such voice.
    """
    library = ctypes.CDLL(require("espeakng_loader", "synth").get_library_path())
    if library.espeak_Initialize(espeak.SYNCHRONOUS, 0, str(espeak.data_path()).encode(), espeak.DONT_EXIT) <= 0:
        raise VoxtokError(f"espeak-ng does not start with the data in {espeak.data_path()}")
    if library.espeak_SetVoiceByName(task.voice.encode()):
        raise VoxtokError(f"espeak-ng has no voice {task.voice!r}")
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
    return [_words(_mnemonics(library, clause), task.fold) for clause in task.clauses]


def _mnemonics(library: ctypes.CDLL, clause: str) -> str:
    """Such as `h_@_l_'oU w_'3:_l_d`."""
    buffer = ctypes.create_string_buffer(clause.encode() + b"\0")
    place = ctypes.c_void_p(ctypes.addressof(buffer))
    parts: list[str] = []
    while place.value:
        part = library.espeak_TextToPhonemes(ctypes.byref(place), espeak.CHARS_UTF8, ord(SEPARATOR) << 8)
        parts.append(part.decode(errors="ignore"))
    return " ".join(parts)


def _words(mnemonics: str, fold: dict[str, str]) -> list[list[str]]:
    words = []
    for word in LANGUAGE_SWITCH.sub("", mnemonics).split():
        phones = [_phone(phone, fold) for phone in word.split(SEPARATOR)]
        words.append([phone for phone in phones if phone])
    return [word for word in words if word]


def _phone(mnemonic: str, fold: dict[str, str]) -> str:
    """The folded phone with its mark of primary stress; nothing for pauses and glue."""
    bare = mnemonic.lstrip("',%=|")
    stress = "'" if "'" in mnemonic[: len(mnemonic) - len(bare)] else ""
    return stress + fold.get(bare, bare) if bare.strip(":") else ""
