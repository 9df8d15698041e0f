"""Plots as inline SVG: lines, bars and a heat map, with no script, font or file beside them.

Colours are the page's CSS variables (--ink, --faint, --s0 ... --s5), so plots follow its light and dark themes.
"""

import base64
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from voxtok.tokenize.page import legend

WIDTH, HEIGHT = 460, 260  # in units of which text is 12: still readable on a phone 360 pixels wide
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 42
HEAT_RGB = (29, 78, 216)


@dataclass(frozen=True)
class Series:
    """One line: its name in the legend, and its points in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar: label, length and the text at its end; `group` picks its colour."""

    label: str
    value: float
    text: str
    group: int = 0


def lines(series: Sequence[Series], x_label: str, y_label: str, *, log_y: bool = False, marks: bool = False) -> str:
    """A line plot.

    Args:
        series: the lines.
        x_label: under the x axis.
        y_label: for readers who cannot see the plot.
        log_y: a logarithmic y axis; points that are not positive are left out.
        marks: draw the points, ticks at each x, and a y axis that need not begin at 0.
    """
    shown = [Series(s.name, [p for p in s.points if p[1] > 0 or not log_y], s.dashed) for s in series]
    points = [point for s in shown for point in s.points]
    if not points:
        return ""
    xs = sorted({x for x, _ in points})
    x_ticks = xs if marks and len(xs) <= 13 else _ticks(xs[0], xs[-1])
    ys = [y for _, y in points]
    y_ticks = _decades(ys) if log_y else _ticks(min(ys) if marks else min(0.0, *ys), max(ys))
    x_of = _scale(min(xs[0], x_ticks[0]), xs[-1], LEFT, WIDTH - RIGHT)
    level = math.log10 if log_y else float
    y_of = _scale(level(y_ticks[0]), level(y_ticks[-1]), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<path class="grid" d="M{LEFT} {y_of(level(y)):.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="end" x="{LEFT - 6}" y="{y_of(level(y)) + 4:.1f}">{_short(y)}</text>'
        for y in y_ticks
    ]
    parts += [
        f'<text class="mid" x="{x_of(x):.1f}" y="{HEIGHT - BOTTOM + 16}">{_short(x)}</text>'
        for x in x_ticks
        if x <= xs[-1]
    ]
    for i, one in enumerate(shown):
        path = [(x_of(x), y_of(level(y))) for x, y in one.points]
        drawn = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in path)
        dash = ' stroke-dasharray="5 4"' if one.dashed else ""
        parts.append(f'<path class="line" stroke="var(--s{i % 6})"{dash} d="{drawn}"/>' if path else "")
        parts += [f'<circle fill="var(--s{i % 6})" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in path if marks]
    parts.append(f'<text class="mid" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}">{escape(x_label)}</text>')
    return _svg(f"{y_label} by {x_label}", WIDTH, HEIGHT, parts) + _names([s.name for s in shown])


def bars(found: Sequence[Bar], groups: Sequence[str], *, full: float, line: tuple[float, str] | None = None) -> str:
    """Horizontal bars from 0 to `full`, and a vertical line such as chance."""
    label_width, row = 150, 26
    height = row * len(found) + (22 if line else 4)
    x_of = _scale(0, full, label_width, WIDTH - 56)
    parts = []
    if line:
        x = x_of(line[0])
        parts.append(f'<path class="grid" stroke-dasharray="4 3" d="M{x:.1f} 2V{height - 18}"/>')
        parts.append(f'<text class="mid" x="{x:.1f}" y="{height - 5}">{escape(line[1])}</text>')
    for i, bar in enumerate(found):
        y, end = 3 + i * row, x_of(min(bar.value, full))
        parts.append(f'<text class="end" x="{label_width - 8}" y="{y + 15}">{escape(bar.label)}</text>')
        parts.append(
            f'<rect fill="var(--s{bar.group % 6})" x="{label_width}" y="{y}" width="{end - label_width:.1f}" '
            f'height="{row - 6}" rx="2"/><text x="{end + 6:.1f}" y="{y + 15}">{escape(bar.text)}</text>'
        )
    return _svg("bars: " + ", ".join(bar.label for bar in found), WIDTH, height, parts) + _names(groups)


def heat_map(shares: npt.NDArray[np.floating], rows: Sequence[str], x_label: str) -> str:
    """(R, C) shares from 0 (no colour) to 1 (blue), opaque by their square root; one labelled row each."""
    row, left = 10, 34
    height = row * len(rows) + 24
    image = base64.b64encode(png(np.rint(np.sqrt(np.clip(shares, 0, 1)) * 255).astype(np.uint8))).decode()
    parts = [
        f'<image x="{left}" y="0" width="{WIDTH - left}" height="{row * len(rows)}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{image}"/>',
        f'<rect class="frame" x="{left}" y="0" width="{WIDTH - left}" height="{row * len(rows)}"/>',
        f'<text class="mid" x="{(left + WIDTH) / 2}" y="{height - 6}">{escape(x_label)}</text>',
    ]
    parts += [
        f'<text class="end" x="{left - 4}" y="{i * row + 8.5}">{escape(name)}</text>' for i, name in enumerate(rows)
    ]
    key = [(f"rgb(var(--heat) / {share**0.5:.2f})", f"{share:.0%}") for share in (0.02, 0.1, 0.25, 0.5, 1.0)]
    return _svg(f"heat map of {x_label}", WIDTH, height, parts, "small") + legend(key)


def _svg(title: str, width: int, height: int, parts: Sequence[str], kind: str = "plot") -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, quote=True)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _names(names: Sequence[str]) -> str:
    return legend([(f"var(--s{i % 6})", name) for i, name in enumerate(names)]) if len(names) > 1 else ""


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The linear map of low .. high to start .. end."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` or below to `high` or above, four to eight of them."""
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(times for times in (1, 2, 5, 10) if span / (step * times) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _decades(values: Sequence[float]) -> list[float]:
    low = math.floor(math.log10(min(values)))
    high = math.ceil(math.log10(max(values)))
    return [10.0**i for i in range(low, max(high, low + 1) + 1)]


def _short(value: float) -> str:
    if 0 < abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.4g}"


def png(levels: npt.NDArray[np.uint8]) -> bytes:
    """(R, C) opacities of one colour as a paletted PNG."""
    rows, columns = levels.shape
    raw = b"".join(b"\0" + row.tobytes() for row in levels)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes(HEAT_RGB) * 256),
        (b"tRNS", bytes(range(256))),
        (b"IDAT", zlib.compress(raw, 9)),
        (b"IEND", b""),
    ]
    coded = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)
