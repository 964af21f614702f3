"""One HTML page with text, tables, pictures and curves, which opens from disk without a server or a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from panformer_cli.files import atomic_write
from panformer_cli.pages.chart import Chart, Series, chart_svg, series_class

__all__ = ["Chart", "Gallery", "Legend", "LegendEntry", "Picture", "Section", "Series", "Table", "Text", "write_page"]


@dataclass(frozen=True)
class Text:
    """Paragraphs, parted by empty lines; line breaks are kept."""

    text: str
    heading: str = ""


@dataclass(frozen=True)
class Table:
    """Numbers are set to the right and floats get one decimal; None and NaN are a dash."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str | int | float | None]]
    heading: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture file.

    path: relative to the page's folder, with `/`.
    caption, detail: a bold and a small line below it.
    size: (height, width) in pixels, so that the page does not jump while it loads; None if not known.
    """

    path: str
    caption: str
    detail: str = ""
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Gallery:
    """Pictures in a grid; a click shows one large, arrow keys go on.

    column_width: least width of a column on the page, CSS pixels.
    """

    pictures: Sequence[Picture]
    heading: str = ""
    column_width: int = 340


@dataclass(frozen=True)
class LegendEntry:
    """A colour (RGB 0..255) and what it stands for; `detail` is a small word behind it."""

    name: str
    color: tuple[int, int, int]
    detail: str = ""


@dataclass(frozen=True)
class Legend:
    """Which colour stands for what."""

    entries: Sequence[LegendEntry]
    heading: str = ""


Section = Text | Table | Gallery | Legend | Chart


def write_page(path: Path, title: str, *sections: Section) -> None:
    """Write the page, atomically: sections in their order. All text is escaped.

    Raises:
        PanformerError: the file cannot be written.
    """
    body = "\n".join(map(_section, sections))
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<main>\n{body}\n</main>\n{_VIEWER}\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )
    with atomic_write(path) as temporary:
        temporary.write_bytes(page.encode("utf-8", "replace"))


def _section(section: Section) -> str:
    kind = ' class="half"' if isinstance(section, Chart) else ""
    heading = f"<h2>{escape(section.heading)}</h2>" if section.heading else ""
    return f"<section{kind}>{heading}{_content(section)}</section>"


def _content(section: Section) -> str:
    if isinstance(section, Text):
        paragraphs = [paragraph.strip() for paragraph in section.text.split("\n\n")]
        return "".join(f"<p>{escape(paragraph)}</p>".replace("\n", "<br>") for paragraph in paragraphs if paragraph)
    if isinstance(section, Table):
        return _table(section)
    if isinstance(section, Gallery):
        figures = "".join(map(_figure, section.pictures))
        return f'<div class="gallery" style="--column: {int(section.column_width)}px">{figures}</div>'
    if isinstance(section, Legend):
        return f'<ul class="legend">{"".join(map(_legend_entry, section.entries))}</ul>'
    return chart_svg(section) + _chart_legend(section)


def _table(table: Table) -> str:
    numeric = [
        all(isinstance(row[i], (int, float, type(None))) for row in table.rows) for i in range(len(table.headers))
    ]
    head = "".join(
        f"<th{_right(right)}>{escape(name)}</th>" for name, right in zip(table.headers, numeric, strict=True)
    )
    rows = (
        "".join(f"<td{_right(right)}>{_cell(value)}</td>" for value, right in zip(row, numeric, strict=True))
        for row in table.rows
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _right(right: bool) -> str:
    return ' class="number"' if right else ""


def _cell(value: str | int | float | None) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.1f}" if isinstance(value, float) else escape(str(value))


def _figure(picture: Picture) -> str:
    address = escape(quote(picture.path))
    size = f' width="{picture.size[1]}" height="{picture.size[0]}"' if picture.size else ""
    detail = f"<small>{escape(picture.detail)}</small>" if picture.detail else ""
    return (
        f'<figure><a href="{address}"><img loading="lazy" src="{address}" alt="{escape(picture.caption)}"{size}></a>'
        f"<figcaption><b>{escape(picture.caption)}</b>{detail}</figcaption></figure>"
    )


def _legend_entry(entry: LegendEntry) -> str:
    red, green, blue = (int(value) for value in entry.color)
    detail = f" <small>{escape(entry.detail)}</small>" if entry.detail else ""
    return f'<li><i style="background: rgb({red}, {green}, {blue})"></i>{escape(entry.name)}{detail}</li>'


def _chart_legend(chart: Chart) -> str:
    """The names of the curves with their last values."""
    entries = []
    for number, series in enumerate(chart.series):
        values = [y for _, y in series.points if math.isfinite(y)]
        last = f" <small>{values[-1]:.4g}</small>" if values else ""
        line = f'<svg viewBox="0 0 22 8"><path class="{series_class(number)}" d="M0 4H22"/></svg>'
        entries.append(f"<li>{line}{escape(series.name)}{last}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'


_STYLE = """
:root { --ground: #f6f6f4; --card: #fff; --ink: #1d2024; --soft: #646a73; --line: #dcdcd8;
  --c0: #0b62c4; --c1: #c8441b; --c2: #14833b; --c3: #8b3fb5; --c4: #a87400; --c5: #00848c; --c6: #c2266f;
  --c7: #5f6670; }
@media (prefers-color-scheme: dark) { :root { --ground: #15171a; --card: #1e2125; --ink: #e6e7e9; --soft: #9aa1ab;
  --line: #343940; --c0: #6cb0ff; --c1: #ff8f66; --c2: #5fd083; --c3: #cf94f2; --c4: #e8b94a; --c5: #4fd0d6;
  --c6: #ff85b8; --c7: #aab1bb; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1500px; padding: 28px 24px 60px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { display: grid; grid-template-columns: 1fr 1fr; gap: 0 28px; }
section { grid-column: 1 / -1; min-width: 0; }
@media (min-width: 960px) { section.half { grid-column: auto; } }
h1 { font-size: 24px; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 32px 0 10px; }
p { max-width: 75ch; margin: 6px 0; overflow-wrap: anywhere; }
small, .muted { color: var(--soft); font-size: 13px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; background: var(--card); }
th, td { padding: 5px 14px; text-align: left; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.gallery { display: grid; gap: 16px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--column)), 1fr)); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
figure img { display: block; width: 100%; height: auto; cursor: zoom-in; }
figcaption { padding: 8px 12px 10px; overflow-wrap: anywhere; }
figcaption small { display: block; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 6px 0; padding: 0; list-style: none; }
.legend i { display: inline-block; width: 14px; height: 14px; margin-right: 7px; border-radius: 3px;
  vertical-align: -2px; }
.legend svg { width: 22px; height: 8px; margin-right: 7px; vertical-align: 2px; }
.chart { display: block; width: 100%; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
.chart text { fill: var(--soft); font-size: 12px; }
.grid { stroke: var(--line); fill: none; }
.axis { stroke: var(--soft); fill: none; }
polyline, .legend path { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; }
circle { fill: var(--c); }
.dashed { stroke-dasharray: 5 4; }
.s0 { --c: var(--c0); } .s1 { --c: var(--c1); } .s2 { --c: var(--c2); } .s3 { --c: var(--c3); }
.s4 { --c: var(--c4); } .s5 { --c: var(--c5); } .s6 { --c: var(--c6); } .s7 { --c: var(--c7); }
dialog { width: 100vw; height: 100vh; max-width: none; max-height: none; padding: 12px; border: 0;
  background: rgb(10 11 13 / 96%); color: #e6e7e9; text-align: center; }
dialog img { width: 100%; height: calc(100% - 34px); object-fit: contain; cursor: zoom-out; }
"""

_VIEWER = '<dialog aria-label="Enlarged picture"><img alt=""><div></div></dialog>'

_SCRIPT = """
const links = [...document.querySelectorAll("figure a")], dialog = document.querySelector("dialog");
let shown = 0;
function show(i) {
  shown = (i + links.length) % links.length;
  const image = dialog.querySelector("img");
  image.src = links[shown].href;
  image.alt = links[shown].querySelector("img").alt;
  dialog.querySelector("div").textContent = image.alt + "  (" + (shown + 1) + " of " + links.length + ")";
  if (!dialog.open) dialog.showModal();
}
links.forEach((link, i) => link.addEventListener("click", event => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(i);
}));
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", event => {
  if (event.key === "ArrowRight") show(shown + 1);
  if (event.key === "ArrowLeft") show(shown - 1);
});
"""
