"""A self-contained HTML page: one style sheet, no script, nothing to load; readable on a phone and in print."""

from collections.abc import Sequence
from html import escape

STYLE = """
:root {
  --paper: #fff; --card: #f5f6f8; --ink: #16181d; --soft: #5a6270; --faint: #dde1e7; --good: #0a7d4f;
  --s0: #1d4ed8; --s1: #d97706; --s2: #0d9488; --s3: #be185d; --s4: #7c3aed; --s5: #64748b; --heat: 29 78 216;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #111318; --card: #1b1e25; --ink: #e8eaee; --soft: #a0a8b5; --faint: #333843; --good: #4ade9f;
    --s0: #6d9bff; --s1: #fbab3f; --s2: #2dd4bf; --s3: #f472b6; --s4: #b794ff; --s5: #94a3b8;
  }
  .heat {
    --ink: #16181d; --soft: #5a6270; --faint: #dde1e7;
    background: #fff; color: var(--ink); border-radius: 8px; padding: 10px;
  }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; max-width: 900px; padding: 28px 18px 60px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 4px }
h2 { font-size: 1.25rem; margin: 44px 0 4px }
p { margin: 4px 0 12px; max-width: 46rem }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, monospace; overflow-wrap: anywhere }
.soft, .source { color: var(--soft) }
.source { font-size: .85em }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(145px, 1fr)); gap: 10px; margin: 20px 0 }
.card { background: var(--card); border-radius: 10px; padding: 12px 14px }
.card b { display: block; font-size: 1.6rem; line-height: 1.25; font-variant-numeric: tabular-nums }
.card span { display: block; font-size: .85rem; color: var(--soft) }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 0 28px }
figure { margin: 16px 0; min-width: 0; max-width: 620px }
figure.heat { max-width: 760px }
figcaption { font-size: .9rem; color: var(--soft); margin-bottom: 8px }
svg { display: block; width: 100%; height: auto; font-size: 12px }
svg text { fill: var(--ink); font-family: inherit }
svg .grid { stroke: var(--faint); fill: none }
svg .line { fill: none; stroke-width: 2.2; stroke-linejoin: round }
svg .frame { fill: none; stroke: var(--faint) }
svg .end { text-anchor: end }
svg .mid { text-anchor: middle }
svg.small { font-size: 9px }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 16px; padding: 0; margin: 8px 0 0 }
.legend li { font-size: .85rem }
.legend i {
  display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; vertical-align: -1px;
  outline: 1px solid var(--faint);
}
table { border-collapse: collapse; width: 100%; margin: 10px 0; font-size: .95rem }
th, td { text-align: left; padding: 7px 14px 7px 0; border-top: 1px solid var(--faint); vertical-align: top }
thead th { font-weight: 600; font-size: .85rem; color: var(--soft); border-top: 0 }
.number { font-variant-numeric: tabular-nums; white-space: nowrap }
.value { font-weight: 650 }
.better { white-space: nowrap; color: var(--good) }
.scroll { overflow-x: auto }
.wrap td:last-child { white-space: normal; overflow-wrap: anywhere }
@media screen and (max-width: 640px) {
  .metrics thead { display: none }
  .metrics tr {
    display: grid; grid-template-columns: 1fr auto; gap: 0 12px; border-top: 1px solid var(--faint); padding: 9px 0;
  }
  .metrics td { border: 0; padding: 1px 0 }
  .metrics td.says { grid-column: 1 / -1 }
  .metrics td.chance:not(:empty)::before { content: "chance " }
  .metrics td.chance, .metrics td.better { font-size: .85rem }
  .metrics td.chance { color: var(--soft) }
  .metrics td.value, .metrics td.better { text-align: right }
}
@media print {
  :root { --ink: #000; --soft: #444; --faint: #ccc; --good: #065f3c }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
  body { max-width: none; padding: 0; font-size: 10pt }
  figure { max-width: 13cm }
  figure, tr, .card { break-inside: avoid }
  h2 { break-after: avoid; margin-top: 24px }
  .cards { grid-template-columns: repeat(5, 1fr) }
  .scroll { overflow: visible; font-size: 7pt }
  .scroll table { font-size: inherit }
  .scroll td, .scroll th { padding-right: 6px }
}
"""


def document(title: str, body: Sequence[str]) -> str:
    """The whole page; the parts of `body` are HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def card(value: str, label: str) -> str:
    """One headline number."""
    return f'<div class="card"><b>{escape(value)}</b><span>{escape(label)}</span></div>'


def figure(caption: str, plot: str, kind: str = "plot") -> str:
    """A plot (HTML) under its caption; nothing where there is no plot."""
    return f'<figure class="{kind}"><figcaption>{escape(caption)}</figcaption>{plot}</figure>' if plot else ""


def legend(colours: Sequence[tuple[str, str]]) -> str:
    """Colours (CSS) and what they stand for."""
    items = "".join(f'<li><i style="background:{colour}"></i>{escape(name)}</li>' for colour, name in colours)
    return f'<ul class="legend">{items}</ul>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "scroll") -> str:
    """A plain table of texts; `scroll` scrolls sideways where it is too wide, `wrap` breaks lines."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f'<td class="number">{escape(c)}</td>' for c in row) + "</tr>" for row in rows)
    return f'<div class="{kind}"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
