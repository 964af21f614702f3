"""The page of `evaluate compare`: the metrics of two evaluations and their differences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from panformer_cli.metrics.bootstrap import GROUPS, VERDICTS
from panformer_cli.pages.base import Table, write_page
from panformer_cli.pages.replacing import PAGE, replaced_page
from panformer_cli.wording import interval_text


def write_comparison(out: Path, content: Mapping[str, Any], note: str) -> Path:
    """Write the page of a comparison to a folder, and return its path. It replaces an earlier page.

    Args:
        out: The folder.
        content: `engine.evaluation.compare.Comparison.to_json`.
        note: Sentence below the headlines; "" for none.

    Raises:
        PanformerError: The page cannot be written.
    """
    first, second = content["a"], content["b"]
    facts = [
        ("A", first["name"]),
        ("B", second["name"]),
        ("Images", f"{content['images']:,}"),
        ("Resamples", f"{content['resamples']:,}"),
    ]
    headlines = [
        ("PQ of A", f"{first['all']['pq']:.1f}", interval_text(first["intervals"]["all"]["pq"])),
        ("PQ of B", f"{second['all']['pq']:.1f}", interval_text(second["intervals"]["all"]["pq"])),
        (
            "B - A, points",
            f"{content['difference']['all']['pq']:.1f}",
            interval_text(content["difference"]["intervals"]["all"]["pq"]),
        ),
        ("Result", _sentence_case(VERDICTS[content["verdict"]["all"]]), ""),
    ]
    with replaced_page(out) as folder:
        write_page(
            folder / PAGE,
            "comparison.html",
            "Comparison of two evaluations",
            facts,
            headlines=headlines,
            note=note,
            tables=_tables(content),
        )
    return out / PAGE


def _tables(content: Mapping[str, Any]) -> list[Table]:
    first, second, difference = content["a"], content["b"], content["difference"]
    groups = [
        (
            f"{name.upper()}, {group}",
            first[group][name],
            second[group][name],
            difference[group][name],
            interval_text(difference["intervals"][group][name]),
        )
        for group in GROUPS
        for name in ("pq", "sq", "rq")
    ]
    classes = [
        (row["name"], "thing" if row["is_thing"] else "stuff", row["first"], row["second"], row["difference"])
        for row in content["per_class"]
    ]
    images = [
        (row["file_name"], row["first"], row["second"], row["difference"])
        for row in (*content["images_gained"], *reversed(content["images_lost"]))
    ]
    tables = [
        Table("Metrics", ("Metric", "A", "B", "B - A", "95% interval of B - A"), groups, "Percent, and points."),
        Table("Classes", ("Class", "Type", "A", "B", "B - A"), classes, "PQ, the largest gain first."),
        Table("Images", ("Image", "A", "B", "B - A"), images, "PQ of the images that changed most."),
    ]
    return [table for table in tables if table.rows]


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]
