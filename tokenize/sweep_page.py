"""The sweep's results: sweep.json, sweep.tsv with one line a combination, and a page of lines over layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from voxtok.runtime.files import write_bytes, write_json
from voxtok.tokenize.metrics import Better, Report, value_of, written
from voxtok.tokenize.page import document, figure
from voxtok.tokenize.plots import Series, lines

Summary = dict[str, float | None]


@dataclass(frozen=True)
class Column:
    """One number of a combination's line: its name in the tables, title, format, better direction and sentence."""

    name: str
    title: str
    form: str
    better: Better
    says: str


COLUMNS = (
    Column("pnmi", "PNMI", "{:.3f}", "higher", "share of the uncertainty about the phone that the token takes away"),
    Column("chance_pnmi", "PNMI chance", "{:.3f}", "", "the same for shuffled tokens; grows with the vocabulary"),
    Column("phone_purity", "phone purity", "{:.3f}", "higher", "share of frames whose token gives the phone"),
    Column("cluster_purity", "cluster purity", "{:.3f}", "higher", "share of frames whose phone gives the token"),
    Column("abx_within", "ABX within", "{:.1%}", "lower", "edit distance of tokens, one speaker; chance 50%"),
    Column("abx_across", "ABX across", "{:.1%}", "lower", "edit distance of tokens, X by another speaker; chance 50%"),
    Column("abx_dtw_within", "ABX DTW within", "{:.1%}", "lower", "tokens, equal or not, warped in time; one speaker"),
    Column("abx_dtw_across", "ABX DTW across", "{:.1%}", "lower", "the same, X by another speaker"),
    Column("abx_centroids_within", "ABX centroids within", "{:.1%}", "lower", "angles of centroids, one speaker"),
    Column("abx_centroids_across", "ABX centroids across", "{:.1%}", "lower", "angles of centroids, another speaker"),
    Column("ued", "UED", "{:.1%}", "lower", "tokens edited per frame by noise, a room, pitch and tempo (mean)"),
    Column("speaker_accuracy", "speaker", "{:.0%}", "lower", "speakers told from token counts, for content tokens"),
    Column("usage", "usage", "{:.0%}", "higher", "share of the vocabulary that occurs"),
    Column("perplexity", "perplexity", "{:.0f}", "higher", "as if so many tokens were used equally often"),
    Column("tokens_per_s", "tokens/s", "{:.1f}", "lower", "after dedup"),
    Column("bitrate_dedup_bps", "bit/s", "{:.0f}", "lower", "after dedup, by entropy; at equal quality"),
)
PLOTTED = ("pnmi", "phone_purity", "abx_within", "abx_across", "ued", "speaker_accuracy", "bitrate_dedup_bps")


def summary_of(report: Report) -> Summary:
    """One codebook's line: layer, vocabulary size and the COLUMNS; None for what was not measured."""
    abx = {(row["frames"], row["distance"], row["speakers"]): row["score"]["error"] for row in report["abx"]}
    edited = [row["ued"] for row in report["unit_edit"].values()]
    return {
        "layer": report["tokenizer"]["layer"],
        "vocab_size": report["tokenizer"]["vocab_size"],
        "pnmi": value_of(report, "purity.pnmi"),
        "chance_pnmi": value_of(report, "purity.chance_pnmi"),
        "phone_purity": value_of(report, "purity.phone_purity"),
        "cluster_purity": value_of(report, "purity.cluster_purity"),
        "abx_within": abx.get(("tokens", "edit", "within")),
        "abx_across": abx.get(("tokens", "edit", "across")),
        "abx_dtw_within": abx.get(("tokens", "identical", "within")),
        "abx_dtw_across": abx.get(("tokens", "identical", "across")),
        "abx_centroids_within": abx.get(("centroids", "angular", "within")),
        "abx_centroids_across": abx.get(("centroids", "angular", "across")),
        "ued": float(np.mean(edited)) if edited else None,
        "speaker_accuracy": value_of(report, "leakage.accuracy"),
        "usage": value_of(report, "usage.usage"),
        "perplexity": value_of(report, "usage.perplexity"),
        "tokens_per_s": value_of(report, "usage.tokens_per_s"),
        "bitrate_dedup_bps": value_of(report, "usage.bitrate_dedup_bps"),
    }


def means_of(summaries: Sequence[Summary]) -> list[Summary]:
    """A line for each combination: means over its codebooks and, of several, their deviation as `<name>_sd`."""
    combinations: dict[tuple[float | None, ...], list[Summary]] = {}
    for summary in summaries:
        combinations.setdefault((summary["layer"], summary["vocab_size"]), []).append(summary)
    return [_mean(lines) for lines in combinations.values()]


