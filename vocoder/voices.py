"""Who speaks: from a name, a reference recording or the source itself to what a vocoder takes as its speaker."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from lhotse.cut import Cut

from voxtok.manifests.audio import Samples, read_audio
from voxtok.manifests.samples import resample
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.vocoder.conditions import Speaker
from voxtok.vocoder.reference import reference_cuts
from voxtok.vocoder.speaker import SpeakerModel, load_speaker_model, mean_embedding
from voxtok.vocoder.vocoder import Vocoder

SOURCE = "source"
"""The name that stands for the source's own speaker."""


@dataclass(frozen=True, eq=False)
class Voices:
    """Resolves speakers for one vocoder.

    Attributes:
        vocoder: says what it takes: nothing, a name of its table, or an embedding.
        speaker: "source", a name of the table, or an audio file, a folder or cuts of one speaker.
        model_name: of the model that measures embeddings.
    """

    vocoder: Vocoder
    speaker: str
    model_name: str

    def of_cut(self, cut: Cut) -> Speaker | None:
        """The speaker that a cut is synthesized with.

        Raises:
            BadAudio: the speaker is measured on the cut, whose audio cannot be used.
            ConfigError: the speaker is unknown.
        """
        if self.kind == "none":
            return None
        if self.speaker != SOURCE:
            return self.fixed
        if self.kind == "table":
            return (cut.supervisions[0].speaker if cut.supervisions else None) or ""
        try:
            return self.model.embed(read_audio(cut, self.model.sampling_rate))
        except ConfigError as error:
            raise BadAudio(cut.id, "too short", str(error)) from error

    def of_samples(self, samples: Samples, sampling_rate: int) -> Speaker | None:
        """The speaker that a recording in memory is synthesized with; errors as `of_cut`."""
        if self.kind == "none":
            return None
        if self.speaker != SOURCE:
            return self.fixed
        if self.kind == "table":
            raise ConfigError("this vocoder knows its speakers by name: give one with --speaker")
        return self.model.embed(resample(samples, sampling_rate, self.model.sampling_rate))

    @property
    def kind(self) -> str:
        """What the vocoder is told: none, table or embedding."""
        return self.vocoder.model.config.speaker

    @cached_property
    def fixed(self) -> Speaker:
        """The one speaker that everything is synthesized with."""
        if self.kind == "table":
            return self.speaker
        if not Path(self.speaker).exists():
            raise ConfigError(f"--speaker {self.speaker}: give source, or a recording, a folder or cuts of the speaker")
        return mean_embedding(self.model, reference_cuts(self.speaker))

    @cached_property
    def model(self) -> SpeakerModel:
        """What measures embeddings.

        Raises:
            ConfigError: it is another one than the vocoder was trained with.
        """
        model = load_speaker_model(self.model_name, device=str(self.vocoder.device))
        if model.fingerprint != self.vocoder.facts.speaker_model:
            raise ConfigError(
                f"--speaker-model {self.model_name} is {model.fingerprint[:12]}, the vocoder was trained with "
                f"{str(self.vocoder.facts.speaker_model)[:12]}"
            )
        return model

    @property
    def identity(self) -> list[str]:
        """All that decides a speaker beside the cut, as JSON."""
        if self.kind == "none":
            return []
        fixed = "" if self.speaker == SOURCE else str(np.asarray(self.fixed).tolist())
        return [self.speaker, fixed]


def check_streams(vocoder: Vocoder, streams: Sequence[int]) -> tuple[int, ...] | None:
    """Token streams as `Vocoder.from_tokens` takes them: none named means all.

    Raises:
        ConfigError: the vocoder takes the features that tokens stand for, which need every stream.
    """
    if streams and vocoder.codebook is not None:
        raise ConfigError("this vocoder looks tokens up in a codebook, which needs all streams: leave out --streams")
    return tuple(streams) or None
