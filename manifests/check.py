"""`voxtok check`: opens every recording of a corpus and reports what is wrong, one line a finding."""

import json
import math
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from lhotse import Recording
from lhotse.cut import Cut, MixedCut, MonoCut, MultiCut

from voxtok.manifests.audio import TOLERANCE_S, describe, native_rate, num_samples, read_channels, reads_spans
from voxtok.manifests.cuts import load_cuts, unique_cuts
from voxtok.runtime.config import parse
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.progress import Progress

FULL_SCALE = 0.9999
BLOCK_S = 30.0


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Open every recording of a corpus; print a line (severity, problem, id, detail) for each finding.

    Errors make an utterance unusable, warnings do not. Exit status: 0 no errors, 1 errors, 2 wrong options.
    """

    cuts: tuple[str, ...] = ()
    """Manifests or folders: cuts, recordings or Shar."""
    sampling_rate: int | None = None
    """Hz that every recording should have; by default what most have. Another is a warning: it is resampled."""
    min_duration_s: float = 0.1
    """Shorter cuts are errors."""
    silent_db: float = -60.0
    """A recording with no sample above this level (dB re full scale) is silent, an error."""
    clipped_share: float = 0.001
    """A recording with more than this share of its samples at full scale is clipped, a warning."""
    dc_offset: float = 0.02
    """A recording whose mean is further from zero than this (full scale is 1) has a DC offset, a warning."""
    json: bool = False
    """Print one JSON object instead of lines."""
    readers: int = 4
    """Threads that read."""

    def __post_init__(self) -> None:
        if self.readers < 1:
            raise ConfigError("--readers must be at least 1")


@dataclass(frozen=True)
class Finding:
    """One thing wrong with one cut or recording."""

    severity: Literal["error", "warning"]
    problem: str
    id: str
    detail: str


def check_cuts(cuts: Iterable[Cut], config: CheckConfig) -> Iterator[Finding]:
    """Find what is wrong, in the order of the cuts; at the end, recordings of an odd rate.

    Every recording is read once, in blocks of 30 s, whole even where cuts use parts of it.
    """
    ids_of_rate: dict[int, list[str]] = {}
    with ThreadPoolExecutor(config.readers) as pool, Progress("check", None) as progress:
        pending: deque[tuple[list[Finding], float, list[Future[list[Finding]]]]] = deque()
        seen: set[tuple[str, str]] = set()
        for cut, duplicate in unique_cuts(cuts):
            futures = []
            for recording in _recordings(cut):
                key = (recording.id, repr(recording.sources))
                if key not in seen:
                    seen.add(key)
                    ids_of_rate.setdefault(recording.sampling_rate, []).append(recording.id)
                    futures.append(pool.submit(check_recording, recording, config))
            pending.append((_check_cut(cut, duplicate, config), cut.duration, futures))
            while len(pending) > 4 * config.readers:
                yield from _finish(*pending.popleft(), progress)
        while pending:
            yield from _finish(*pending.popleft(), progress)
    yield from _odd_rates(ids_of_rate, config.sampling_rate)


def check_recording(recording: Recording, config: CheckConfig) -> list[Finding]:
    """Read a whole recording and report its audio's problems: one error, or any number of warnings."""
    cut = recording.to_cut()
    try:
        levels = _levels(cut)
    except BadAudio as bad:
        return [Finding("error", bad.reason, bad.cut_id, bad.detail)]
    if levels.peak <= 10 ** (config.silent_db / 20):
        peak = f"{20 * math.log10(levels.peak):.1f} dB" if levels.peak else "zero"
        return [
            Finding("error", "silent", recording.id, f"the highest sample is {peak}, not above {config.silent_db} dB")
        ]
    findings = []
    if levels.clipped_share > config.clipped_share:
        detail = f"{levels.clipped_share:.2%} of the samples are at full scale"
        findings.append(Finding("warning", "clipped", recording.id, detail))
    if abs(levels.mean) > config.dc_offset:
        findings.append(Finding("warning", "DC offset", recording.id, f"the mean is {levels.mean:.3f}"))
    longer_s = _file_duration_s(recording) - recording.duration
    if longer_s > TOLERANCE_S:
        detail = f"the file is {longer_s:.3f} s longer than the manifest says, {recording.duration:.3f} s"
        findings.append(Finding("warning", "duration mismatch", recording.id, detail))
    return findings


@dataclass(frozen=True)
class _Levels:
    """Of the channel where each is worst."""

    peak: float
    clipped_share: float
    mean: float


