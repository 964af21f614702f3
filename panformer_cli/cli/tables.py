"""Tables of results, printed by several commands."""

from __future__ import annotations

from typing import Any

import click

from panformer_cli.wording import counted, interval_text

QUALITY = ("", "PQ", "SQ", "RQ", "classes")
"""Columns of `_quality`."""


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print an evaluation (`metrics.evaluator.Evaluator.results`) as tables on stdout."""
    from panformer_cli.console import print_table
    from panformer_cli.metrics.bootstrap import GROUPS
    from panformer_cli.metrics.quality import shown

    panoptic = metrics["panoptic"]
    intervals = {name: ends for name, ends in metrics.get("intervals", {}).items() if panoptic[name]["n"]}
    rows = [(*_quality(name, panoptic[name]), _interval(intervals.get(name, {}).get("pq"))) for name in GROUPS]
    title = f"Panoptic quality of {counted(metrics['images'], 'image')}, percent"
    print_table(title, (*QUALITY, "95 % interval of PQ"), rows)
    sizes = [_quality(size, groups["all"]) for size, groups in panoptic["sizes"].items()]
    print_table("By segment size, percent", QUALITY, sizes)
    _print_classes(panoptic)
    if "boundary" in metrics:
        print_table("Boundary PQ, percent", QUALITY, [_quality(name, metrics["boundary"][name]) for name in GROUPS])
    if "semantic" in metrics:
        semantic = shown(metrics["semantic"])
        cells = [(semantic["miou"], semantic["fwiou"], semantic["accuracy"], semantic["n"])]
        print_table("Semantic segmentation, percent", ("mIoU", "fwIoU", "pixel accuracy", "classes"), cells)
    for metric, title in (("bbox", "Box AP of things"), ("segm", "Mask AP of things")):
        if metric in metrics:
            print_table(f"{title}, percent", tuple(metrics[metric]), [tuple(metrics[metric].values())])


def print_both_mergings(original: dict[str, Any], of_transformers: dict[str, Any]) -> None:
    """Print the quality of two evaluations of one model side by side, with the merging of each."""
    from panformer_cli.console import print_table
    from panformer_cli.metrics.bootstrap import GROUPS

    both = [metrics["panoptic"] for metrics in (original, of_transformers)]
    rows = []
    for name in GROUPS:
        first, second = (_quality(name, panoptic[name])[1:4] for panoptic in both)
        rows.append((name, *first, *second))
    columns = ("", *(f"{metric}, {who}" for who in ("original", "transformers") for metric in ("PQ", "SQ", "RQ")))
    print_table("Merging of the original project and of transformers, percent", columns, rows)


def print_causes(analysis: dict[str, Any], classes: int = 10) -> None:
    """Print where PQ was lost (`PanopticAnalysis.to_json`), and the `classes` with the largest potential gain."""
    from panformer_cli.console import print_table
    from panformer_cli.metrics.bootstrap import GROUPS

    causes = _shown_causes(analysis)
    names = [name for name in causes["all"] if name != "total"]
    rows = [(group, *(causes[group][name] for name in names)) for group in GROUPS]
    print_table("Where PQ was lost, points", ("", *(name.replace("_", " ") for name in names)), rows)
    gains = [(row["name"], row["pq"], row["cause"].replace("_", " "), row["gain"]) for row in analysis["per_class"]]
    worth = [row for row in gains[:classes] if row[-1] > 0]
    if worth:
        title = "Largest potential gain per class"
        print_table(title, ("class", "PQ", "cause", "potential gain, points of overall PQ"), worth)


def print_label_errors(content: dict[str, Any]) -> None:
    """Print how many probable label errors of each kind there are (label_errors.json)."""
    from panformer_cli.console import print_table

    rows = [(kind.replace("_", " "), count) for kind, count in content["kinds"].items()]
    print_table("Probable label errors", ("kind", "number"), rows)


def _print_classes(panoptic: dict[str, Any]) -> None:
    from panformer_cli.console import print_table

    cells = [
        (row["name"], _thing_or_stuff(row), row["pq"], row["sq"], row["rq"], row["tp"], row["fp"], row["fn"])
        for row in panoptic["per_class"].values()
    ]
    print_table("Per class, percent", ("class", "type", "PQ", "SQ", "RQ", "TP", "FP", "FN"), cells)


def _thing_or_stuff(row: dict[str, Any]) -> str:
    return "thing" if row["is_thing"] else "stuff"


def _shown_causes(analysis: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return the points by group and cause; None for a group without classes."""
    is_thing = {row["is_thing"] for row in analysis["per_class"]}
    has_classes = {"all": bool(is_thing), "things": True in is_thing, "stuff": False in is_thing}
    return {
        group: points if has_classes[group] else dict.fromkeys(points) for group, points in analysis["causes"].items()
    }


