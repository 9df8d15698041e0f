"""One cut's samples: mono float32 at the asked rate, or a BadAudio that says why not."""

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut

from voxtok.runtime.errors import BadAudio

Samples = npt.NDArray[np.float32]

REASONS = ("missing", "unreadable", "empty", "too short", "truncated", "non-finite", "wrong rate", "duplicate id")
"""Every reason that a line of rejected.jsonl can give."""


def read_audio(cut: Cut, sampling_rate: int) -> Samples:
    """Read a cut through Lhotse, down-mixed by the mean over channels and resampled.

    Returns:
        (num_samples,) float32.

    Raises:
        BadAudio: the recording is missing, unreadable, empty, truncated or has non-finite samples.
    """
    try:
        audio = cut.resample(sampling_rate).load_audio()
    except FileNotFoundError as error:
        raise BadAudio(cut.id, "missing", str(error)) from error
    except Exception as error:
        raise BadAudio(cut.id, "unreadable", str(error).strip().splitlines()[0]) from error
    samples = np.ascontiguousarray(audio.mean(axis=0), dtype=np.float32)
    if not len(samples):
        raise BadAudio(cut.id, "empty", "no samples")
    if not np.isfinite(samples).all():
        raise BadAudio(cut.id, "non-finite", "NaN or infinite samples")
    return samples
