"""The report and the cross-check of an evaluation, from its result folder alone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from panformer_cli.engine.evaluation.cross_check import check_against_panopticapi
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.evaluation.evaluate_predictions import PredictionsRequest, evaluate_predictions
from panformer_cli.engine.evaluation.report import report_evaluation
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import PanformerError
from panformer_cli.reporting import SilentReporter
from tests.data.coco.pair_files import Pairs, write_pairs
from tests.engine.small import ALONE, StopAfter

QUIET = SilentReporter()


@pytest.fixture(scope="module")
def evaluated(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the result folder of an evaluation of the trained run."""
    out = tmp_path_factory.mktemp("evaluated")
    evaluate(EvaluateRequest(trained.best, out, resamples=10), ALONE, QUIET)
    return out


def offline(folder: Path) -> tuple[Pairs, Path]:
    pairs, out = write_pairs(folder / "data"), folder / "out"
    evaluate_predictions(PredictionsRequest(pairs.prediction.json, pairs.truth.json, out, resamples=10), ALONE, QUIET)
    return pairs, out


@pytest.mark.slow
def test_a_report_of_a_checkpoint(evaluated: Path, tmp_path: Path) -> None:
    page = report_evaluation(evaluated, tmp_path / "report", QUIET)
    assert page == tmp_path / "report" / "index.html"
    text = page.read_text(encoding="utf-8")
    metrics = json.loads((evaluated / "metrics.json").read_text())
    for name in ("all", "things", "stuff"):
        assert f"{metrics['panoptic'][name]['pq']:.1f}" in text
    for number in range(4):
        assert f"{number:06d}.png" in text


@pytest.mark.slow
def test_reports_of_the_same_folder_are_the_same(evaluated: Path, tmp_path: Path) -> None:
    pages = [report_evaluation(evaluated, tmp_path / name, QUIET).read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"), [("panoptic.json", "panoptic.json is missing"), ("panoptic", r"\.png is missing")]
)
def test_a_missing_file_is_named(name: str, said: str, evaluated: Path, tmp_path: Path) -> None:
    copy = tmp_path / "evaluation"
    shutil.copytree(evaluated, copy)
    metrics = copy / "metrics.json"
    metrics.write_text(metrics.read_text().replace(str(evaluated), str(copy)))
    gone = copy / name
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(PanformerError, match=said) as caught:
        report_evaluation(copy, tmp_path / "report", StopAfter())
    assert "\n" not in str(caught.value)


def test_names_that_point_outside_are_rejected(tmp_path: Path) -> None:
    pairs, out = offline(tmp_path)
    pairs.truth.edit(lambda content: content["images"][1].update(file_name="../../secret.jpg"))
    with pytest.raises(PanformerError, match=r"'\.\./\.\./secret\.jpg' points outside"):
        report_evaluation(out, tmp_path / "report", QUIET)


def test_a_truncated_line_is_named(tmp_path: Path) -> None:
    _, out = offline(tmp_path)
    records = out / "records.jsonl"
    records.write_text(records.read_text()[:-30])
    with pytest.raises(PanformerError, match=r"records\.jsonl, line 3 is corrupt or truncated"):
        report_evaluation(out, tmp_path / "report", QUIET)


@pytest.mark.parametrize(
    ("before", "after"), [(b'"image_id": ', b'"image_id": []}\xff'), (b'"image_id": 100', b'"image_id": [100]')]
)
def test_lines_that_cannot_be_read_are_named(before: bytes, after: bytes, tmp_path: Path) -> None:
    _, out = offline(tmp_path)
    records = out / "records.jsonl"
    content = records.read_bytes()
    assert before in content
    records.write_bytes(content.replace(before, after))
    with pytest.raises(PanformerError, match=r"records\.jsonl, line \d is corrupt or truncated"):
        report_evaluation(out, tmp_path / "report", QUIET)


def test_panopticapi_agrees_with_the_metrics_of_a_checkpoint(evaluated: Path) -> None:
    pytest.importorskip("panopticapi.evaluation", reason="panopticapi is not installed")
    check_against_panopticapi(evaluated)


def test_panopticapi_disagrees_with_changed_overlaps(tmp_path: Path) -> None:
    pytest.importorskip("panopticapi.evaluation", reason="panopticapi is not installed")
    pairs, out = offline(tmp_path)
    check_against_panopticapi(out)
    pairs.truth.edit(lambda content: content["annotations"][0]["segments_info"][1].update(area=150))
    with pytest.raises(PanformerError, match=r"PQ of category 7 \(box\) is"):
        check_against_panopticapi(out)


def test_the_cross_check_needs_panopticapi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out = offline(tmp_path)
    monkeypatch.setitem(sys.modules, "panopticapi.evaluation", None)
    with pytest.raises(PanformerError, match="panopticapi, which is not installed"):
        check_against_panopticapi(out)


def test_an_evaluation_can_be_in_the_folder_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in the result folder are stored as relative paths, and found from any current folder."""
    pairs = write_pairs(tmp_path / "data")
    out = tmp_path / "data"
    evaluate_predictions(PredictionsRequest(pairs.prediction.json, pairs.truth.json, out, resamples=10), ALONE, QUIET)
    assert json.loads((out / "metrics.json").read_text())["annotation"] == "truth.json"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    check_against_panopticapi(out)
    page = report_evaluation(out, tmp_path / "report", QUIET)
    assert page.is_file()
