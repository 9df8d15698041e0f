"""Audio that spells its text: every letter is a tone of its own, so that seconds of training hear it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from lhotse import CutSet, Recording, SupervisionSegment

from voxtok.manifests.codebook import kmeans_codebook
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.tokenizer_folder import TokenizerConfig
from voxtok.tokenize.windows import WindowConfig

RATE = 16000
WORDS = ("cat", "dog", "sat", "ate", "god", "act", "data")
LETTERS = [*sorted(set("".join(WORDS))), " "]
LETTER_S = 0.1
SPACE_S = 0.2


def say(text: str, seed: int) -> npt.NDArray[np.float32]:
    """(num_samples,) of a text and a pause; the space is silent and lasts longer than a letter."""
    rng = np.random.default_rng(seed)
    pieces = []
    for letter in f"{text} ":
        time_s = np.arange(round((SPACE_S if letter == " " else LETTER_S) * RATE)) / RATE
        pitch_hz = 250 * 1.35 ** LETTERS.index(letter)
        loud = 0.0 if letter == " " else 0.3
        pieces.append(loud * np.sin(2 * np.pi * pitch_hz * time_s) + 0.001 * rng.normal(size=len(time_s)))
    return np.concatenate(pieces).astype(np.float32)


def sentence(seed: int, words: int | None = None) -> str:
    """Two to four words, or as many as asked."""
    rng = np.random.default_rng([seed, 7])
    return " ".join(rng.choice(WORDS, size=words or int(rng.integers(2, 5))).tolist())


def write_voice(folder: Path, seeds: Sequence[int]) -> Path:
    """Write FLAC files and cuts.jsonl.gz with texts and two speakers; returns the cuts' path."""
    folder.mkdir(parents=True, exist_ok=True)
    cuts = []
    for seed in seeds:
        path = folder / f"utt{seed:03d}.flac"
        soundfile.write(path, say(sentence(seed), seed), RATE)
        cut = Recording.from_file(path, recording_id=path.stem).to_cut()
        cut.supervisions = [
            SupervisionSegment(cut.id, cut.id, 0, cut.duration, speaker=f"s{seed % 2}", text=sentence(seed))
        ]
        cuts.append(cut)
    CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    return folder / "cuts.jsonl.gz"


def voice_tokenizer(*, dedup: bool = False) -> Tokenizer:
    """A token for each letter: the mean log-mel frame of each tone."""
    upstream = load_upstream("logmel", device="cpu")
    config = TokenizerConfig(
        upstream="logmel", layers=(0,), normalization="checkpoint", dtype="float32",
        windows=WindowConfig(window_s=2.0, overlap_s=0.5), dedup=dedup,
    )  # fmt: skip
    samples = torch.from_numpy(np.stack([say(letter * 4, 0)[: round(4 * LETTER_S * RATE)] for letter in LETTERS]))
    features, lengths = upstream.extract(samples, torch.full((len(LETTERS),), samples.shape[1]), [0])
    middles = features[0][:, int(lengths[0]) // 2]  # one tone goes on for four letters
    return Tokenizer(config, upstream, kmeans_codebook(middles.contiguous().numpy()))
