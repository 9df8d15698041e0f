"""Who was heard in training: an embedding of each speaker, for vocoders that are told who speaks by one.

out/voices.json    what measured them on which recordings, and the embedding of each speaker
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lhotse.cut import Cut

from voxtok.manifests.identity import inputs_of
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import read_description, sha256, write_json
from voxtok.vocoder.conditions import Speaker
from voxtok.vocoder.speaker import Embedding, SpeakerModel, mean_embedding
from voxtok.vocoder.vocoder import Vocoder
from voxtok.vocoder.voices import Voices

FORMAT = "voxtok-voices"
VERSION = 1
RECORDINGS = 20
"""Of each speaker, the first that can be measured."""


@dataclass(frozen=True, eq=False)
class TrainedVoices:
    """Embeddings (E,) by speaker; `model` is the fingerprint of what measured them, `key` see `voices_key`."""

    model: str
    embeddings: dict[str, Embedding]
    key: str = ""

    @classmethod
    def measure(cls, cuts: Iterable[Cut], model: SpeakerModel) -> "TrainedVoices":
        """The speakers of a corpus; one without a recording that can be measured is left out."""
        every = list(cuts)
        recordings: dict[str, list[Cut]] = {}
        for cut in every:
            if cut.has_recording:
                speaker = (cut.supervisions[0].speaker or "") if cut.supervisions else ""
                recordings.setdefault(speaker, []).append(cut)
        found: dict[str, Embedding] = {}
        for speaker, own in recordings.items():
            with suppress(ConfigError):
                found[speaker] = mean_embedding(model, own, RECORDINGS)
        return cls(model.fingerprint, found, voices_key(every, model))

    def save(self, folder: Path) -> None:
        """Write voices.json."""
        rows = {speaker: np.round(embedding, 6).tolist() for speaker, embedding in self.embeddings.items()}
        described = {"format": FORMAT, "version": VERSION, "model": self.model, "key": self.key}
        write_json(folder / "voices.json", described | {"voices": rows})

    @classmethod
    def load(cls, folder: Path) -> "TrainedVoices":
        """Read what `save` wrote; none where there is no such file.

        Raises:
            CorruptFile: the file is something else.
        """
        if not (folder / "voices.json").exists():
            return cls("", {})
        described = read_description(folder / "voices.json", FORMAT, VERSION, ("model", "voices"))
        return cls(
            described["model"],
            {speaker: np.array(row, dtype=np.float32) for speaker, row in described["voices"].items()},
            described.get("key", ""),  # older files have none
        )

    def told(self, vocoder: Vocoder, speaker: Speaker | None, model_name: str) -> Speaker | None:
        """What a vocoder is told of who speaks.

        Args:
            vocoder: says what it takes: nothing, a name of its table, or an embedding.
            speaker: an embedding, a name or a recording; None is the only speaker that was heard in training.
            model_name: of what measures a recording.

        Raises:
            ConfigError: an embedding is needed, and it is not clear whose.
        """
        kind = vocoder.model.config.speaker
        if kind == "none" or not (speaker is None or isinstance(speaker, str)):
            return None if kind == "none" else speaker
        if kind == "table" and speaker is not None:
            return speaker
        known = self.embeddings if kind == "embedding" and self.model == vocoder.facts.speaker_model else {}
        if speaker is None and len(known) == 1:
            return next(iter(known.values()))
        if speaker is None:
            heard = ", ".join(sorted(known)[:10]) or "not known"
            raise ConfigError(f"this vocoder is told who speaks: give --speaker, a recording or a name ({heard})")
        return known[speaker] if speaker in known else Voices(vocoder, speaker, model_name).fixed


def voices_key(cuts: Iterable[Cut], model: SpeakerModel) -> str:
    """Hash of what is measured by what: ids, speakers and recordings."""
    return sha256([model.fingerprint, RECORDINGS, [inputs_of(cut) for cut in cuts]])
