"""The comparison with panopticapi, and with a fake that has the same interface."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from panformer_cli.data.coco.panoptic_png import read_panoptic_png, write_panoptic_png
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.errors import PanformerError
from panformer_cli.metrics.cross_check import cross_check
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.quality import PanopticQuality, PanopticResult
from tests.metrics.test_quality import DOG, TABLE, Pair, oracle, panoptic, seeded_pairs

Files = tuple[Path, Path, Path, Path]


def written(pairs: list[Pair], folder: Path) -> Files:
    """Write the pairs in COCO's format; return annotation, its PNG folder, predictions and their PNG folder."""
    paths = []
    for side, name in ((1, "truth"), (0, "prediction")):
        (folder / name).mkdir(parents=True)
        rows = []
        for number, pair in enumerate(pairs):
            write_panoptic_png(folder / name / f"{number}.png", pair[side].ids)
            segments = [{**asdict(segment), "iscrowd": int(segment.is_crowd)} for segment in pair[side].segments]
            rows.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
        content = {"annotations": rows, "categories": TABLE.to_coco()}
        (folder / f"{name}.json").write_text(json.dumps(content))
        paths += [folder / f"{name}.json", folder / name]
    annotation, truth_pngs, predictions, predicted_pngs = paths
    return annotation, truth_pngs, predictions, predicted_pngs


def measured(pairs: list[Pair]) -> PanopticResult:
    quality = PanopticQuality(TABLE)
    for prediction, truth in pairs:
        quality.update(compare(prediction, truth))
    return quality.result()


@pytest.mark.parametrize("count", [0, 1, 60])
def test_equals_panopticapi(count: int, tmp_path: Path) -> None:
    pytest.importorskip("panopticapi.evaluation", reason="needs panopticapi for comparison")
    pairs = seeded_pairs(count, seed=11)
    files, result = written(pairs, tmp_path), measured(pairs)
    cross_check(*files, result)
    if count == 60:
        sky = result.categories[-1]
        almost = replace(result, categories=(*result.categories[:-1], replace(sky, sq=sky.sq + 1e-9)))
        with pytest.raises(PanformerError, match=r"SQ of category 187 \(sky\)"):
            cross_check(*files, almost)


class Statistics(defaultdict[int, SimpleNamespace]):
    """Counts by category with the methods of panopticapi, from the plain loop in the tests of PQ."""

    def __init__(self) -> None:
        super().__init__(lambda: SimpleNamespace(iou=0.0, tp=0, fp=0, fn=0))

    def __iadd__(self, other: Statistics) -> Statistics:
        for category, counts in other.items():
            for name, value in vars(counts).items():
                setattr(self[category], name, getattr(self[category], name) + value)
        return self

    def pq_average(self, categories: dict[int, Any], is_thing: bool | None) -> tuple[dict[str, float], dict[int, Any]]:
        assert is_thing is None
        rows = [self[number] for number in categories if self[number].tp + self[number].fp + self[number].fn]
        halves = [(row.fp + row.fn) / 2 for row in rows]
        means = {
            "pq": sum(row.iou / (row.tp + half) for row, half in zip(rows, halves, strict=True)) / len(rows),
            "sq": sum(row.iou / row.tp if row.tp else 0 for row in rows) / len(rows),
            "rq": sum(row.tp / (row.tp + half) for row, half in zip(rows, halves, strict=True)) / len(rows),
        }
        return {**means, "n": len(rows)}, {}


def read(row: dict[str, Any], folder: str) -> PanopticMap:
    segments = [Segment(s["id"], s["category_id"], s["area"], (0, 0, 0, 0), s["iscrowd"]) for s in row["segments_info"]]
    return PanopticMap(read_panoptic_png(Path(folder) / row["file_name"]), tuple(segments))


