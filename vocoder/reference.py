"""A speaker's recordings -> cuts for a pool: of one speaker, without some utterances, without silent ends."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from lhotse.cut import Cut

from voxtok.manifests.audio import Samples, describe, read_audio
from voxtok.manifests.cuts import load_cuts, unique_cuts
from voxtok.manifests.folder import audio_files
from voxtok.runtime.errors import BadAudio, ConfigError, ManifestError

SPEECH_DB = 30.0
"""Ends that stay this far below the loud parts of a recording are silence."""
LEVEL_HZ = 100
MARGIN_S = 0.1
"""Of what is left before and after the speech."""


def reference_cuts(path: Path | str) -> list[Cut | BadAudio]:
    """The recordings of an audio file, a folder of audio files or Lhotse cuts, in their order.

    Raises:
        ManifestError: there is nothing of that kind.
        BadAudio: `path` is an audio file that cannot be used.
    """
    path = Path(path)
    try:
        return [twice or cut for cut, twice in unique_cuts(load_cuts(path))]
    except ManifestError:
        files = sorted(audio_files(path.resolve())) if path.is_dir() else []
        if not files:
            raise
    cuts: list[Cut] = []
    bad: list[Cut | BadAudio] = []
    for file in files:
        try:
            cuts.append(describe(path / file, str(Path(file).with_suffix(""))).to_cut())
        except BadAudio as error:
            bad.append(error)
    return bad + [twice or cut for cut, twice in unique_cuts(cuts)]


def of_speaker(cuts: Iterable[Cut | BadAudio], speaker: str | None, without: Iterable[str]) -> list[Cut | BadAudio]:
    """The cuts of one speaker (None takes all), but for some ids.

    Raises:
        ConfigError: no such speaker, or no cut of an id.
    """
    every = list(cuts)
    left_out = set(without)
    unknown = left_out - {cut.cut_id if isinstance(cut, BadAudio) else cut.id for cut in every}
    if unknown:
        raise ConfigError(f"--without {min(unknown)}: the reference has no such utterance")
    kept = [cut for cut in every if isinstance(cut, BadAudio) or cut.id not in left_out]
    if speaker is None:
        return kept
    chosen: list[Cut | BadAudio] = [cut for cut in kept if isinstance(cut, BadAudio) or speaker in speakers_of(cut)]
    if not any(isinstance(cut, Cut) for cut in chosen):
        known = sorted({name for cut in every if isinstance(cut, Cut) for name in speakers_of(cut)})
        raise ConfigError(f"--speaker {speaker}: the reference has {', '.join(known[:10]) or 'no speakers'}")
    return chosen


def speakers_of(cut: Cut) -> set[str]:
    """Names of those who speak in a cut."""
    return {supervision.speaker for supervision in cut.supervisions if supervision.speaker}


def without_silent_ends(cuts: Iterable[Cut | BadAudio], sampling_rate: int) -> Iterator[Cut | BadAudio]:
    """Each cut from where its speech begins to where it ends, with a margin."""
    for cut in cuts:
        if isinstance(cut, BadAudio):
            yield cut
            continue
        try:
            start_s, stop_s = speech_span_s(read_audio(cut, sampling_rate), sampling_rate)
        except BadAudio as error:
            yield error
            continue
        yield cut.truncate(offset=start_s, duration=stop_s - start_s, preserve_id=True)


def speech_span_s(samples: Samples, sampling_rate: int) -> tuple[float, float]:
    """Beginning and end of what is not far below the loud parts (95th percentile), whatever the recording's level.

    Worked: 1 s of silence, 2 s of a tone and 1 s of silence: 0.9 to 3.1 s.
    """
    hop = sampling_rate // LEVEL_HZ
    num_frames = max(len(samples) // hop, 1)
    energy = np.square(samples[: num_frames * hop].astype(np.float64)).reshape(num_frames, -1).mean(axis=1)
    level_db = 10 * np.log10(energy + 1e-12)
    loud = np.flatnonzero(level_db >= np.quantile(level_db, 0.95) - SPEECH_DB)
    total_s = len(samples) / sampling_rate
    start_s = max(loud[0] * hop / sampling_rate - MARGIN_S, 0.0)
    stop_s = min((loud[-1] + 1) * hop / sampling_rate + MARGIN_S, total_s)
    return start_s, stop_s
