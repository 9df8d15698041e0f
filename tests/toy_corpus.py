"""A few seconds of seeded sound in vowel-like pieces, as audio files and cuts: no download, no synthesizer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf
from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.supervision import AlignmentItem

RATE = 16000
FORMANTS = {"a": (800, 1200), "i": (300, 2300), "u": (320, 800), "e": (500, 1900), "o": (450, 900)}


def toy_speech(duration_s: float, seed: int) -> tuple[npt.NDArray[np.float32], list[AlignmentItem]]:
    """Vowels of 0.08-0.2 s with two formants and noise; the (num_samples,) samples and the vowels' alignment."""
    rng = np.random.default_rng(seed)
    pieces: list[npt.NDArray[np.float64]] = []
    phones: list[AlignmentItem] = []
    at, total = 0, round(duration_s * RATE)
    pitch = rng.uniform(90, 220)
    while at < total:
        size = min(int(rng.uniform(0.08, 0.2) * RATE), total - at)
        name = str(rng.choice(sorted(FORMANTS)))
        time_s = np.arange(size) / RATE
        tone = sum(np.sin(2 * np.pi * round(f / pitch) * pitch * time_s) for f in FORMANTS[name])
        pieces.append(0.1 * tone + 0.02 * rng.normal(size=size))
        phones.append(AlignmentItem(name, round(at / RATE, 6), round(size / RATE, 6)))
        at += size
    return np.concatenate(pieces).astype(np.float32), phones


def write_toy_corpus(folder: Path, durations_s: Sequence[float], speakers: int = 2, name: str = "utt") -> Path:
    """Write wavs and cuts.jsonl.gz with speakers, texts and phone alignments; returns the cuts' path.

    Utterances are called `name` and a number; those of equal numbers and durations are the same, whatever their names.
    """
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    cuts = []
    for i, duration_s in enumerate(durations_s):
        samples, phones = toy_speech(duration_s, seed=i)
        path = folder / "audio" / f"{name}{i:03d}.wav"
        sf.write(path, samples, RATE, subtype="FLOAT")
        cut = Recording.from_file(path, recording_id=f"{name}{i:03d}").to_cut()
        text = " ".join(item.symbol for item in phones)
        segment = SupervisionSegment(
            id=cut.id, recording_id=cut.id, start=0, duration=cut.duration, speaker=f"s{i % speakers}", text=text
        )
        cut.supervisions = [segment.with_alignment("phone", phones)]
        cuts.append(cut)
    CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    return folder / "cuts.jsonl.gz"