def _mean(summaries: Sequence[Summary]) -> Summary:
    if len(summaries) == 1:
        return summaries[0]
    row = {name: summaries[0][name] for name in ("layer", "vocab_size")}
    for column in COLUMNS:
        values = [value for summary in summaries if (value := summary[column.name]) is not None]
        row[column.name] = float(np.mean(values)) if values else None
        row[f"{column.name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return row


def write_sweep(reports: Sequence[Report], settings: dict[str, Any], folder: Path | str) -> None:
    """Write sweep.json, sweep.tsv and sweep.html."""
    rows = means_of([summary_of(report) for report in reports])
    found = {"format": "voxtok-sweep", "version": 1, "settings": settings, "rows": rows}
    write_json(Path(folder) / "sweep.json", found)
    table = [list(rows[0]), *(["" if value is None else f"{value:.6g}" for value in row.values()] for row in rows)]
    write_bytes(Path(folder) / "sweep.tsv", "".join("\t".join(line) + "\n" for line in table).encode())
    write_bytes(Path(folder) / "sweep.html", sweep_page(rows, settings).encode())


def sweep_page(rows: Sequence[Summary], settings: dict[str, Any]) -> str:
    """Lines over layers, one for each vocabulary size (or over sizes, where there is one layer), and the table."""
    measured = [column for column in COLUMNS if any(row[column.name] is not None for row in rows)]
    plots = "".join(_plot(column, rows) for column in measured if column.name in PLOTTED)
    silence = "counted" if settings["silence"] == "count" else "left out"
    body = [
        "<h1>Layers and vocabulary sizes</h1>",
        f'<p class="soft">{escape(str(settings["upstream"]))}, fitted on <code>{escape(str(settings["cuts"]))}</code>, '
        f"scored on <code>{escape(str(settings['heldout_cuts']))}</code>; frames of silence are {silence}.</p>",
        f'<div class="plots">{plots}</div>',
        "<h2>Table</h2>",
        "<p>The best of each column is bold. Compare across vocabulary sizes with care: some numbers grow with the "
        "vocabulary whatever it has learnt. Each codebook's own page lies in its folder.</p>",
        _table(measured, rows),
        "<h2>What the columns say</h2>",
        "<ul>" + "".join(f"<li>{sentence(column)}</li>" for column in measured) + "</ul>",
    ]
    return document("Layers and vocabulary sizes", body)


def _plot(column: Column, rows: Sequence[Summary]) -> str:
    over, per = ("layer", "vocab_size") if len({row["layer"] for row in rows}) > 1 else ("vocab_size", "layer")
    series = []
    for each in sorted({row[per] or 0 for row in rows}):
        points = [
            (row[over] or 0, value) for row in rows if row[per] == each and (value := row[column.name]) is not None
        ]
        series.append(Series(f"{'K =' if per == 'vocab_size' else 'layer'} {each:g}", sorted(points)))
    direction = f": {column.better} is better" if column.better else ""
    label = "layer" if over == "layer" else "vocabulary size"
    return figure(column.title + direction, lines(series, label, column.title, marks=True))


def _table(columns: Sequence[Column], rows: Sequence[Summary]) -> str:
    best = {column.name: _best(column, rows) for column in columns}
    head = "".join(f"<th>{escape(name)}</th>" for name in ("layer", "K", *(column.title for column in columns)))
    body = ""
    for row in rows:
        cells = f'<td class="number">{row["layer"]:g}</td><td class="number">{row["vocab_size"]:g}</td>'
        for column in columns:
            value = row[column.name]
            text = written(column.form, value)
            if (spread := row.get(f"{column.name}_sd")) is not None:
                text += f"&nbsp;±&nbsp;{written(column.form, spread)}"
            bold = value is not None and value == best[column.name]
            cells += f'<td class="number">{f"<b>{text}</b>" if bold else text}</td>'
        body += f"<tr>{cells}</tr>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _best(column: Column, rows: Sequence[Summary]) -> float | None:
    values = [value for row in rows if (value := row[column.name]) is not None]
    if not column.better or len(values) < 2:
        return None
    return max(values) if column.better == "higher" else min(values)


def sentence(column: Column) -> str:
    """What a column says and which way is better, as HTML."""
    direction = f' <span class="better">{column.better} is better</span>' if column.better else ""
    return f"<b>{escape(column.title)}</b>: {escape(column.says)}.{direction}"
