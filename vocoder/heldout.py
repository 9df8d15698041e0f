"""Utterances kept apart from training: how far their synthesis is, and samples and spectrograms for TensorBoard."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from voxtok.runtime.errors import ConfigError
from voxtok.runtime.training import Metrics
from voxtok.vocoder.conditions import Speaker
from voxtok.vocoder.mel import log_mel, quality_shape
from voxtok.vocoder.speech import Speech, Utterance
from voxtok.vocoder.vocoder import Vocoder


def split_heldout(speech: Speech, heldout: int) -> tuple[Speech, list[Utterance]]:
    """Speech without its last utterances, and those.

    Raises:
        ConfigError: none would be left to train on.
    """
    if len(speech.utterances) <= heldout:
        raise ConfigError(f"{len(speech.utterances)} utterances leave none to train on with train.heldout {heldout}")
    kept = len(speech.utterances) - heldout
    return Speech(speech.utterances[:kept], speech.identity, speech.speakers), speech.utterances[kept:]


def look_at(vocoder: Vocoder, heldout: Sequence[Utterance], metrics: Metrics, step: int) -> None:
    """Synthesize held-out utterances: their mean mel distance, and samples and spectrograms for TensorBoard."""
    distances = []
    for utterance in heldout:
        content = torch.from_numpy(utterance.content.astype(np.float32 if vocoder.width else np.int64))
        samples = vocoder.from_content(content, speaker=_told(vocoder, utterance), f0_hz=_asked(vocoder, utterance))
        real = utterance.span(0, len(samples))
        shape = quality_shape(vocoder.sampling_rate)
        pair = [log_mel(torch.from_numpy(waveform), shape) for waveform in (real, samples)]
        distances.append(float((pair[0] - pair[1]).abs().mean()))
        name = utterance.cut.id
        metrics.add_audio(step, f"{name}/original", real, vocoder.sampling_rate)
        metrics.add_audio(step, f"{name}/synthetic", samples, vocoder.sampling_rate)
        metrics.add_picture(step, name, torch.cat(pair, dim=1).T.flip(0).numpy())
    if distances:
        metrics.add(step, {"heldout_mel": round(float(np.mean(distances)), 5)})


def _told(vocoder: Vocoder, utterance: Utterance) -> Speaker | None:
    """What the vocoder is told of the speaker."""
    return utterance.speaker if vocoder.model.config.speaker == "table" else utterance.embedding


def _asked(vocoder: Vocoder, utterance: Utterance) -> Any:
    """The pitch, where it is an input."""
    return utterance.f0_hz if vocoder.model.config.f0_bins else None
