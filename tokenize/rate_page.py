"""The rate-distortion table: JSON, a TSV with one line a point, and a page of quality over bitrate."""

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from voxtok.runtime.files import write_bytes, write_json
from voxtok.tokenize.metrics import written
from voxtok.tokenize.page import document, figure, table
from voxtok.tokenize.plots import Series, lines
from voxtok.tokenize.stream_meter import Rate
from voxtok.tokenize.sweep_page import Column, sentence

COLUMNS = (
    Column("bitrate_bps", "bit/s", "{:.0f}", "lower", "frames per second times the entropy, summed over streams"),
    Column("bitrate_log2k_bps", "bit/s, log2 K", "{:.0f}", "lower", "the same with log2 K in place of the entropy"),
    Column("bitrate_dedup_bps", "bit/s, dedup", "{:.0f}", "lower", "after rows that agree in all streams are merged"),
    Column("tokens_per_s", "rows/s", "{:.1f}", "lower", "after dedup"),
    Column("error", "error", "{:.3f}", "lower", "squared distance of frames to their tokens' vectors over variance"),
    Column("pnmi", "PNMI", "{:.3f}", "higher", "of each stream: how far its token tells the phone; the best is drawn"),
    Column("abx_within", "ABX within", "{:.1%}", "lower", "angles of the vectors of all streams, one speaker"),
    Column("abx_across", "ABX across", "{:.1%}", "lower", "angles of those vectors, X by another speaker"),
    Column("ued", "UED", "{:.1%}", "lower", "of each stream: tokens edited per frame by changes; the mean is drawn"),
    Column("perplexity", "perplexity", "{:.0f}", "higher", "of each stream: as if so many tokens were used equally"),
)
PLOTTED = ("error", "pnmi", "abx_across", "ued")
SHOWN = ("store", "upstream", "layers", "cuts", "heldout_cuts", "silence")


def write_rates(points: Sequence[Rate], settings: dict[str, Any], folder: Path | str, stem: str) -> None:
    """Write STEM.json, STEM.tsv and STEM.html."""
    found = {"format": "voxtok-rates", "version": 1, "settings": settings, "rows": [asdict(point) for point in points]}
    write_json(Path(folder) / f"{stem}.json", found)
    names = ["name", "quantizer", "streams", "vocab_sizes", *(column.name for column in COLUMNS)]
    rows = [names, *([_plain(getattr(point, name)) for name in names] for point in points)]
    write_bytes(Path(folder) / f"{stem}.tsv", "".join("\t".join(row) + "\n" for row in rows).encode())
    write_bytes(Path(folder) / f"{stem}.html", rate_page(points, settings).encode())


def rate_page(points: Sequence[Rate], settings: dict[str, Any]) -> str:
    """Quality over bitrate, a line for each kind of quantizer, and the table."""
    measured = [column for column in COLUMNS if any(getattr(point, column.name) is not None for point in points)]
    plots = "".join(_plot(column, points) for column in measured if column.name in PLOTTED)
    head = ["tokenizer", "streams", "K", *(column.title for column in measured)]
    body = [
        [point.name, str(point.streams), _sizes(point), *(_cell(column, point) for column in measured)]
        for point in points
    ]
    shown = ", ".join(f"{name} {settings[name]}" for name in SHOWN if settings.get(name))
    parts = [
        "<h1>Rate and distortion</h1>",
        f'<p class="soft">{escape(shown)}</p>',
        f'<div class="plots">{plots}</div>',
        "<h2>Table</h2>",
        "<p>A residual quantizer has a line for every number of its streams. PNMI, UED and perplexity are those of "
        "each stream by itself; bitrates, errors and ABX those of the streams together.</p>",
        table(head, body),
        "<h2>What the columns say</h2>",
        "<ul>" + "".join(f"<li>{sentence(column)}</li>" for column in measured) + "</ul>",
    ]
    return document("Rate and distortion", parts)


def _plot(column: Column, points: Sequence[Rate]) -> str:
    series = []
    for kind in dict.fromkeys(point.quantizer for point in points):
        known = [
            (point.bitrate_bps, value)
            for point in points
            if point.quantizer == kind and (value := _drawn(column.name, point)) is not None
        ]
        series.append(Series(kind, sorted(known)))
    plot = lines(series, "bit/s, every frame", column.title, marks=True)
    return figure(f"{column.title}: {column.better} is better", plot)


def _drawn(name: str, point: Rate) -> float | None:
    value: float | list[float] | None = getattr(point, name)
    if isinstance(value, list):
        return max(value) if name == "pnmi" else fmean(value)
    return value


def _sizes(point: Rate) -> str:
    sizes = set(point.vocab_sizes)
    return str(sizes.pop()) if len(sizes) == 1 else "x".join(map(str, point.vocab_sizes))


def _cell(column: Column, point: Rate) -> str:
    value: float | list[float] | None = getattr(point, column.name)
    if isinstance(value, list):
        return " ".join(written(column.form, one) for one in value)
    return written(column.form, value)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
