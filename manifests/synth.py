"""The embedded corpus: sentences spoken by espeak-ng in many voices, with exact times of phones and words.

espeak-ng runs in worker processes only. An utterance depends on the settings and its own number, never on the workers,
so equal settings give equal bytes: audio files and manifest.
"""

import io
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile
import torch
from lhotse import Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.augmentation import get_or_create_resampler
from lhotse.cut import Cut, MonoCut
from lhotse.supervision import AlignmentItem

from voxtok.manifests import espeak
from voxtok.manifests.cuts import CorpusSize, load_cuts, save_cuts
from voxtok.manifests.sentences import sentences
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError, VoxtokError
from voxtok.runtime.files import read_json, sha256, write_bytes, write_json
from voxtok.runtime.progress import Progress

RATE = 16000
VERSION = 1
"""Raised when equal settings give another corpus."""

CHUNK = 25
"""Utterances that a worker makes at a time."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """Make a corpus of synthetic speech with exact phone times: no download, byte-identical for equal settings."""

    out: str
    """Folder to write: cuts.jsonl.gz and audio/ (16 kHz FLAC)."""
    speakers: int
    """Number of speakers: each a voice variant of its own (they repeat beyond 88), pitch, rate, vocal tract, level."""
    utterances: int
    """Utterances of each speaker."""
    seed: int
    """Draws the speakers and the sentences."""
    languages: str = "en-us"
    """Languages or accents of espeak-ng, separated by commas; speakers take turns: en-us,en-gb."""
    sentences: str | None = None
    """Text file, one sentence a line; by default sentences of a small English grammar."""
    prefix: str = "synth"
    """How ids begin, as in synth-s003-u0012."""
    workers: int | None = None
    """Processes that speak; by default as many as there are CPU cores. Changes nothing in the result."""

    def __post_init__(self) -> None:
        for name in ("speakers", "utterances"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be at least 1")
        if self.workers is not None and self.workers < 1:
            raise ConfigError("--workers must be at least 1")
        if not self.prefix or any(letter.isspace() or letter == "/" for letter in self.prefix):
            raise ConfigError("--prefix must have letters, no spaces and no slash")


@dataclass(frozen=True)
class Speaker:
    """One synthetic person."""

    name: str
    variant: str
    gender: str | None
    formant_scale: float
    voice: espeak.Voice
    level_db: float  # RMS of the speech re full scale
    noise_db: float  # RMS of the white noise under everything


@dataclass(frozen=True)
class _Task:
    """Some utterances of one speaker, as sent to a worker; texts by utterance number."""

    speaker: Speaker
    texts: dict[int, str]
    seed: int
    prefix: str
    folder: Path
    data: Path


def synthesize(config: SynthConfig) -> CorpusSize:
    """Write the corpus, unless it is there already with the same settings.

    Raises:
        ConfigError: a language espeak-ng does not speak, or sentences that cannot be read.
        MissingPart: espeak-ng is not installed.
        VoxtokError: a worker died or could not say a sentence.
    """
    out = Path(os.path.abspath(config.out))
    codes = _languages(config)
    texts, repeats = _texts(config, codes)
    settings = {name: value for name, value in asdict(config).items() if name not in ("out", "workers", "sentences")}
    marker = {"format": "voxtok-synth", "version": VERSION, **settings, "texts": sha256(texts)}
    manifest = out / "cuts.jsonl.gz"
    if manifest.exists() and (out / "synth.json").exists() and read_json(out / "synth.json") == marker:
        size = CorpusSize()
        for cut in load_cuts(manifest):
            size.add(cut)
        return size
    if repeats:
        print(f"{config.sentences}: {len(set(texts))} sentences for {len(texts)} utterances, so they repeat")
    (out / "synth.json").unlink(missing_ok=True)
    speakers = [draw_speaker(index, config.seed, codes) for index in range(config.speakers)]
    with tempfile.TemporaryDirectory(prefix="voxtok-espeak-") as data:
        espeak.prepare_data(Path(data), {s.name: espeak.variant_text(s.variant, s.formant_scale) for s in speakers})
        tasks = list(_tasks(config, speakers, texts, out / "audio", Path(data)))
        with Progress("synth", None) as progress:
            size = save_cuts(manifest, _spoken(tasks, config.workers or _cores(), progress))
    write_json(out / "synth.json", marker)
    return size


def draw_speaker(index: int, seed: int, codes: Sequence[str]) -> Speaker:
    """Speaker number `index` of a seed; the same whatever the number of speakers."""
    order = random.Random(f"variants {seed}")
    variants = sorted(espeak.variants(), key=lambda name: order.random())
    draw = random.Random(f"speaker {seed} {index}")

    def between(low: float, high: float) -> float:
        return low + (high - low) * draw.random()

    name, variant = f"s{index:03}", variants[index % len(variants)]
    voice = espeak.Voice(
        language=codes[index % len(codes)],
        variant=name,
        pitch=round(between(35, 65)),
        pitch_range=round(between(35, 65)),
        rate_wpm=round(between(140, 200)),
    )
    scale = round(between(0.94, 1.06), 3)
    return Speaker(name, variant, espeak.gender(variant), scale, voice, between(-32, -20), between(-70, -60))


def _languages(config: SynthConfig) -> list[str]:
    codes = [code.strip() for code in config.languages.split(",") if code.strip()]
    known = espeak.languages()
    for code in codes:
        if code not in known:
            near = get_close_matches(code, known, n=3, cutoff=0.4)
            some = ", ".join(near or ["en-us", "en-gb", "de", "fr", "es", "cmn"])
            raise ConfigError(f"espeak-ng does not speak {code!r}; of its {len(known)} languages, try {some}")
    if not codes:
        raise ConfigError("--languages names no language")
    foreign = [code for code in codes if code.split("-")[0] != "en"]
    if foreign and config.sentences is None:
        raise ConfigError(f"the built-in sentences are English: give --sentences FILE for {', '.join(foreign)}")
    return codes


def _texts(config: SynthConfig, codes: Sequence[str]) -> tuple[list[str], bool]:
    """A sentence for every utterance, speaker by speaker, and whether sentences repeat."""
    count = config.speakers * config.utterances
    if config.sentences is None:
        return sentences(count, config.seed), False
    try:
        lines = Path(config.sentences).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--sentences {config.sentences}: {error}") from error
    known = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not known:
        raise ConfigError(f"--sentences {config.sentences}: no sentence in it")
    order = random.Random(f"order {config.seed}")
    texts: list[str] = []
    while len(texts) < count:
        texts += sorted(known, key=lambda line: order.random())
    return texts[:count], len(known) < count


def _tasks(
    config: SynthConfig, speakers: Sequence[Speaker], texts: Sequence[str], folder: Path, data: Path
) -> Iterator[_Task]:
    numbered = iter(texts)
    for speaker in speakers:
        own = list(enumerate(islice(numbered, config.utterances)))
        for first in range(0, len(own), CHUNK):
            yield _Task(speaker, dict(own[first : first + CHUNK]), config.seed, config.prefix, folder, data)


def _spoken(tasks: Sequence[_Task], workers: int, progress: Progress) -> Iterator[Cut]:
    for cuts in in_workers(speak_task, tasks, min(workers, len(tasks))):
        progress.add(sum(cut.duration for cut in cuts))
        yield from cuts


def in_workers(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    """Run a function over tasks in fresh processes, and yield the results in the order of the tasks.

    Raises:
        VoxtokError: a process died. What the function raises is raised here too.
    """
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=leave_with_parent)
    try:
        yield from pool.map(function, tasks)
    except BrokenProcessPool as error:
        raise VoxtokError(
            "a worker process died: it ran out of memory or was killed; or this runs in a script whose work is not "
            'under `if __name__ == "__main__":`, where Python cannot start processes'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def leave_with_parent() -> None:
    """End this worker when its parent dies: a pool's idle workers would wait for ever for a killed one."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def speak_task(task: _Task) -> list[MonoCut]:
    """Say and write the utterances of one task; runs in a worker."""
    torch.set_num_threads(1)
    return [_utterance(task, number, text) for number, text in task.texts.items()]


