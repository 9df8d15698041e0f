"""The embedded corpus: sentences spoken by espeak-ng in many voices, with exact times of phones and words.

espeak-ng runs in worker processes only. An utterance depends on the settings and its own number, never on the workers,
so equal settings give equal bytes: audio files and manifest.
"""

import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from lhotse import Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.cut import Cut, MonoCut
from lhotse.supervision import AlignmentItem

from voxtok.manifests import espeak
from voxtok.manifests.cuts import CorpusSize, load_cuts, save_cuts
from voxtok.manifests.sentences import sentences
from voxtok.manifests.utterance import RATE, Speaker, Task, Utterance, say
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import read_json, sha256, write_json
from voxtok.runtime.progress import Progress
from voxtok.runtime.workers import cores, in_workers

VERSION = 1
"""Raised when equal settings give another corpus."""

CHUNK = 25
"""Utterances that a worker makes at a time."""
VOICES_AT_ONCE = 100
"""Speakers in a data folder: espeak-ng knows no more than 350 voices, its 140 languages among them."""


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
    first_speaker: int = 0
    """Number of the first speaker: parts of one corpus, of equal seed and utterances, share no speaker or sentence."""
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
        if self.seed < 0 or self.first_speaker < 0:
            raise ConfigError("--seed and --first-speaker must not be negative")
        if self.workers is not None and self.workers < 1:
            raise ConfigError("--workers must be at least 1")
        if not self.prefix or any(letter.isspace() or letter == "/" for letter in self.prefix):
            raise ConfigError("--prefix must have letters, no spaces and no slash")


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
    marker = {"format": "voxtok-synth", "version": VERSION, "out": str(out), **settings, "texts": sha256(texts)}
    manifest = out / "cuts.jsonl.gz"
    if manifest.exists() and (out / "synth.json").exists() and read_json(out / "synth.json") == marker:
        size = CorpusSize()
        for cut in load_cuts(manifest):
            size.add(cut)
        return size
    if repeats:
        print(f"{config.sentences}: {len(set(texts))} sentences for {len(texts)} utterances, so they repeat")
    (out / "synth.json").unlink(missing_ok=True)
    numbers = range(config.first_speaker, config.first_speaker + config.speakers)
    speakers = [draw_speaker(number, config.seed, codes) for number in numbers]
    with tempfile.TemporaryDirectory(prefix="voxtok-espeak-") as data:
        folders = _voices(speakers, Path(data))
        tasks = list(_tasks(config, speakers, texts, out / "audio", folders))
        with Progress("synth", None) as progress:
            size = save_cuts(manifest, _spoken(tasks, config.workers or cores(), progress))
    write_json(out / "synth.json", marker)
    return size


def draw_speaker(index: int, seed: int, codes: Sequence[str]) -> Speaker:
    """Speaker number `index` of a seed; the same whatever the number of speakers."""
    order = random.Random(f"variants {seed}")
    variants = sorted(espeak.variants(), key=lambda name: order.random())
    draw = random.Random(f"speaker {seed} {index}")

    def between(low: float, high: float) -> float:
        return low + (high - low) * draw.random()

    variant = variants[index % len(variants)]
    voice = espeak.Voice(
        language=codes[index % len(codes)],
        variant=f"s{index:03}",
        pitch=round(between(35, 65)),
        pitch_range=round(between(35, 65)),
        rate_wpm=round(between(140, 200)),
    )
    scale = round(between(0.94, 1.06), 3)
    return Speaker(index, variant, espeak.gender(variant), scale, voice, between(-32, -20), between(-70, -60))


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
    first = config.first_speaker * config.utterances
    count = first + config.speakers * config.utterances
    if config.sentences is None:
        return sentences(count, config.seed)[first:], False
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
    return texts[first:count], len(known) < count


def _voices(speakers: Sequence[Speaker], folder: Path) -> list[Path]:
    """The data folder of each speaker's voice: one for every VOICES_AT_ONCE speakers."""
    folders = []
    for first in range(0, len(speakers), VOICES_AT_ONCE):
        some = speakers[first : first + VOICES_AT_ONCE]
        data = folder / str(first)
        data.mkdir()
        espeak.prepare_data(data, {s.voice.variant: espeak.variant_text(s.variant, s.formant_scale) for s in some})
        folders += [data] * len(some)
    return folders


def _tasks(
    config: SynthConfig, speakers: Sequence[Speaker], texts: Sequence[str], folder: Path, folders: Sequence[Path]
) -> Iterator[Task]:
    numbered = iter(texts)
    for speaker, data in zip(speakers, folders, strict=True):
        own = list(enumerate(islice(numbered, config.utterances)))
        for first in range(0, len(own), CHUNK):
            yield Task(speaker, dict(own[first : first + CHUNK]), config.seed, config.prefix, folder, data)


def _spoken(tasks: Sequence[Task], workers: int, progress: Progress) -> Iterator[Cut]:
    for task, utterances in zip(tasks, in_workers(say, tasks, workers), strict=True):
        for utterance in utterances:
            cut = _cut(utterance, task)
            progress.add(cut.duration)
            yield cut


def _cut(said: Utterance, task: Task) -> MonoCut:
    duration_s = said.num_samples / RATE
    recording = Recording(said.name, [AudioSource("file", [0], str(said.path))], RATE, said.num_samples, duration_s)
    supervision = SupervisionSegment(
        said.name,
        said.name,
        0.0,
        duration_s,
        text=said.text,
        language=task.speaker.voice.language,
        speaker=f"{task.prefix}-s{task.speaker.number:03}",
        gender=task.speaker.gender,
        custom={"voice": task.speaker.variant},
        alignment={
            "word": [AlignmentItem(*item) for item in said.words],
            "phone": [AlignmentItem(*item) for item in said.phones],
        },
    )
    return MonoCut(said.name, 0.0, duration_s, 0, supervisions=[supervision], recording=recording)


def main(argv: Sequence[str]) -> int:
    """The command `voxtok corpus synth`."""
    config = parse(SynthConfig, argv, "voxtok corpus synth")
    size = synthesize(config)
    print(f"{Path(config.out) / 'cuts.jsonl.gz'}: {size}")
    return 0
