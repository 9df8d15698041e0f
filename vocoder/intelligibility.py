"""How speech sounds, by published measures: STOI, PESQ, and, where the user has the models, UTMOS and Whisper."""

import warnings
from collections.abc import Callable
from pathlib import Path

import kaldialign
import numpy as np
import numpy.typing as npt
import torch

from voxtok.manifests.samples import resample
from voxtok.runtime.errors import ConfigError, MissingPart, one_line
from voxtok.runtime.optional import require

Samples = npt.NDArray[np.float32]
RATE = 16000
STOI_S = 0.4
"""What 30 frames of STOI take."""
WHISPER_SAMPLES = 30 * RATE
"""What Whisper hears at once."""


def stoi(real: Samples, made: Samples, sampling_rate: int) -> float | None:
    """Short-time objective intelligibility, 0 .. 1 (Taal et al. 2011); None where too little is speech.

    Raises:
        MissingPart: pystoi is not installed.
    """
    measure = require("pystoi", "eval").stoi
    count = min(len(real), len(made))
    if count < STOI_S * sampling_rate:  # of a few samples pystoi takes no frame at all
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = float(measure(real[:count], made[:count], sampling_rate))
    return None if caught else found  # it warns and returns 1e-5 where fewer than 30 frames are left


def pesq(real: Samples, made: Samples, sampling_rate: int) -> float | None:
    """Wide-band PESQ (ITU-T P.862.2) at 16 kHz, 1 .. 4.6; None where it finds no speech, or is not installed."""
    try:
        package = require("pesq", "pesq")
    except MissingPart:
        return None
    count = min(len(real), len(made))
    pair = [resample(samples[:count], sampling_rate, RATE) for samples in (real, made)]
    try:
        return float(package.pesq(RATE, pair[0], pair[1], "wb"))
    except (package.NoUtterancesError, package.BufferTooShortError, ValueError):
        return None


def load_utmos(path: Path | str, device: torch.device) -> Callable[[Samples, int], float]:
    """A predictor of mean opinion scores saved as TorchScript, which takes (1, T) samples and their rate.

    Raises:
        ConfigError: the file is no such model.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # published models are TorchScript
            model = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{path} is no TorchScript model: {one_line(error)}") from error

    def score(samples: Samples, sampling_rate: int) -> float:
        with torch.inference_mode():
            return float(model(torch.from_numpy(samples)[None].to(device), sampling_rate).reshape(-1)[0])

    return score


def load_whisper(folder: Path | str, device: torch.device) -> Callable[[Samples, int], str]:
    """Whisper from a folder that `save_pretrained` wrote: samples to their text, 30 s after 30 s.

    Raises:
        ConfigError: there is no such folder.
    """
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    if not (Path(folder) / "config.json").exists():
        raise ConfigError(f"{folder} holds no Whisper model (no config.json)")
    model = WhisperForConditionalGeneration.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    torch.nn.Module.to(model.eval(), device)
    processor = WhisperProcessor.from_pretrained(folder, local_files_only=True)

    def transcribe(samples: Samples, sampling_rate: int) -> str:
        audio = resample(samples, sampling_rate, RATE)
        parts = [audio[start : start + WHISPER_SAMPLES] for start in range(0, len(audio), WHISPER_SAMPLES)]
        inputs = processor(parts, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True).to(device)
        with torch.inference_mode():
            ids = model.generate(inputs.input_features, attention_mask=inputs.attention_mask)
        return " ".join(processor.batch_decode(ids, skip_special_tokens=True))

    return transcribe


def word_errors(reference: str, found: str) -> tuple[int, int]:
    """Edits and reference words, without case and punctuation.

    Worked: "Ask her." and "ask him" have 1 edit in 2 words.
    """
    expected, heard = _words(reference), _words(found)
    return int(kaldialign.edit_distance(expected, heard)["total"]), len(expected)


def _words(text: str) -> list[str]:
    kept = "".join(letter if letter.isalnum() or letter in "' " else " " for letter in text.lower())
    return kept.split()
