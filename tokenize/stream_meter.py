"""Token quality of several streams: each stream by itself, and what the first 1, 2, ... of them cost together.

A stream has its own PNMI, perplexity and unit edit distance. Streams together have a bitrate, the sum of what each
takes coded by itself (their joint entropy is at most that, and cannot be counted: there are more combinations than
frames), and vectors, whose ABX and distance from the frames are measured. After dedup a row stays until any stream
changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lhotse.cut import Cut

from voxtok.runtime.errors import BadAudio
from voxtok.tokenize.meter import AbxResult, Codes, Meter, Scoring, Utterance
from voxtok.tokenize.purity import Counts, entropy_bits
from voxtok.tokenize.quantizer import RESIDUAL, Quantizer
from voxtok.tokenize.unit_edit import EncodedPairs, unit_edit


@dataclass(frozen=True)
class Rate:
    """One point of the rate-distortion table: a tokenizer, by its first `streams` streams.

    Attributes:
        name: of the tokenizer.
        quantizer: its kind.
        streams: how many of its streams count here.
        vocab_sizes: of those.
        bitrate_bps: frames per second times the sum of the streams' entropies.
        bitrate_log2k_bps: frames per second times the sum of log2 K.
        tokens_per_s: rows per second after dedup.
        bitrate_dedup_bps: those times the sum of the streams' entropies after dedup, durations left out.
        perplexity: of each stream.
        pnmi: of each stream; None where no phone is aligned.
        ued: of each stream, mean over the changes; None where not measured.
        abx_within: error of the vectors that the tokens stand for, by angles.
        abx_across: the same with X by another speaker.
        error: mean squared distance of those vectors to the frames, relative to the frames' variance.
    """

    name: str
    quantizer: str
    streams: int
    vocab_sizes: tuple[int, ...]
    bitrate_bps: float
    bitrate_log2k_bps: float
    tokens_per_s: float
    bitrate_dedup_bps: float
    perplexity: list[float]
    pnmi: list[float] | None
    ued: list[float] | None
    abx_within: float | None
    abx_across: float | None
    error: float | None = None


class StreamMeter:
    """The quality of one tokenizer's streams, counted utterance by utterance."""

    def __init__(self, vocab_sizes: Sequence[int], frame_rate_hz: float, scoring: Scoring) -> None:
        self.meters = [Meter(size, frame_rate_hz, scoring) for size in vocab_sizes]
        self._vocab_sizes = tuple(vocab_sizes)
        self._prefixes = [PrefixCounts(vocab_sizes[: i + 1]) for i in range(len(vocab_sizes))]

    def add(self, cut: Cut, codes: Codes) -> None:
        """Count one utterance's (frames, streams) tokens, before dedup; the cut has its phones and speaker."""
        for meter, column in zip(self.meters, codes.T, strict=True):
            meter.add(cut, np.ascontiguousarray(column))
        for prefix in self._prefixes:
            prefix.add(codes)

    def reject(self, error: BadAudio) -> None:
        """Note an utterance whose audio was needed and could not be used."""
        for meter in self.meters:
            meter.reject(error)

    def vector_abx(self, quantizer: Quantizer, streams: int, device: torch.device | str = "cpu") -> list[AbxResult]:
        """ABX of the vectors that the first streams stand for, by angles, within and across speakers."""
        drawn = [meter.drawn() for meter in self.meters[:streams]]
        rows = {same[0].cut.id: np.stack([one.codes for one in same], axis=1) for same in zip(*drawn, strict=True)}

        def vectors(utterance: Utterance) -> torch.Tensor:
            codes = torch.from_numpy(rows[utterance.cut.id].astype(np.int64))
            return quantizer.decode(codes.to(device)).cpu()

        return self.meters[0].abx("centroids", vectors, ["angular"], device)

    def rates(
        self,
        name: str,
        kind: str,
        quantizer: Quantizer,
        pairs: EncodedPairs,
        device: torch.device | str = "cpu",
        errors: Sequence[float] | None = None,
    ) -> list[Rate]:
        """The points of this tokenizer, one for every number of streams that stands for vectors.

        Args:
            name: of the tokenizer.
            kind: of its quantizer; residual ones stand for vectors by their first streams alone.
            quantizer: decodes.
            pairs: (frames, streams) tokens of utterances, clean and changed.
            device: of the quantizer.
            errors: relative errors of the first 1, 2, ... streams, where known; of all streams where one is given.
        """
        last = len(self.meters)
        counts = list(range(1, last + 1)) if kind in RESIDUAL else [last]
        purities = [meter.purity() for meter in self.meters]
        pnmi = [found.pnmi for found in purities if found is not None]
        usages = [meter.usage() for meter in self.meters]
        perplexity = [found.perplexity if found is not None else 1.0 for found in usages]
        ued = stream_ued(pairs, last)
        points = []
        for i, streams in enumerate(counts):
            within, across = (row.score.error for row in self.vector_abx(quantizer, streams, device))
            rate_hz = self.meters[0].frame_rate_hz
            points.append(
                Rate(
                    name=name,
                    quantizer=kind,
                    streams=streams,
                    vocab_sizes=self._vocab_sizes[:streams],
                    **self._prefixes[streams - 1].rates(rate_hz),
                    perplexity=perplexity[:streams],
                    pnmi=pnmi[:streams] or None,
                    ued=ued[:streams] or None,
                    abx_within=within,
                    abx_across=across,
                    error=None if errors is None else errors[i],
                )
            )
        return points