def count(number: int, pairs: list[Any], truth_pngs: str, predicted_pngs: str, categories: Any) -> Statistics:
    print("Core:", number)
    statistics = Statistics()
    for truth, prediction in pairs:
        counts = oracle([(read(prediction, predicted_pngs), read(truth, truth_pngs))])
        for category, values in counts.items():
            for name, value in zip(("iou", "tp", "fp", "fn"), values, strict=True):
                setattr(statistics[category], name, getattr(statistics[category], name) + value)
    return statistics


@pytest.fixture
def fake_panopticapi(monkeypatch: pytest.MonkeyPatch) -> None:
    module, package = ModuleType("panopticapi.evaluation"), ModuleType("panopticapi")
    package.evaluation = module  # type: ignore[attr-defined]
    module.PQStat, module.pq_compute_single_core = Statistics, count  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "panopticapi", package)
    monkeypatch.setitem(sys.modules, "panopticapi.evaluation", module)


@pytest.mark.usefixtures("fake_panopticapi")
@pytest.mark.parametrize("count", [0, 1, 20])
def test_equal_results_pass_silently(count: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pairs = seeded_pairs(count, seed=12)
    cross_check(*written(pairs, tmp_path), measured(pairs))
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("fake_panopticapi")
def test_category_ids_of_the_predictions_may_differ(tmp_path: Path) -> None:
    pairs = seeded_pairs(5, seed=13)
    files, result = written(pairs, tmp_path), measured(pairs)
    content = json.loads(files[2].read_text())
    for segment in (segment for row in content["annotations"] for segment in row["segments_info"]):
        segment["category_id"] += 1000
    files[2].write_text(json.dumps(content))
    cross_check(*files, result, None, {category.id + 1000: category.id for category in TABLE.categories})
    with pytest.raises(PanformerError, match="expected a difference of at most"):
        cross_check(*files, result)


@pytest.mark.usefixtures("fake_panopticapi")
def test_a_data_set_without_stuff_can_be_checked(tmp_path: Path) -> None:
    pairs = [(panoptic([[1, 1, 0]], {1: DOG}), panoptic([[1, 1, 1]], {1: DOG}))]
    result = measured(pairs)
    assert result.stuff.n == 0
    cross_check(*written(pairs, tmp_path), result)


@pytest.mark.usefixtures("fake_panopticapi")
def test_the_first_difference_is_reported(tmp_path: Path) -> None:
    pairs = seeded_pairs(20, seed=13)
    files, result = written(pairs, tmp_path), measured(pairs)
    cat, dog, sea, sky = result.categories
    wrong = replace(result, categories=(cat, replace(dog, pq=dog.pq + 2e-10), sea, replace(sky, pq=0.0)))
    with pytest.raises(
        PanformerError, match=r"prediction.json: PQ of category 18 \(dog\) is 0\.\d+ here and 0\.\d+ in"
    ):
        cross_check(*files, wrong)
    cross_check(*files, replace(wrong, categories=(cat, replace(dog, pq=dog.pq + 1e-12), sea, sky)))
    with pytest.raises(PanformerError, match="N of stuff is 1 here and 2 in panopticapi"):
        cross_check(*files, replace(result, stuff=replace(result.stuff, n=1)))


@pytest.mark.usefixtures("fake_panopticapi")
def test_categories_that_only_panopticapi_counts_are_detected(tmp_path: Path) -> None:
    pairs = [(panoptic([[1, 1, 1]], {1: DOG}), panoptic([[0, 0, 5]], {5: DOG}, areas={5: 1}))]
    empty = PanopticQuality(TABLE).result()
    with pytest.raises(PanformerError, match=r"PQ of category 18 \(dog\) is 0.0 here and 1.0"):
        cross_check(*written(pairs, tmp_path), empty)


def test_without_panopticapi_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "panopticapi.evaluation", None)
    with pytest.raises(PanformerError, match="is not installed; install it with `pip install --no-deps panoptic"):
        cross_check(*written([], tmp_path), measured([]))