def _quality(name: str, row: dict[str, Any]) -> tuple[str, float | None, float | None, float | None, int]:
    """Return the cells of a group; None for the metrics of a group without classes."""
    from panformer_cli.metrics.quality import shown

    row = shown(row)
    return name, row["pq"], row["sq"], row["rq"], row["n"]


def _interval(bounds: list[float] | None) -> str | None:
    return interval_text(bounds) if bounds else None


def print_comparison(content: dict[str, Any]) -> None:
    """Print a comparison (`engine.evaluation.compare.Comparison.to_json`) as tables on stdout."""
    from panformer_cli.console import print_table
    from panformer_cli.engine.evaluation.compare import few_images_note
    from panformer_cli.metrics.bootstrap import GROUPS

    rows = [_compared_group(content, name) for name in GROUPS]
    first, second = content["a"], content["b"]
    title = f"PQ of {counted(content['images'], 'image')}: A is {first['name']}, B is {second['name']}"
    print_table(title, ("", "A", "B", "B - A", "95 % interval", "B better, % of resamples", "result"), rows)
    _print_note(few_images_note(content))
    classes = [
        (row["name"], _thing_or_stuff(row), row["first"], row["second"], row["difference"])
        for row in content["per_class"]
    ]
    print_table("PQ per class, largest gain first", ("class", "type", "A", "B", "B - A"), classes)
    for change, title in (("gained", "Images with the largest gain"), ("lost", "Images with the largest loss")):
        images = [(row["file_name"], row["first"], row["second"]) for row in content[f"images_{change}"]]
        if images:
            print_table(f"{title}, PQ per image", ("image", "A", "B"), images)


def _compared_group(content: dict[str, Any], name: str) -> tuple[str | float | None, ...]:
    """Return the row of a group; without classes on one side there is no difference."""
    from panformer_cli.metrics.bootstrap import VERDICTS
    from panformer_cli.metrics.quality import shown

    first, second = (shown(content[side][name])["pq"] for side in ("a", "b"))
    if first is None or second is None:
        return name, first, second, None, None, None, None
    difference = content["difference"]
    interval = _interval(difference["intervals"][name]["pq"])
    verdict = content["verdict"][name]
    better = None if verdict == "same" else 100 * content["better"][name]
    return name, first, second, difference[name]["pq"], interval, better, VERDICTS[verdict]


def print_tuning(content: dict[str, Any]) -> None:
    """Print tuned thresholds (`engine.evaluation.tune.Tuning.to_json`) as tables on stdout."""
    from panformer_cli.console import print_table
    from panformer_cli.engine.evaluation.compare import few_images_note

    names = [name for name, value in content["before"].items() if isinstance(value, (int, float))]
    rows = [(side, *(f"{content[side][name]:g}" for name in names)) for side in ("before", "after")]
    print_table("Thresholds", ("", *(name.replace("_", " ") for name in names)), rows)
    searched, held_out = content["searched"], content["held_out"]
    _, before, after, gain, interval, *_ = _compared_group(held_out, "all")
    table = [
        ("searched", searched["images"], searched["pq_before"], searched["pq_after"], None),
        ("held out", held_out["images"], before, after, interval),
    ]
    print_table("PQ of each half, percent", ("half", "images", "before", "after", "95 % interval of the gain"), table)
    lowest = held_out["difference"]["intervals"]["all"]["pq"][0]
    reason = "the interval contains 0" if lowest <= 0 else "too few images"
    verdict = "significant" if content["gain"] else f"not significant: {reason}"
    print_table("Gain on the held-out half, points", ("gain", ""), [(gain, verdict)])
    _print_note(few_images_note(held_out))


def _print_note(note: str) -> None:
    """Print a sentence below a table, unless it is empty."""
    if note:
        click.echo(note)


def print_robustness(content: dict[str, Any]) -> None:
    """Print PQ under corruptions (`engine.evaluation.robustness.Robustness.to_json`) as a table on stdout."""
    from panformer_cli.console import print_table

    severities = list(content["rows"][0]["by_severity"])
    rows = [
        (row["corruption"], row["group"], row["pq"], *row["by_severity"].values(), row["paper"])
        for row in content["rows"]
    ]
    paper = content["paper"] or {"clean": None, "mean": None}
    blank = (None,) * len(severities)
    rows += [
        ("mean", "", content["mean"], *blank, paper["mean"]),
        ("clean", "", content["clean"], *blank, paper["clean"]),
    ]
    columns = ("corruption", "group", "PQ", *(f"severity {severity}" for severity in severities), "paper")
    kept = "" if content["kept"] is None else f"; {content['kept']:.1f} % of the clean PQ is kept"
    print_table(f"PQ of {counted(content['images'], 'image')}, percent{kept}", columns, rows)
