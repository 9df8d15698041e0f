"""What a synthesis worker does: say the sentences of one speaker, write FLAC files, hand back the times.

Worker processes import this module only, so it stays light: no torch, no Lhotse.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from voxtok.manifests import espeak
from voxtok.runtime.files import write_bytes

RATE = 16000

Timed = tuple[str, float, float]
"""A phone or word, where it starts and how long it lasts, in seconds."""


@dataclass(frozen=True)
class Speaker:
    """One synthetic person."""

    number: int
    variant: str
    gender: str | None
    formant_scale: float
    voice: espeak.Voice
    level_db: float  # RMS of the speech re full scale
    noise_db: float  # RMS of the white noise under everything


@dataclass(frozen=True)
class Task:
    """Some utterances of one speaker; `texts` by utterance number, `data` as espeak.prepare_data made it."""

    speaker: Speaker
    texts: dict[int, str]
    seed: int
    prefix: str
    folder: Path
    data: Path


@dataclass(frozen=True)
class Utterance:
    """A file that was written; phones cover all of it, each ends where the next begins."""

    name: str
    path: Path
    text: str
    num_samples: int
    phones: list[Timed]
    words: list[Timed]


def say(task: Task) -> list[Utterance]:
    """Say and write the utterances of a task.

    Raises:
        VoxtokError: espeak-ng cannot say one of them.
    """
    return [_say(task, number, text) for number, text in task.texts.items()]


def _say(task: Task, number: int, text: str) -> Utterance:
    speaker = task.speaker
    spoken = espeak.speak(text, speaker.voice, task.data)
    speech = resample(spoken.samples / 32768)
    gain = 10 ** (speaker.level_db / 20) / np.sqrt(np.mean(speech**2))
    speech *= min(gain, 0.9 / np.abs(speech).max())
    draw = np.random.default_rng([task.seed, speaker.number, number])
    before, after = (round(RATE * length_s) for length_s in draw.uniform(0.1, 0.4, size=2))
    samples = draw.standard_normal(before + len(speech) + after) * 10 ** (speaker.noise_db / 20)
    samples[before : before + len(speech)] += speech
    name = f"{task.prefix}-s{speaker.number:03}-u{number:04}"
    path = task.folder / f"s{speaker.number:03}" / f"{name}.flac"
    write_bytes(path, _flac(samples))
    phones, words = _times(spoken, before / RATE, len(samples) / RATE)
    return Utterance(name, path, text, len(samples), phones, words)


def resample(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Resample from espeak.RATE to RATE by way of the spectrum, which fades out over the last 5 % below 8 kHz.

    Args:
        samples: (n,) beginning and ending in silence, as the transform takes them for a circle.

    Returns:
        (round(n * 320 / 441),)
    """
    blocks = len(samples) // 441 + 2
    spectrum = np.fft.rfft(samples, blocks * 441)[: blocks * 160 + 1]
    spectrum *= np.clip((1 - np.arange(len(spectrum)) / len(spectrum)) / 0.05, 0, 1)
    return np.fft.irfft(spectrum, blocks * 320)[: round(len(samples) * 320 / 441)] * (320 / 441)


def _flac(samples: npt.NDArray[np.float64]) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.round(samples * 32767).astype(np.int16), RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _times(spoken: espeak.Spoken, before_s: float, duration_s: float) -> tuple[list[Timed], list[Timed]]:
    """Phones and words of the whole file, with its silence before and after the speech."""

    def second(sample: int) -> float:
        return round(before_s + sample / espeak.RATE, 5)

    phones = list(spoken.phones)
    while phones and phones[0].symbol == espeak.SILENCE:
        del phones[0]
    while phones and phones[-1].symbol == espeak.SILENCE:
        del phones[-1]
    marks = [(espeak.SILENCE, 0.0), *((phone.symbol, second(phone.start)) for phone in phones)]
    marks += [(espeak.SILENCE, second(phones[-1].stop))] if phones else []
    stops = [start for _, start in marks[1:]] + [duration_s]
    words = [(word.symbol, second(word.start), second(word.stop)) for word in spoken.words]
    return (
        [(symbol, start, round(stop - start, 5)) for (symbol, start), stop in zip(marks, stops, strict=True)],
        [(symbol, start, round(stop - start, 5)) for symbol, start, stop in words],
    )
