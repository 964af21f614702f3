"""Tables of figures, as several commands print them."""

from __future__ import annotations

from typing import Any

GROUPS = ("all", "things", "stuff")


def print_figures(figures: dict[str, Any], per_class: bool) -> None:
    """Print an evaluation (`metrics.evaluator.Evaluator.figures`) as tables on stdout.

    per_class: also one row a category.
    """
    from panformer_cli.console import print_table

    panoptic = figures["panoptic"]
    intervals = figures.get("intervals", {})
    rows = [(*_quality(name, panoptic[name]), _interval(intervals.get(name, {}).get("pq"))) for name in GROUPS]
    title = f"Panoptic quality of {figures['images']} images, percent"
    print_table(title, ("", "PQ", "SQ", "RQ", "classes", "PQ's 95 % interval"), rows)
    sizes = [_quality(size, groups["all"]) for size, groups in panoptic["sizes"].items()]
    print_table("By size of the segments", ("", "PQ", "SQ", "RQ", "classes"), sizes)
    if per_class:
        _print_classes("Per class", panoptic)
    if "boundary" in figures:
        groups = [_quality(name, figures["boundary"][name]) for name in GROUPS]
        print_table("Boundary PQ, percent", ("", "PQ", "SQ", "RQ", "classes"), groups)
    if "semantic" in figures:
        semantic = figures["semantic"]
        cells = [(semantic["miou"], semantic["fwiou"], semantic["accuracy"], semantic["n"])]
        print_table("As a semantic map, percent", ("mIoU", "fwIoU", "accuracy", "classes"), cells)
    for metric, title in (("bbox", "Box AP of the things"), ("segm", "Mask AP of the things")):
        if metric in figures:
            print_table(f"{title}, percent", tuple(figures[metric]), [tuple(figures[metric].values())])


def print_causes(analysis: dict[str, Any], classes: int = 10) -> None:
    """Print where PQ was lost (`PanopticAnalysis.to_json`), and the classes worth fixing first."""
    from panformer_cli.console import print_table

    causes = analysis["causes"]
    names = [name for name in causes["all"] if name != "total"]
    rows = [(group, *(causes[group][name] for name in names)) for group in GROUPS]
    print_table("Where PQ was lost, points", ("", *(name.replace("_", " ") for name in names)), rows)
    gains = [(row["name"], row["pq"], row["mend"].replace("_", " "), row["gain"]) for row in analysis["per_class"]]
    worth = [row for row in gains[:classes] if row[-1] > 0]
    if worth:
        print_table("What mending a class would gain", ("class", "PQ", "what", "points of the whole PQ"), worth)


def _print_classes(title: str, panoptic: dict[str, Any]) -> None:
    from panformer_cli.console import print_table

    cells = [
        (row["name"], "thing" if row["is_thing"] else "stuff", row["pq"], row["sq"], row["rq"])
        + (row["tp"], row["fp"], row["fn"])
        for row in panoptic["per_class"].values()
    ]
    print_table(title, ("class", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN"), cells)


def _quality(name: str, row: dict[str, Any]) -> tuple[str, float, float, float, int]:
    return name, row["pq"], row["sq"], row["rq"], row["n"]


def _interval(bounds: list[float] | None) -> str | None:
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}" if bounds else None


def print_comparison(content: dict[str, Any]) -> None:
    """Print a comparison (`engine.evaluation.compare.Comparison.to_json`)."""
    from panformer_cli.console import print_table

    first, second, difference = content["a"], content["b"], content["difference"]
    rows = [
        (
            name,
            first[name]["pq"],
            second[name]["pq"],
            difference[name]["pq"],
            _interval(difference["intervals"][name]["pq"]),
            100 * content["better"][name],
        )
        for name in GROUPS
    ]
    title = f"PQ of {content['images']} images: A is {first['name']}, B is {second['name']}"
    print_table(title, ("", "A", "B", "B - A", "95 % interval", "B better, % of resamples"), rows)
    classes = [
        (row["name"], "thing" if row["is_thing"] else "stuff", row["first"], row["second"], row["difference"])
        for row in content["per_class"]
    ]
    print_table("Per class, what gained most first", ("class", "kind", "A", "B", "B - A"), classes)
    for kind, title in (("gained", "Images that gained most"), ("lost", "Images that lost most")):
        images = [(row["file_name"], row["first"], row["second"]) for row in content[f"images_{kind}"]]
        if images:
            print_table(f"{title}, PQ of the image alone", ("image", "A", "B"), images)


def print_tuning(content: dict[str, Any]) -> None:
    """Print a search of thresholds (`engine.evaluation.tune.Tuning.to_json`)."""
    from panformer_cli.console import print_table

    names = list(content["before"])
    rows = [(side, *(f"{content[side][name]:g}" for name in names)) for side in ("before", "after")]
    print_table("Settings", ("", *(name.replace("_", " ") for name in names)), rows)
    searched, held_out = content["searched"], content["held_out"]
    pq = held_out["difference"]["all"]["pq"], held_out["difference"]["intervals"]["all"]["pq"]
    table = [
        ("searched", searched["images"], searched["pq_before"], searched["pq_after"], None),
        ("held out", held_out["images"], held_out["a"]["all"]["pq"], held_out["b"]["all"]["pq"], _interval(pq[1])),
    ]
    print_table("PQ", ("half", "images", "before", "after", "95 % interval of the gain"), table)
    verdict = "a gain" if content["gain"] else "no gain that is sure: the interval holds 0"
    print_table("Verdict of the held-out half", ("points", ""), [(pq[0], verdict)])


def print_robustness(content: dict[str, Any]) -> None:
    """Print what corruptions leave (`engine.evaluation.robustness.Robustness.to_json`)."""
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
    columns = ("corruption", "kind", "PQ", *(f"severity {severity}" for severity in severities), "paper")
    title = f"PQ of {content['images']} images, percent; {content['kept']:.1f} % of the clean PQ is left"
    print_table(title, columns, rows)
