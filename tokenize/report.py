"""The quality report: one JSON file, and one page that explains each number in a sentence with its better direction."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from voxtok.runtime.files import write_bytes
from voxtok.tokenize.metrics import (
    ABX,
    ABX_SAYS,
    DISTANCES,
    FRAMES_SAY,
    GAT,
    LEAKAGE,
    PURITY,
    UED_SAYS,
    USAGE,
    Report,
    Row,
    row_of,
    value_of,
)
from voxtok.tokenize.page import card, document, figure, table
from voxtok.tokenize.plots import Bar, Series, bars, heat_map, lines


def write_report(report: Report, folder: Path | str) -> None:
    """Write quality.json, one line a part since counts are long, and quality.html."""
    parts = (f"  {json.dumps(name)}: {json.dumps(part, allow_nan=False)}" for name, part in report.items())
    write_bytes(Path(folder) / "quality.json", ("{\n" + ",\n".join(parts) + "\n}\n").encode())
    write_bytes(Path(folder) / "quality.html", quality_page(report).encode())


def quality_page(report: Report) -> str:
    """The report as one HTML page."""
    tokenizer, scoring = report["tokenizer"], report["scoring"]
    silence = "counted" if scoring["silence"] == "count" else "left out"
    frames = report["purity"]["frames"] if report["purity"] else 0
    body = [
        "<h1>Token quality</h1>",
        f'<p class="soft">{escape(str(tokenizer["upstream"]))}, layer {tokenizer["layer"]}, {_stream(tokenizer)}'
        f"{tokenizer['vocab_size']} tokens, {tokenizer['frame_rate_hz']:g} Hz, "
        f"tokenizer <code>{escape(tokenizer['fingerprint'][:12])}</code><br>"
        f"{report['utterances']} utterances, {report['duration_s'] / 3600:.2f} h, from "
        f"<code>{escape(str(report['store']))}</code></p>",
        _cards(report),
        "<h2>Phones</h2>",
        f"<p>Over {frames:,} frames of aligned phones. Frames of silence are <b>{silence}</b>. "
        "A frame stands for the centre of its hop; the first and last phone of an utterance are left out. "
        f"{report['unaligned']} of {report['utterances']} utterances have no phone alignment. "
        f"{_unusable(report)}"
        "Chance is what tokens shuffled over the frames reach.</p>",
        metric_table([row_of(report, metric) for metric in PURITY]),
        _heat(report),
        "<h2>ABX</h2>",
        _abx(report),
        "<h2>Robustness</h2>",
        _unit_edit(report),
        "<h2>Vocabulary and bitrate</h2>",
        metric_table([row_of(report, metric) for metric in USAGE]),
        _usage_curve(report),
        "<h2>Speaker</h2>",
        _leakage(report),
        "<h2>Settings</h2>",
        table(["setting", "value"], [[name, _setting(value)] for name, value in scoring.items()], "wrap"),
    ]
    return document("Token quality", body)


def _unusable(report: Report) -> str:
    rows = report["unusable"]
    found = ", ".join(f"{escape(row['id'])} ({escape(row['reason'])})" for row in rows)
    return f"The audio of {len(rows)} utterances was needed and could not be used: {found}. " if rows else ""


def _cards(report: Report) -> str:
    across = next((row for row in report["abx"] if row["speakers"] == "across"), None)
    edited = [row["ued"] for row in report["unit_edit"].values() if row]
    found = [
        ("PNMI", "{:.3f}", value_of(report, "purity.pnmi")),
        ("ABX error across speakers", "{:.1%}", across and across["score"]["error"]),
        ("UED, mean of four changes", "{:.1%}", float(np.mean(edited)) if edited else None),
        ("bit/s after dedup", "{:.0f}", value_of(report, "usage.bitrate_dedup_bps")),
        ("speakers recognised", "{:.0%}", value_of(report, "leakage.accuracy")),
    ]
    shown = [card(form.format(value), label) for label, form, value in found if value is not None]
    return f'<div class="cards">{"".join(shown)}</div>'


def metric_table(rows: Sequence[Row]) -> str:
    """Each metric with its value, chance level, better direction, sentence and source."""
    arrows = {"higher": "&uarr; higher", "lower": "&darr; lower", "": ""}
    body = "".join(
        f'<tr><td>{escape(row.title)}</td><td class="number value">{escape(row.value)}</td>'
        f'<td class="number chance">{escape(row.chance)}</td><td class="better">{arrows[row.better]}</td>'
        f'<td class="says">{escape(row.says)} <span class="source">{escape(row.source)}</span></td></tr>'
        for row in rows
    )
    head = "".join(f"<th>{name}</th>" for name in ("metric", "value", "chance", "better", "what it says"))
    return f'<table class="metrics"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _heat(report: Report) -> str:
    """P(phone | token): phones by frequency, tokens by their most likely phone and how sure they are of it."""
    counts = np.array(report["counts"], dtype=np.float64)  # (phones, K)
    if not counts.sum():
        return ""
    by_frequency = np.argsort(-counts.sum(axis=1), kind="stable")
    counts = counts[by_frequency][:, counts.sum(axis=0) > 0]
    shares = counts / counts.sum(axis=0)
    order = np.lexsort((-shares.max(axis=0), shares.argmax(axis=0)))
    names = [report["phones"][i] or "(empty)" for i in by_frequency]
    caption = "Share of each phone among a token's frames: the darker, the surer. A good vocabulary is a thin diagonal."
    plot = heat_map(shares[:, order], names, "tokens in use, sorted by their most frequent phone")
    return figure(caption, plot, "heat")


def _abx(report: Report) -> str:
    found = [row for row in report["abx"] if row["score"]["error"] is not None]
    if not found:
        return "<p>Not measured: no phone occurs twice beside another one in one context by known speakers.</p>"
    shown: list[Bar] = []
    rows: list[Row] = []
    for row in found:
        name, error = f"{row['frames']}, {DISTANCES[row['distance']]}", row["score"]["error"]
        label = "" if rows and rows[-1].title.startswith(name) else name
        shown.append(Bar(label, error, f"{error:.1%}", int(row["speakers"] == "across")))
        says = f"{ABX_SAYS[row['speakers']]} {FRAMES_SAY[row['frames']]}"
        rows.append(Row(f"{name}, {row['speakers']}", f"{error:.2%}", "lower", says, chance="50%"))
    top = max(0.55, *(bar.value for bar in shown))
    plot = bars(shown, ["within speaker", "across speakers"], full=top, line=(0.5, "chance"))
    sizes = {row["speakers"]: row["score"] for row in found}
    counts = "; ".join(
        f"{speakers}: {size['triples']:,} triples of {size['pairs']} ordered pairs of phones"
        for speakers, size in sizes.items()
    )
    intro = (
        f"<p>On {report['scoring']['abx_unit']}s that differ in the middle phone only. Means are taken over contexts, "
        f"then speakers, then pairs of phones; a tie counts half. {counts}. "
        f'<span class="source">{ABX}</span></p>'
    )
    return intro + figure("ABX error: lower is better", plot) + metric_table(rows)


def _unit_edit(report: Report) -> str:
    found = {name: row for name, row in report["unit_edit"].items() if row}
    if not found:
        return "<p>Not measured: no audio was run through the tokenizer.</p>"
    plots = ""
    for caption, key in (("Edits per frame (UED)", "ued"), ("Edits per token after dedup", "token_error_rate")):
        shown = [Bar(name.replace("_", " "), row[key], f"{row[key]:.1%}", 2) for name, row in found.items()]
        plots += figure(f"{caption}: lower is better", bars(shown, [], full=max(bar.value for bar in shown) or 1.0))
    rows = [
        Row(f"UED, {name.replace('_', ' ')}", f"{row['ued']:.2%}", "lower", UED_SAYS[name], GAT)
        for name, row in found.items()
    ]
    count = next(iter(found.values()))["utterances"]
    intro = f"<p>How far the tokens of {count} utterances change when the signal does and the words do not.</p>"
    return intro + f'<div class="plots">{plots}</div>' + metric_table(rows)


def _usage_curve(report: Report) -> str:
    series = []
    for name, key in (("every frame", "frames_by_code"), ("after dedup", "tokens_by_code")):
        counts = np.sort(np.array(report[key], dtype=np.float64))[::-1]
        shares = counts / max(counts.sum(), 1)
        series.append(Series(name, [(float(rank), float(share)) for rank, share in enumerate(shares, 1)]))
    even = 1 / len(report["frames_by_code"])
    series.append(Series("all equally often", [(1, even), (len(report["frames_by_code"]), even)], dashed=True))
    plot = lines(series, "tokens, the most frequent first", "share", log_y=True)
    return figure("How often each token occurs. The flatter, the better the vocabulary is used.", plot)


def _leakage(report: Report) -> str:
    found = report["leakage"]
    if not found:
        return "<p>Not measured: fewer than two speakers have two utterances.</p>"
    text = (
        f"<p>{found['speakers']} speakers, {found['utterances']} utterances, {found['folds']} folds; "
        f"{found['left_out']} utterances of speakers with no other are left out.</p>"
    )
    return text + metric_table([row_of(report, metric) for metric in LEAKAGE])


def _stream(tokenizer: dict[str, Any]) -> str:
    return f"stream {tokenizer['stream']}, " if "stream" in tokenizer else ""


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(repr(item) for item in value)
    return "all" if value is None else str(value)
