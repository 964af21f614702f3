"""The summary of a prepared folder as one page that opens from a file, without a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --ground: #f6f6f4; --card: #fff; --ink: #1d2024; --soft: #5d636c; --line: #dcdcd8;
  --things: #0b62c4; --stuff: #14833b; }
@media (prefers-color-scheme: dark) { :root { --ground: #15171a; --card: #1e2125; --ink: #e6e7e9; --soft: #a3aab4;
  --line: #343940; --things: #6cb0ff; --stuff: #5fd083; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 12px 24px 80px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 25px; overflow-wrap: anywhere; } h2 { margin: 40px 0 10px; font-size: 19px; }
h3 { margin: 22px 0 8px; font-size: 15px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 12px; padding: 0; }
.cards li { list-style: none; padding: 10px 16px 12px; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; color: var(--soft); }
.cards strong { display: block; color: var(--ink); font-size: 26px; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 3px 18px 3px 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: var(--ground); }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
th button { border: 0; padding: 0; background: none; color: inherit; font: inherit; font-weight: 600; cursor: pointer; }
:focus-visible { outline: 2px solid var(--things); outline-offset: 2px; }
svg { display: block; } .thing { fill: var(--things); } .stuff { fill: var(--stuff); }
.swatch { display: inline-block; width: 12px; height: 12px; margin-right: 8px; border-radius: 3px; }
.none { color: var(--soft); }
"""

_SORT = """
document.querySelectorAll("table").forEach(table => table.querySelectorAll("th").forEach((head, column) => {
  const button = head.querySelector("button");
  if (button) button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => isNaN(a) || isNaN(b) ? String(a).localeCompare(b) : a - b;
    const rows = [...table.tBodies[0].rows].sort((a, b) => order(key(a), key(b)) * (down ? -1 : 1));
    table.tBodies[0].append(...rows);
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  });
}));
"""

_COUNTS = ("segments", "images", "crowd", "pixels")
_BAR = 120  # pixels, the length of the longest bar


def summary_page(name: str, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """HTML of `SplitSummary.to_json` by split.

    name: of the data set, shown as the heading.
    """
    sections = (f"<section>{_split(split, content)}</section>" for split, content in summaries.items())
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(name)}</title><style>{_STYLE}</style>"
    )
    body = f"<h1>{escape(name)}</h1>{''.join(sections)}<script>{_SORT}</script>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'


def _split(split: str, content: Mapping[str, Any]) -> str:
    void = f"{100 * content['void_share']:.1f} %"
    cards = [(key, f"{content[key]:,}") for key in ("images", "segments", "things", "stuff", "crowd")] + [
        ("void", void)
    ]
    items = "".join(f"<li><strong>{value}</strong>{key}</li>" for key, value in cards)
    parts = [f"<h2>{escape(split)}</h2><ul class=cards>{items}</ul>", _categories(content["categories"])]
    parts.append(_distribution("Things by size, pixels", _size_rows(content["segment_sizes"])))
    parts.append(_distribution("Segments in an image", content["segments_per_image"]))
    sizes = [(f"{width} x {height}", count) for height, width, count in content["image_sizes"][:20]]
    parts.append(_distribution("Image sizes, width x height, the most frequent", sizes))
    if content["left_out"]:
        told = "".join(f"<li>{escape(sentence)}</li>" for sentence in content["left_out"])
        parts.append(f"<h3>Left out</h3><ul>{told}</ul>")
    return "".join(parts)


def _categories(categories: Sequence[Mapping[str, Any]]) -> str:
    most = max([category["segments"] for category in categories] + [1])
    heads = "".join(f"<th><button>{text}</button></th>" for text in ("category", "kind", *_COUNTS)) + "<th></th>"
    ordered = sorted(categories, key=lambda category: -int(category["segments"]))
    rows = "".join(_category(category, most) for category in ordered)
    return (
        "<h3>Categories</h3><div class=scroll><table><thead><tr>"
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _category(category: Mapping[str, Any], most: int) -> str:
    kind = "thing" if category["isthing"] else "stuff"
    color = category.get("color")
    swatch = f'<span class=swatch style="background: rgb({",".join(map(str, color))})"></span>' if color else ""
    counts = "".join(f'<td data-value="{category[key]}">{category[key]:,}</td>' for key in _COUNTS)
    row = "<tr>" if category["segments"] else "<tr class=none>"
    bar = _bar(category["segments"] / most, kind)
    return f"{row}<td>{swatch}{escape(category['name'])}</td><td>{kind}</td>{counts}<td>{bar}</td></tr>"


def _size_rows(sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    names = {"small": "below 32 x 32", "medium": "below 96 x 96", "large": "larger"}
    return [(names[name], count) for name, count in sizes.items()]


def _distribution(title: str, rows: Iterable[tuple[Any, int]]) -> str:
    rows = list(rows)
    most = max([count for _, count in rows] + [1])
    cells = "".join(
        f"<tr><td>{escape(str(name))}</td><td>{_bar(count / most, 'thing')}</td><td>{count:,}</td></tr>"
        for name, count in rows
    )
    return f"<h3>{escape(title)}</h3><table><tbody>{cells}</tbody></table>"


def _bar(share: float, kind: str) -> str:
    length = round(_BAR * share, 1)
    return (
        f'<svg width="{_BAR}" height="10" aria-hidden="true"><rect class="{kind}" width="{length}" height="10"/></svg>'
    )