def _utterance(task: _Task, number: int, text: str) -> MonoCut:
    speaker = task.speaker
    name = f"{task.prefix}-{speaker.name}-u{number:04}"
    spoken = espeak.speak(text, speaker.voice, task.data)
    resampler = get_or_create_resampler(espeak.RATE, RATE)
    speech = resampler(torch.from_numpy(spoken.samples.astype(np.float32) / 32768)).numpy()
    gain = 10 ** (speaker.level_db / 20) / np.sqrt(np.mean(speech**2, dtype=np.float64))
    gain = min(gain, 0.9 / np.abs(speech).max())
    random_numbers = np.random.default_rng([task.seed, int(speaker.name[1:]), number])
    before, after = (round(RATE * length_s) for length_s in random_numbers.uniform(0.1, 0.4, size=2))
    samples = random_numbers.standard_normal(before + len(speech) + after) * 10 ** (speaker.noise_db / 20)
    samples[before : before + len(speech)] += gain * speech
    path = task.folder / speaker.name / f"{name}.flac"
    write_bytes(path, _flac(samples))
    recording = Recording(name, [AudioSource("file", [0], str(path))], RATE, len(samples), len(samples) / RATE)
    supervision = SupervisionSegment(
        name,
        name,
        0.0,
        recording.duration,
        text=text,
        language=speaker.voice.language,
        speaker=f"{task.prefix}-{speaker.name}",
        gender=speaker.gender,
        custom={"voice": speaker.variant},
        alignment=_alignment(spoken, before / RATE, recording.duration),
    )
    return MonoCut(name, 0.0, recording.duration, 0, supervisions=[supervision], recording=recording)


def _flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.round(samples * 32767).astype(np.int16), RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _alignment(spoken: espeak.Spoken, before_s: float, duration_s: float) -> dict[str, list[AlignmentItem]]:
    """Times in the utterance, which has silence before and after; each phone ends where the next begins."""

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
    return {
        "word": [AlignmentItem(word, start, round(stop - start, 5)) for word, start, stop in words],
        "phone": [
            AlignmentItem(phone, start, round(stop - start, 5))
            for (phone, start), stop in zip(marks, stops, strict=True)
        ],
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(argv: Sequence[str]) -> int:
    """The command `voxtok corpus synth`."""
    config = parse(SynthConfig, argv, "voxtok corpus synth")
    size = synthesize(config)
    print(f"{Path(config.out) / 'cuts.jsonl.gz'}: {size}")
    return 0
