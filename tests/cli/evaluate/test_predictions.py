"""`panformer evaluate predictions`: metrics, inconsistent ground truth, comparison with panopticapi."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.evaluate.test_corrupt_input import Change, annotation, edit, with_segment, without
from tests.data.coco.pair_files import Content, Pairs, true_iou, write_pairs
from tests.helpers import run


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    return write_pairs(tmp_path / "data")


def metrics_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    """Return the metrics that `panformer evaluate ARGUMENTS --json` prints, and stderr."""
    capsys.readouterr()
    assert run("evaluate", *arguments, "--json") == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    content: dict[str, Any] = json.loads(out)
    return content, err


def test_the_metrics_match_those_computed_by_hand(
    pairs: Pairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics, err = metrics_of(capsys, *pairs.words, "--out", str(tmp_path / "out"))
    boxes, skies = zip(*(true_iou(number) for number in range(3)), strict=True)
    box, sky = (100 * sum(ious) / 3 for ious in (boxes, skies))
    panoptic = metrics["panoptic"]
    assert panoptic["all"] == pytest.approx(
        {"pq": (box + sky) / 2, "sq": (box + sky) / 2, "rq": 100, "n": 2}, abs=1e-12
    )
    assert panoptic["things"]["pq"] == pytest.approx(box, abs=1e-12)
    assert panoptic["stuff"]["pq"] == pytest.approx(sky, abs=1e-12)
    assert set(panoptic["per_class"]) == {"7", "200"}
    assert (panoptic["per_class"]["7"]["tp"], panoptic["per_class"]["7"]["fp"]) == (3, 0)
    assert metrics["images"] == 3
    assert metrics["disagreements"]["images"] == 0
    assert "Warning" not in err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "analysis.json", "records.jsonl"}


def test_the_tables_show_the_metrics(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", *pairs.words, "--metrics", "panoptic,boundary,semantic", "--bootstrap", "20") == 0
    out = capsys.readouterr().out
    boxes, skies = zip(*(true_iou(number) for number in range(3)), strict=True)
    assert f"{100 * sum(boxes) / 3:.1f}" in out
    assert f"{100 * sum(skies) / 3:.1f}" in out
    for title in ("Panoptic quality of 3 images", "Boundary PQ", "Semantic segmentation", "Where PQ was lost"):
        assert title in out


def test_png_folders_can_be_elsewhere(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    before, _ = metrics_of(capsys, *pairs.words)
    words = list(pairs.words)
    for option, side in (("--pred-folder", pairs.prediction), ("--gt-folder", pairs.truth)):
        moved = side.pngs.with_name(f"moved-{side.pngs.name}")
        side.pngs.rename(moved)
        words += [option, str(moved)]
    after, _ = metrics_of(capsys, *words)
    assert after["panoptic"] == before["panoptic"]


def surplus(content: Content) -> None:
    content["annotations"].append({"image_id": 999, "file_name": "none.png", "segments_info": []})


def listed_without_annotation(content: Content) -> None:
    content["images"].append({"id": 999, "file_name": "none.jpg"})


@pytest.mark.parametrize(
    ("which", "change"),
    [
        pytest.param("prediction", edit(surplus), id="prediction of an unknown image"),
        pytest.param("prediction", edit(lambda content: content.update(images=7, categories="x")), id="other keys"),
        pytest.param("prediction", with_segment(score=None), id="score null"),
        pytest.param("prediction", with_segment(area=1, bbox=[0, 0, 1, 1]), id="wrong area of a prediction"),
        pytest.param("prediction", edit(lambda c: c["annotations"].reverse()), id="another order of predictions"),
        pytest.param("truth", edit(lambda c: c["annotations"].reverse()), id="another order of annotations"),
        pytest.param("truth", edit(listed_without_annotation), id="image without an annotation"),
        pytest.param("truth", without("area"), id="area left out"),
        pytest.param("truth", without("bbox"), id="bbox left out"),
        pytest.param("truth", without("iscrowd"), id="iscrowd left out"),
    ],
)
def test_harmless_differences_are_accepted(
    which: str, change: Change, pairs: Pairs, capsys: pytest.CaptureFixture[str]
) -> None:
    before, _ = metrics_of(capsys, *pairs.words)
    change(getattr(pairs, which))
    after, err = metrics_of(capsys, *pairs.words)
    assert after["panoptic"] == before["panoptic"]
    assert "Warning" not in err


def no_annotation(content: Content) -> None:
    content.update(images=[], annotations=[])


def test_a_ground_truth_without_annotations_is_refused(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    pairs.truth.edit(no_annotation)
    assert run("evaluate", *pairs.words) == 2
    assert "annotates none of its " in capsys.readouterr().err


def test_empty_predictions_miss_every_segment(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        pairs.prediction.draw(lambda ids: ids.fill(0), number)
    pairs.prediction.edit(lambda c: [row.update(segments_info=[]) for row in c["annotations"]])
    metrics, _ = metrics_of(capsys, *pairs.words)
    assert metrics["panoptic"]["all"] == {"pq": 0, "sq": 0, "rq": 0, "n": 2}
    assert [row["fn"] for row in metrics["panoptic"]["per_class"].values()] == [3, 3]


# --- inconsistent ground truth


def make_inconsistent(pairs: Pairs) -> None:
    """Image 100: a wrong area. 101: a listed segment without pixels. 102: pixels that are not listed."""
    pairs.truth.edit(lambda c: annotation(c, 0)["segments_info"][1].update(area=150))
    pairs.truth.edit(lambda c: annotation(c, 1)["segments_info"].append({"id": 8, "category_id": 3, "area": 5}))
    pairs.truth.draw(lambda ids: ids.__setitem__((slice(35, 37), slice(0, 3)), 4711), 2)


def test_inconsistencies_are_counted_and_listed(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    make_inconsistent(pairs)
    metrics, err = metrics_of(capsys, *pairs.words)
    assert metrics["disagreements"] == {
        "images": 3,
        "first": [
            ["0.jpg", "areas of segments 70000 differ from their pixel counts"],
            ["1.jpg", "segments 8 have no pixels"],
            ["2.jpg", "6 pixels belong to no listed segment"],
        ],
    }
    (line,) = [line for line in err.splitlines() if line.startswith("Warning: ")]
    for words in ("0.jpg", "1.jpg", "2.jpg", "in 3 images", "prepare-data verify", "--fix", str(pairs.truth.json)):
        assert words in line
    # by hand: 180 pixels shared, 200 predicted, an area of 150
    ious = [180 / (200 + 150 - 180), true_iou(1)[0], true_iou(2)[0]]
    per_class = metrics["panoptic"]["per_class"]
    assert per_class["7"]["sq"] == pytest.approx(100 * sum(ious) / 3, abs=1e-12)
    assert (per_class["3"]["fn"], per_class["3"]["pq"]) == (1, 0)


def test_the_first_ten_inconsistencies_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write_pairs(tmp_path, 12)
    pairs.truth.edit(lambda c: [row["segments_info"][0].update(area=7) for row in c["annotations"]])
    metrics, err = metrics_of(capsys, *pairs.words)
    assert metrics["disagreements"]["images"] == 12
    assert [name for name, _ in metrics["disagreements"]["first"]] == sorted(f"{k}.jpg" for k in range(12))[:10]
    assert "in 12 images" in err
    assert err.count(".jpg") == 3


# --- comparison with panopticapi


@pytest.mark.parametrize("change", [lambda pairs: None, make_inconsistent], ids=["consistent", "inconsistent"])
def test_json_equals_panopticapi(
    change: Callable[[Pairs], Any], pairs: Pairs, capsys: pytest.CaptureFixture[str]
) -> None:
    api = pytest.importorskip("panopticapi.evaluation", reason="needs panopticapi")
    change(pairs)
    metrics, _ = metrics_of(capsys, *pairs.words)
    truth, prediction = (json.loads(side.json.read_text()) for side in (pairs.truth, pairs.prediction))
    for row in truth["annotations"]:
        for listed in row["segments_info"]:
            listed.setdefault("iscrowd", 0)  # panopticapi requires it
    categories = {row["id"]: row for row in truth["categories"]}
    rows = list(zip(truth["annotations"], prediction["annotations"], strict=True))
    statistics = api.pq_compute_single_core(0, rows, str(pairs.truth.pngs), str(pairs.prediction.pngs), categories)
    for group, isthing in (("all", None), ("things", True), ("stuff", False)):
        theirs, per_class = statistics.pq_average(categories, isthing)
        ours = metrics["panoptic"][group]
        assert ours["n"] == theirs["n"]
        for name in ("pq", "sq", "rq"):
            assert ours[name] / 100 == pytest.approx(theirs[name], rel=0, abs=1e-12)
            for category_id, values in per_class.items():
                row = metrics["panoptic"]["per_class"].get(str(category_id), {name: 0})
                assert row[name] / 100 == pytest.approx(values[name], rel=0, abs=1e-12)


def test_cross_check_agrees(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("panopticapi.evaluation", reason="needs panopticapi")
    _, err = metrics_of(capsys, *pairs.words, "--cross-check")
    assert "panopticapi computes the same metrics" in err


def test_cross_check_reports_a_difference(
    pairs: Pairs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = pytest.importorskip("panopticapi.evaluation", reason="needs panopticapi")

    class Different(api.PQStat):  # type: ignore[name-defined, misc]
        def pq_average(self, *arguments: Any) -> Any:
            means, per_class = super().pq_average(*arguments)
            return {**means, "sq": means["sq"] + 1e-9}, per_class

    monkeypatch.setattr(api, "PQStat", Different)
    assert run("evaluate", *pairs.words, "--cross-check") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "SQ of category 7 (box) is" in err.splitlines()[-1]
    assert "expected a difference of at most 1e-12" in err.splitlines()[-1]


def test_cross_check_without_panopticapi_prints_how_to_install_it(
    pairs: Pairs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "panopticapi.evaluation", None)
    out = pairs.prediction.json.parent / "out"
    assert run("evaluate", *pairs.words, "--out", str(out), "--cross-check") == 2
    assert "panopticapi, which is not installed; install it with `pip install --no-deps" in capsys.readouterr().err
    assert not out.exists(), "reported before anything is evaluated"
