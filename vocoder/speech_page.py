"""The page of a comparison of speech: scores in words, and recordings beside what was made, to hear and to see."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from lhotse.cut import Cut

from voxtok.manifests.audio import read_audio
from voxtok.runtime.errors import BadAudio
from voxtok.runtime.progress import log
from voxtok.tokenize.page import card, document, table
from voxtok.tokenize.plots import png
from voxtok.vocoder.mel import log_mel, quality_shape

Samples = npt.NDArray[np.float32]

SAYS = {
    "mel_distance": ("mel distance", "mean difference of log-mel magnitudes (natural logarithm); lower is better", 3),
    "mcd_db": ("MCD, dB", "distance of mel cepstra 1 .. 24; lower is better", 2),
    "log_f0_rmse": ("log F0 RMSE", "error of the pitch where both are voiced; 0.06 is a semitone; lower is better", 3),
    "voicing_error": ("voicing error", "share of frames voiced in one only; lower is better", 3),
    "stoi": ("STOI", "intelligibility by short-time correlation, 0 to 1; higher is better", 3),
    "pesq": ("PESQ", "perceived quality by ITU-T P.862.2, 1 to 4.6; higher is better", 2),
    "speaker_similarity": ("speaker similarity", "cosine of speaker embeddings; higher is better", 3),
    "utmos": ("UTMOS", "predicted opinion score, 1 to 5; higher is better", 2),
    "utmos_original": ("UTMOS of the recordings", "the same of the recordings", 2),
    "unit_error_rate": ("unit error rate", "edits of tokens after tokenizing again, over tokens; lower is better", 3),
    "wer": ("WER", "word error rate of Whisper on what was made; lower is better", 3),
    "wer_original": ("WER of the recordings", "the same of the recordings", 3),
}
"""Each score's name, what it says and its decimals."""
PLAYER = """<style>
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 250px), 1fr)); gap: 0 24px }
.sides audio { width: 100% }
.sides img { width: 100%; height: 130px; background: #fff; border-radius: 6px; image-rendering: auto }
.sides figure { margin: 8px 0 }
</style>"""
RANGE = 9.0
"""Natural logarithms from the palest to the darkest level of a spectrogram."""


@dataclass(frozen=True, eq=False)
class Side:
    """One recording of an utterance, or what was made in its place: its column, who speaks, (T,) samples."""

    column: str
    speaker: str
    samples: Samples


@dataclass(frozen=True, eq=False)
class Example:
    """One utterance to listen to, from every column that has it."""

    name: str
    text: str
    sides: Sequence[Side]


def example_of(name: str, cuts: Iterable[tuple[str, Cut]], sampling_rate: int) -> Example:
    """Read the audio of an utterance's columns; one that cannot be read is left out."""
    sides: list[Side] = []
    text = ""
    for column, cut in cuts:
        try:
            samples = read_audio(cut, sampling_rate)
        except BadAudio as error:
            log.warning("left out: %s", error)
            continue
        said = cut.supervisions[0] if cut.supervisions else None
        text = text or (said.text if said and said.text else "")
        sides.append(Side(column, said.speaker if said and said.speaker else "", samples))
    return Example(name, text, sides)


def speech_page(
    report: dict[str, Any], examples: Sequence[Example], alone: Sequence[Example], sampling_rate: int
) -> str:
    """The whole page, self-contained.

    Args:
        report: what vocoder_quality.json holds.
        examples: utterances to listen to, beside their recordings.
        alone: utterances that were never recorded.
        sampling_rate: of their samples, Hz.
    """
    scores = report["scores"]
    known = [(name, SAYS[name]) for name in SAYS if name in scores]
    compared = "frame by frame" if report["config"]["aligned"] else "along a warped path"
    shown = ", ".join(f"<code>{escape(path)}</code>" for path in report["config"]["shown"])
    body = [
        PLAYER,
        "<h1>Synthetic speech</h1>",
        f'<p class="soft">{report["utterances"]} utterances of <code>{escape(report["config"]["synthetic"])}</code> '
        f"against <code>{escape(report['config']['reference'])}</code>, {compared}."
        + (f" To hear only: {shown}.</p>" if shown else "</p>"),
        '<div class="cards">' + "".join(card(f"{scores[n]:.{d}f}", label) for n, (label, _, d) in known) + "</div>",
        *_heard("To listen to", examples, sampling_rate),
        *_heard("Without a recording", alone, sampling_rate),
        "<h2>Scores</h2>",
        table(
            ["score", "value", "what it says"], [[label, f"{scores[n]:.{d}f}", says] for n, (label, says, d) in known]
        ),
        "<h2>Every utterance</h2>",
        _rows(report["rows"], [name for name, _ in known]),
    ]
    return document("Synthetic speech", body)


def _heard(title: str, examples: Sequence[Example], sampling_rate: int) -> list[str]:
    """A section of utterances, where there are any."""
    parts = [_example(example, sampling_rate) for example in examples if example.sides]
    return [f"<h2>{title}</h2>", *parts] if parts else []


def _example(example: Example, sampling_rate: int) -> str:
    shape = quality_shape(sampling_rate)
    logs = [log_mel(torch.from_numpy(side.samples), shape).numpy() for side in example.sides]
    top = float(max(one.max() for one in logs))
    figures = "".join(
        f"<figure><figcaption>{_caption(side)}</figcaption>{spectrogram(log, top)}"
        f"{player(side.samples, sampling_rate)}</figure>"
        for side, log in zip(example.sides, logs, strict=True)
    )
    said = f"<p>{escape(example.text)}</p>" if example.text else ""
    return f'<h3><code>{escape(example.name)}</code></h3>{said}<div class="sides">{figures}</div>'


def _caption(side: Side) -> str:
    who = f" <code>{escape(side.speaker)}</code>" if side.speaker else ""
    return escape(side.column) + who


def spectrogram(logs: npt.NDArray[np.floating], top: float) -> str:
    """(frames, bands) log magnitudes as an image, low frequencies at the bottom; `top` is darkest."""
    levels = np.clip((logs - top + RANGE) / RANGE, 0, 1)
    content = base64.b64encode(png(np.rint(levels.T[::-1] * 255).astype(np.uint8))).decode()
    return f'<img alt="mel spectrogram" src="data:image/png;base64,{content}">'


def player(samples: Samples, sampling_rate: int) -> str:
    """An audio element that holds the samples as FLAC."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), sampling_rate, format="FLAC", subtype="PCM_16")
    content = base64.b64encode(file.getvalue()).decode()
    return f'<audio controls preload="none" src="data:audio/flac;base64,{content}"></audio>'


def _rows(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """One line an utterance, with the scores that single utterances have."""
    kept = [name for name in names if any(name in row for row in rows)]
    lines = [[row["id"], *[_written(row.get(name), SAYS[name][2]) for name in kept]] for row in rows]
    return table(["utterance", *[SAYS[name][0] for name in kept]], lines)


def _written(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
