"""Tables of figures, as several commands print them."""

from __future__ import annotations

from typing import Any


def print_figures(figures: dict[str, Any], per_class: bool) -> None:
    """Print an evaluation (`engine.evaluate.Evaluation.to_json`) as tables on stdout.

    per_class: also one row a category.
    """
    from panformer_cli.console import print_table

    panoptic = figures["panoptic"]
    groups = [(name, panoptic[name]) for name in ("all", "things", "stuff")]
    rows = [(name, row["pq"], row["sq"], row["rq"], row["n"]) for name, row in groups]
    print_table(f"Panoptic quality of {figures['images']} images, percent", ("", "PQ", "SQ", "RQ", "classes"), rows)
    if per_class:
        classes = panoptic["per_class"].values()
        cells = [
            (row["name"], "thing" if row["is_thing"] else "stuff", row["pq"], row["sq"], row["rq"])
            + (row["tp"], row["fp"], row["fn"])
            for row in classes
        ]
        print_table("Per class", ("class", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN"), cells)
    for metric, title in (("bbox", "Box AP of the things"), ("segm", "Mask AP of the things")):
        if metric in figures:
            print_table(f"{title}, percent", tuple(figures[metric]), [tuple(figures[metric].values())])
