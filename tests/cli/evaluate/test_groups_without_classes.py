"""A ground truth of stuff and void: things have no PQ, which is not a PQ of 0, and predictions on void do not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panformer_cli.cli.tables import print_causes, print_metrics, print_robustness, print_tuning
from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.engine.curves import curves
from panformer_cli.engine.evaluation.evaluate import Samples
from panformer_cli.engine.evaluation.result_store import ResultStore
from panformer_cli.engine.evaluation.robustness import CorruptedImages, RobustnessOptions, measure_robustness
from panformer_cli.engine.evaluation.tune import CachedImages, Search
from panformer_cli.engine.visualize import _quality_tables
from panformer_cli.metrics.bootstrap import VERDICTS
from panformer_cli.models.panoptic_segformer.merge_cache import MergeCache
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from panformer_cli.reporting import SilentReporter
from tests.cli.evaluate.test_predictions import metrics_of
from tests.data.coco.pair_files import Pairs, Side, write_pairs
from tests.helpers import run
from tests.pages.html import Html
from tests.prepare.reporters import RecordingReporter


def keep_sky(side: Side, sky: int) -> None:
    """Make all but the sky void."""
    for number in range(3):
        side.draw(lambda ids: np.copyto(ids, 0, where=ids != sky), number)
    side.edit(
        lambda content: [
            row.update(segments_info=[one for one in row["segments_info"] if one["id"] == sky])
            for row in content["annotations"]
        ]
    )


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """Image k of 60 x 40 has 1000 - 10 k pixels of sky; the prediction is as large, with 20 pixels on void."""
    pairs = write_pairs(tmp_path / "data")
    keep_sky(pairs.truth, 300)
    keep_sky(pairs.prediction, 1)
    return pairs


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_tables_show_a_dash(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", *pairs.words, "--metrics", "panoptic,boundary,semantic", "--bootstrap", "20") == 0
    found = rows(capsys.readouterr().out)
    assert ["things", "–", "–", "–", "0", "–"] in found  # panoptic quality
    assert ["medium", "–", "–", "–", "0"] in found
    assert ["things", "–", "–", "–", "0"] in found  # boundary PQ
    assert ["things", *["–"] * 7] in found  # lost points by cause
    (stuff,) = (row for row in found if row[:1] == ["stuff"] and len(row) == 8 and "to" in row)
    assert stuff[1:5] == ["98.0", "98.0", "100.0", "1"]  # 980 of 1000 shared, and 20 predicted on void


def test_metrics_stay_numbers_in_json(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, _ = metrics_of(capsys, *pairs.words)
    assert metrics["panoptic"]["things"] == {"pq": 0.0, "sq": 0.0, "rq": 0.0, "n": 0}


def test_void_and_predictions_on_it_are_reported(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, err = metrics_of(capsys, *pairs.words)
    pixels, sky = 3 * 2400, 1000 + 990 + 980
    counts = {"segments": 3, "pixels": pixels, "void": pixels - sky, "predicted": sky, "predicted_on_void": 60}
    assert metrics["coverage"] == counts
    assert f"Warning: {pairs.truth.json}: 58.8 % of all pixels are void; predictions there do not count" in err
    assert (
        "58.8 % of the ground truth is void, where predictions do not count; 2.0 % of the predicted pixels are there"
        in err.splitlines()
    )


def test_little_void_is_not_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write_pairs(tmp_path / "full")
    for number in range(3):
        pairs.truth.draw(lambda ids: np.copyto(ids, 300, where=ids == 0), number)
    pairs.truth.edit(
        lambda content: [row["segments_info"][0].pop("area") for row in content["annotations"]],
    )
    metrics, err = metrics_of(capsys, *pairs.words)
    assert metrics["coverage"]["void"] == 0 and "void" not in err


def test_a_ground_truth_without_segments(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    keep_sky(pairs.truth, -1)
    assert run("evaluate", *pairs.words) == 0
    out, err = capsys.readouterr()
    assert f"Warning: {pairs.truth.json}: none of the 3 images has a segment" in err
    assert "100.0 % of the ground truth is void" in err and "100.0 % of the predicted pixels are there" in err
    for group in ("all", "things", "stuff"):
        assert [group, "–", "–", "–", "0", "–"] in rows(out)
    assert ["–", "–", "–", "0"] in rows(out)  # semantic


def test_a_comparison_shows_a_dash(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "compare", *[pairs.words[1]] * 2, *pairs.words[2:], "--bootstrap", "20") == 0
    found = rows(capsys.readouterr().out)
    assert ["things", *["–"] * 6] in found
    assert ["stuff", "98.0", "98.0", "0.0", "0.0", "to", "0.0", "–", *VERDICTS["same"].split()] in found


def test_the_page_of_a_comparison_shows_a_dash(pairs: Pairs, tmp_path: Path) -> None:
    words = [*[pairs.words[1]] * 2, *pairs.words[2:], "--bootstrap", "20", "--report", str(tmp_path / "report")]
    assert run("evaluate", "compare", *words) == 0
    lines = Html.of_file(tmp_path / "report" / "index.html").lines()
    assert "PQ, things––––" in lines and "RQ, things––––" in lines
    assert "PQ, stuff98.098.00.00.0 to 0.0" in lines
    keep_sky(pairs.truth, -1)
    assert run("evaluate", "compare", *words) == 0
    lines = Html.of_file(tmp_path / "report" / "index.html").lines()
    assert {"PQ of A–", "PQ of B–", "B - A, points–", "Result–", "PQ, all––––"} <= set(lines)


def test_the_report_shows_a_dash(pairs: Pairs, tmp_path: Path) -> None:
    words = ["--metrics", "panoptic,boundary,semantic", "--report", str(tmp_path / "report"), "--bootstrap", "20"]
    assert run("evaluate", *pairs.words, *words) == 0
    lines = Html.of_file(tmp_path / "report" / "index.html").lines()
    assert "PQ things–" in lines
    assert "Things–––0" in lines  # boundary PQ
    assert "Medium–––0" in lines


def test_results_of_earlier_versions_can_be_shown(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    metrics: dict[str, Any] = metrics_of(capsys, *pairs.words)[0]
    del metrics["coverage"], metrics["intervals"]
    print_metrics(metrics)
    groups = {name: {"total": 0.0, "missed": 0.0} for name in ("all", "things", "stuff")}
    print_causes({"causes": groups, "per_class": []})
    assert ["things", "–"] in rows(capsys.readouterr().out)


def compared(n: int) -> dict[str, Any]:
    side = {"all": {"pq": 0.0, "sq": 0.0, "rq": 0.0, "n": n}}
    difference = {"all": {"pq": 0.0}, "intervals": {"all": {"pq": [0.0, 0.0]}}}
    return {
        "images": 3,
        "a": side,
        "b": side,
        "difference": difference,
        "better": {"all": 0.0},
        "verdict": {"all": "same"},
        "images_needed": {"all": 1},
    }


@pytest.mark.parametrize(("n", "cell"), [(0, "–"), (1, "0.0")])
def test_tuning_without_classes(n: int, cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"before": {}, "after": {}, "searched": {"images": 3, "pq_before": 1.0, "pq_after": 1.0}, "gain": False}
    print_tuning({**content, "held_out": compared(n)})
    found = rows(capsys.readouterr().out)
    interval = ["–"] if n == 0 else ["0.0", "to", "0.0"]
    assert ["held", "out", "3", cell, cell, *interval] in found
    assert [cell, "not", "significant:", "the", "interval", "contains", "0"] in found


def test_the_searched_half_of_tune_without_classes() -> None:
    search = Search(CachedImages([], MergeCache.load), CategoryTable([Category(1, "car", True)]), SilentReporter())
    best = search.best_from(MergingSettings())
    assert search.pq(best) is None and search.known[best] == 0


def test_robustness_without_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fog hides all segments that are predicted where there are none."""
    reporter = RecordingReporter()

    def evaluate(samples: Samples) -> dict[str, Any]:
        is_empty = isinstance(samples, CorruptedImages) and samples.corruption == "fog" and samples.severity > 1
        return {"pq": 0.0 if is_empty else 40.0, "n": 0 if is_empty else 1}

    options = RobustnessOptions(("fog", "snow"), (1, 2))
    found = measure_robustness([], evaluate, options, ResultStore(tmp_path / "some", {}), reporter).to_json()
    fog, snow = found["rows"]
    assert fog["by_severity"] == {"1": 40, "2": None} and fog["pq"] == snow["pq"] == found["mean"] == 40
    assert reporter.messages[2] == "fog, severity 2: PQ –"
    print_robustness(found)
    assert ["fog", "weather", "40.0", "40.0", "–", "–"] in rows(capsys.readouterr().out)

    nothing = {"pq": 0.0, "n": 0}
    store = ResultStore(tmp_path / "none", {})
    found = measure_robustness([], lambda _: nothing, options, store, SilentReporter()).to_json()
    assert found["clean"] is found["mean"] is found["kept"] is None
    print_robustness(found)
    assert ["clean", "–", "–", "–", "–"] in rows(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"pq": 30.0, "pq_things": 0.0, "pq_stuff": 30.0, "n": 2}, {"PQ": 30, "PQ stuff": 30}),
        ({"pq": 30.0, "pq_things": 30.0, "pq_stuff": 0.0, "n": 2}, {"PQ": 30, "PQ things": 30}),
        ({"pq": 15.0, "pq_things": 0.0, "pq_stuff": 30.0, "n": 4}, {"PQ": 15, "PQ things": 0, "PQ stuff": 30}),
        ({"pq": 0.0, "pq_things": 0.0, "pq_stuff": 0.0, "n": 4}, {"PQ": 0, "PQ things": 0, "PQ stuff": 0}),
        ({"pq": 0.0, "pq_things": 0.0, "pq_stuff": 0.0, "n": 0}, {}),
    ],
)
def test_training_curves_leave_out_groups_without_classes(row: dict[str, Any], shown: dict[str, float]) -> None:
    charts = curves([{"kind": "eval", "step": 5, **row}])
    assert {series.name: series.points[0][1] for chart in charts for series in chart.series} == shown


def test_the_page_of_visualize_shows_a_dash(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    means, _ = _quality_tables(metrics_of(capsys, *pairs.words)[0]["panoptic"])
    assert list(means.rows[1]) == ["things", None, None, None, 0]
    assert means.rows[2][-1] == 1 and means.rows[2][1] == pytest.approx(98, abs=0.1)
