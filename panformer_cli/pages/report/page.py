"""The page itself: what stands where, with its style and its scripts inside it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from urllib.parse import quote

from panformer_cli.pages.report.images import ImageLayers, ImageScore
from panformer_cli.pages.report.tables import DataTable, Markup, table_html


@dataclass(frozen=True)
class Headline:
    """One of the figures on top: its name, its value as text, and its interval or what it stands for, in small."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Part:
    """A part of the page with a heading, which the bar on top leads to.

    name: one word for that bar, different for every part. text: a paragraph below the heading. charts: finished HTML.
    """

    name: str
    heading: str
    text: str = ""
    charts: Sequence[str] = ()
    tables: Sequence[DataTable] = ()


@dataclass(frozen=True)
class ReportContent:
    """All that the page shows.

    facts: what was evaluated: name and value. thumbnails: path relative to the page of the picture of every image in
    `scores`, "" for none. worst, best: images to look at closely, the first is the worst or the best.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    headlines: Sequence[Headline]
    parts: Sequence[Part]
    scores: Sequence[ImageScore]
    thumbnails: Sequence[str]
    worst: Sequence[ImageLayers] = ()
    best: Sequence[ImageLayers] = ()


def page_html(content: ReportContent) -> str:
    """The page as HTML that needs no network; its pictures lie beside it. All text is escaped.

    The page's policy lets only its own style and script work, whatever a file name holds.
    """
    style, script = _asset("report.css"), _asset("tables.js") + _asset("viewer.js")
    policy = (
        f"default-src 'none'; img-src 'self' file: data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    shown = [*content.worst, *content.best]
    parts = [(part.name, _part(part)) for part in content.parts]
    first = [("Images", _viewer(content))] if shown else []
    last = [("All images", _list(content))]
    named = [*parts[:1], *first, *parts[1:], *last]
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name, _ in named)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(content.title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#main">Skip to the figures</a>\n'
        f'<nav aria-label="Parts of the page">{links}</nav>\n'
        f"<header><h1>{escape(content.title)}</h1>{_facts(content.facts)}</header>\n"
        f'<main id="main">\n{_headlines(content.headlines)}\n'
        + "\n".join(html for _, html in named)
        + f'\n</main>\n<script type="application/json" id="layers">{_layers(shown)}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return files("panformer_cli.pages.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _layers(images: Sequence[ImageLayers]) -> str:
    """JSON in which no `<` can end the element that holds it."""
    rows = [
        {
            "name": image.score.file_name,
            "photo": quote(image.photo),
            "size": image.size,
            "words": _words(image.score),
            "truth": vars(image.truth),
            "prediction": vars(image.prediction),
        }
        for image in images
    ]
    return json.dumps(rows, separators=(",", ":")).replace("<", "\\u003c")


def _anchor(name: str) -> str:
    return "part-" + re.sub(r"[^a-z0-9]+", "-", name.lower())


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{rows}</dl>'


def _headlines(headlines: Sequence[Headline]) -> str:
    items = "".join(
        f"<li><span>{escape(row.name)}</span><strong>{escape(row.value)}</strong><small>{escape(row.detail)}</small></li>"
        for row in headlines
    )
    return f'<ul class="headlines" aria-label="Headline figures">{items}</ul>'


def _part(part: Part) -> str:
    text = f"<p>{escape(part.text)}</p>" if part.text else ""
    tables = f'<div class="tables">{"".join(map(table_html, part.tables))}</div>'
    return _section(part.name, part.heading, text + "".join(part.charts) + tables)


def _section(name: str, heading: str, body: str) -> str:
    anchor = _anchor(name)
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-heading"><h2 id="{anchor}-heading">{escape(heading)}</h2>'
        f"{body}</section>"
    )


def _viewer(content: ReportContent) -> str:
    worst = _strip("Worst", "lose most", content.worst, 0)
    best = _strip("Best", "highest PQ of their own", content.best, len(content.worst))
    return _section(
        "Images",
        "Worst and best images",
        f'<div id="viewer"><div class="strips">{worst}{best}</div>{_asset("viewer.html")}</div>',
    )


def _strip(heading: str, detail: str, images: Sequence[ImageLayers], first: int) -> str:
    if not images:
        return ""
    buttons = "".join(
        f'<li><button type="button" data-image="{place}" aria-pressed="false">{_picture(image.photo)}'
        f"<span>{escape(image.score.file_name)}</span><small>{escape(_words(image.score))}</small></button></li>"
        for place, image in enumerate(images, start=first)
    )
    return f"<h3>{heading} <small>{detail}</small></h3><ol>{buttons}</ol>"


def _list(content: ReportContent) -> str:
    places = {image.score.number: place for place, image in enumerate([*content.worst, *content.best])}
    rows = [
        (
            Markup(_picture(thumbnail) + _name(score, places.get(score.number)), score.file_name),
            score.pq,
            score.lost,
            score.matched,
            score.false,
            score.missed,
        )
        for score, thumbnail in zip(content.scores, content.thumbnails, strict=True)
    ]
    note = "Lost: 1 - IoU of every matched pair, and a half for each false and each missed segment."
    headers = ["Image", "PQ", "Lost", "Matched", "False", "Missed"]
    return _section("All images", "All images", table_html(DataTable("Images", headers, rows, note)))


def _name(score: ImageScore, place: int | None) -> str:
    name = escape(score.file_name)
    return f"<span>{name}</span>" if place is None else f'<button type="button" data-show="{place}">{name}</button>'


def _picture(path: str) -> str:
    return f'<img loading="lazy" decoding="async" src="{escape(quote(path))}" alt="">' if path else ""


def _words(score: ImageScore) -> str:
    quality = "–" if score.pq is None else f"{score.pq:.1f}"
    return f"PQ {quality}, {score.matched} matched, {score.false} false, {score.missed} missed"