def _levels(cut: Cut) -> _Levels:
    total = num_samples(cut, native_rate(cut))
    step = round(BLOCK_S * native_rate(cut)) if reads_spans(cut) else total
    peak, clipped, sums, read = 0.0, np.zeros(1), np.zeros(1), 0
    for start in range(0, max(total, 1), max(step, 1)):
        audio = read_channels(cut, start, start + step)  # (channels, n)
        magnitude = np.abs(audio)
        peak = max(peak, float(magnitude.max(initial=0)))
        clipped = clipped + (magnitude >= FULL_SCALE).sum(axis=1)
        sums = sums + audio.sum(axis=1, dtype=np.float64)
        read += audio.shape[1]
    if read == 0:
        raise BadAudio(cut.id, "empty", "no samples")
    means = sums / read
    return _Levels(peak, float(clipped.max()) / read, float(means[np.abs(means).argmax()]))


def _file_duration_s(recording: Recording) -> float:
    """By the header of a single file; what the manifest says for anything else, or for a file of unknown format."""
    (source, *others) = recording.sources
    if others or source.type != "file" or recording.transforms:
        return float(recording.duration)
    try:
        return float(describe(Path(source.source), recording.id).duration)
    except BadAudio:
        return float(recording.duration)


def _check_cut(cut: Cut, duplicate: BadAudio | None, config: CheckConfig) -> list[Finding]:
    findings = [Finding("error", "duplicate id", cut.id, duplicate.detail)] if duplicate else []
    if cut.duration < config.min_duration_s:
        findings.append(
            Finding("error", "too short", cut.id, f"{cut.duration:.3f} s, less than {config.min_duration_s} s")
        )
    if isinstance(cut, MonoCut | MultiCut):
        if not cut.has_recording:
            findings.append(Finding("error", "missing", cut.id, "the cut has no recording"))
        elif cut.end > cut.recording.duration + TOLERANCE_S:
            detail = f"the cut ends at {cut.end:.3f} s, its recording at {cut.recording.duration:.3f} s"
            findings.append(Finding("error", "past the end", cut.id, detail))
    for supervision in cut.supervisions:
        if supervision.start < -TOLERANCE_S or supervision.end > cut.duration + TOLERANCE_S:
            detail = f"supervision {supervision.id} lies at {supervision.start:.3f} .. {supervision.end:.3f} s, "
            detail += f"the cut lasts {cut.duration:.3f} s"
            findings.append(Finding("warning", "supervision outside", cut.id, detail))
        for kind, items in (supervision.alignment or {}).items():
            ends = [item.end for item in items] + [supervision.start]
            starts = [item.start for item in items] + [supervision.start]
            if min(starts) < supervision.start - TOLERANCE_S or max(ends) > supervision.end + TOLERANCE_S:
                detail = f"{kind} alignment at {min(starts):.3f} .. {max(ends):.3f} s outside of its supervision"
                findings.append(Finding("warning", "alignment outside", cut.id, detail))
    return findings


def _odd_rates(ids_of_rate: dict[int, list[str]], expected: int | None) -> Iterator[Finding]:
    if expected is None and ids_of_rate:
        expected = max(ids_of_rate, key=lambda rate: len(ids_of_rate[rate]))
    for rate, ids in sorted(ids_of_rate.items()):
        for recording_id in ids if rate != expected else ():
            yield Finding("warning", "odd rate", recording_id, f"{rate} Hz where {expected} Hz is expected")


def _recordings(cut: Cut) -> list[Recording]:
    parts = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    return [part.recording for part in parts if isinstance(part, MonoCut | MultiCut) and part.has_recording]


def _finish(
    findings: list[Finding], duration_s: float, futures: list[Future[list[Finding]]], progress: Progress
) -> Iterator[Finding]:
    yield from findings
    for future in futures:
        yield from future.result()
    progress.add(duration_s)


def main(argv: Sequence[str]) -> int:
    """The command `voxtok check`."""
    config = parse(CheckConfig, argv, "voxtok check", positional="cuts")
    if not config.cuts:
        raise ConfigError("name the cuts to check: voxtok check CUTS")
    count = 0

    def counted() -> Iterator[Cut]:
        nonlocal count
        for path in config.cuts:
            for cut in load_cuts(path):
                count += 1
                yield cut

    findings = []
    for finding in check_cuts(counted(), config):
        findings.append(finding)
        if not config.json:
            print(finding.severity, finding.problem, finding.id, finding.detail, sep="\t", flush=True)
    problems = Counter((finding.severity, finding.problem) for finding in findings)
    errors = sum(finding.severity == "error" for finding in findings)
    if config.json:
        counts = [{"severity": severity, "problem": problem, "count": n} for (severity, problem), n in problems.items()]
        print(json.dumps({"cuts": count, "counts": counts, "findings": [asdict(finding) for finding in findings]}))
    listed = ", ".join(f"{problem} {n}" for (_, problem), n in problems.most_common())
    summary = f"{count} cuts: {errors} errors, {len(findings) - errors} warnings"
    print(f"{summary} ({listed})" if listed else summary, file=sys.stderr)
    return 1 if errors else 0