def stream_pairs(pairs: EncodedPairs, stream: int) -> EncodedPairs:
    """One stream's (frames,) tokens of (frames, streams) pairs."""
    return {name: [(a[:, stream], b[:, stream]) for a, b in rows] for name, rows in pairs.items()}


def stream_ued(pairs: EncodedPairs, streams: int) -> list[float]:
    """Mean unit edit distance over the changes, of each stream of (frames, streams) pairs; empty without pairs."""
    if not any(pairs.values()):
        return []
    found = []
    for stream in range(streams):
        scores = [unit_edit(rows) for rows in stream_pairs(pairs, stream).values()]
        found.append(float(np.mean([score.ued for score in scores if score is not None])))
    return found


class PrefixCounts:
    """How often each token occurs in some streams, before and after their rows are merged."""

    def __init__(self, vocab_sizes: Sequence[int]) -> None:
        self._log2k = float(sum(np.log2(size) for size in vocab_sizes))
        self._frames: list[Counts] = [np.zeros(size, dtype=np.int64) for size in vocab_sizes]
        self._tokens: list[Counts] = [np.zeros(size, dtype=np.int64) for size in vocab_sizes]

    def add(self, codes: Codes) -> None:
        """Count (frames, streams) tokens of one utterance; streams beyond these are left out."""
        codes = codes[:, : len(self._frames)].astype(np.int64)
        rows = codes[np.diff(codes, axis=0, prepend=-1).any(axis=1)]
        for counts, given in ((self._frames, codes), (self._tokens, rows)):
            for count, column in zip(counts, given.T, strict=True):
                count += np.bincount(column, minlength=len(count))

    def rates(self, frame_rate_hz: float) -> dict[str, float]:
        """The bitrates of `Rate`.

        Worked: streams 0 0 1 1 and 0 1 1 1 of K = 2 at 50 Hz have entropies 1 and 0.811 bits: 90.6 bit/s, against 100
        by log2 K. Merged rows are 00 01 11, 37.5 a second, each stream of entropy 0.918: 68.9 bit/s.
        """
        frames = max(int(self._frames[0].sum()), 1)
        tokens_per_s = frame_rate_hz * int(self._tokens[0].sum()) / frames
        before, after = (
            sum(entropy_bits(count) for count in counts if count.any()) for counts in (self._frames, self._tokens)
        )
        return {
            "bitrate_bps": frame_rate_hz * before,
            "bitrate_log2k_bps": frame_rate_hz * self._log2k,
            "tokens_per_s": tokens_per_s,
            "bitrate_dedup_bps": tokens_per_s * after,
        }
