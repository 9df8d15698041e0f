"""What a vocoder is told beside tokens or features: who speaks, and at what pitch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from voxtok.runtime.errors import ConfigError
from voxtok.vocoder.model_config import Facts, SpeakerInput

Speaker = str | npt.NDArray[np.floating]
"""The name of a training speaker, or a speaker embedding (E,)."""


def speaker_rows(speakers: Sequence[Speaker | None], kind: SpeakerInput, facts: Facts) -> torch.Tensor | None:
    """Numbers (B,) in the table or embeddings (B, E), as the vocoder takes them; None where it takes neither.

    Raises:
        ConfigError: a speaker that it does not know, or of another shape.
    """
    if kind == "none":
        return None
    if kind == "table":
        unknown = [speaker for speaker in speakers if speaker not in facts.speakers]
        if unknown:
            known = ", ".join(facts.speakers[:10])
            raise ConfigError(f"speaker {unknown[0]!r} is not one of the vocoder's: {known}, ...")
        return torch.tensor([facts.speakers.index(str(speaker)) for speaker in speakers])
    rows = [np.asarray(speaker, dtype=np.float32) for speaker in speakers if not isinstance(speaker, str | None)]
    if len(rows) != len(speakers) or any(row.shape != (facts.speaker_width,) for row in rows):
        raise ConfigError(
            f"this vocoder is told who speaks by an embedding of {facts.speaker_width} numbers: "
            "measure one on a reference recording (voxtok.vocoder.speaker)"
        )
    return torch.from_numpy(np.stack(rows))


def pitch_rows(
    f0_hz: Sequence[npt.ArrayLike | None], lengths: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Pitch (B, N), padded, and its norm (B, 2): mean and deviation of its log over the voiced frames of what is given.

    Raises:
        ConfigError: pitch of some utterances alone, or not one number a frame.
    """
    given = [np.asarray(row, dtype=np.float32) for row in f0_hz if row is not None]
    if not given:
        return None, None
    if len(given) != len(f0_hz) or any(row.shape != (n,) for row, n in zip(given, lengths.tolist(), strict=True)):
        raise ConfigError("f0_hz has one number a frame for every utterance of the batch, or none has it")
    rows = [torch.from_numpy(row) for row in given]
    logs = [np.log(row[row > 0]) if (row > 0).any() else np.zeros(1) for row in given]
    norm = torch.tensor([[float(values.mean()), float(values.std())] for values in logs])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), norm
