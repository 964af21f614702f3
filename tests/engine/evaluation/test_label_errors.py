"""The list and the page of probable label errors, from evaluations of any kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.evaluation.evaluate_predictions import PredictionsRequest, evaluate_predictions
from panformer_cli.engine.evaluation.label_errors import report_label_errors
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.reporting import SilentReporter
from tests.data.coco.coco_files import BALL, BOX, SKY
from tests.data.coco.pair_files import Content, Pairs, write_pairs
from tests.engine.evaluation.test_evaluate_resume import stop_after
from tests.engine.ranks import in_processes
from tests.engine.small import ALONE
from tests.helpers import files_of
from tests.pages.html import Html

QUIET = SilentReporter()
IMAGES = 12


def confident(content: Content) -> None:
    for row in content["annotations"]:
        for segment in row["segments_info"]:
            segment["score"] = 0.9


def box_is_ball(content: Content) -> None:
    (box,) = (segment for segment in content["annotations"][4]["segments_info"] if segment["category_id"] == BOX)
    box["category_id"] = BALL


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """Twelve images. In the annotation, the box of image 4 is a ball, and that of image 7 is part of the sky."""
    made = write_pairs(tmp_path / "data", IMAGES)
    made.prediction.edit(confident)
    made.truth.edit(box_is_ball)
    made.truth.draw(lambda ids: np.copyto(ids, 300, where=ids == 70007), number=7)
    made.truth.edit(lambda content: content["annotations"][7]["segments_info"].pop(1))
    made.truth.edit(lambda content: content["annotations"][7]["segments_info"][0].update(area=1200))
    return made


def request_of(pairs: Pairs, out: Path) -> PredictionsRequest:
    return PredictionsRequest(pairs.prediction.json, pairs.truth.json, out, resamples=0, needs_scores=True)


def found(pairs: Pairs, out: Path, limit: int = 200) -> dict[str, Any]:
    evaluate_predictions(request_of(pairs, out), ALONE, QUIET)
    return report_label_errors(out, limit, QUIET)


def test_the_list(pairs: Pairs, tmp_path: Path) -> None:
    content = found(pairs, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "label_errors.json").read_text()) == content
    assert (content["images"], content["annotation"]) == (IMAGES, str(pairs.truth.json))
    # 10 of 12 boxes match: the confidence is 0.9 x 20 / (12 x 0.9 + 10).
    confidence = 0.9 * 20 / 20.8
    rarity = 0.033 / (0.033 + 1 / 20)
    first, second = content["suspects"]
    assert first == {
        "image_id": 107,
        "file_name": "7.jpg",
        "kind": "missing_annotation",
        "score": pytest.approx(confidence * rarity),
        "confidence": pytest.approx(confidence),
        "clarity": 1,
        "rarity": pytest.approx(rarity),
        "truth": [{"id": 300, "category_id": SKY}],
        "predictions": [{"id": 2, "category_id": BOX, "score": 0.9}],
        "box": [12, 5, 27, 10],
        "reason": "The model sees box where the annotation has sky.",
    }
    assert (second["image_id"], second["kind"]) == (104, "wrong_class")
    assert second["score"] == pytest.approx(confidence * rarity * 220 / 260)  # 24 columns, shifted by 2
    assert content["kinds"] == {**dict.fromkeys(content["kinds"], 0), "missing_annotation": 1, "wrong_class": 1}


def test_the_page(pairs: Pairs, tmp_path: Path) -> None:
    found(pairs, tmp_path / "out")
    folder = tmp_path / "out" / "label_errors"
    page = Html.of_file(folder / "index.html")
    pictures = [image for image in page.all("img") if image.get("src")]
    assert [image["src"] for image in pictures] == ["images/00001.jpg", "images/00002.jpg"]
    assert "1. Missing annotation: 7.jpg" in page.text and "2. Wrong class: 4.jpg" in page.text
    assert "Segments in the annotation: 300; in the prediction: 2" in page.text
    thumbnail = cv2.imread(str(folder / "images" / "00001.jpg"))
    assert thumbnail is not None
    assert (pictures[0]["height"], pictures[0]["width"]) == tuple(map(str, thumbnail.shape[:2]))


def test_the_page_is_limited_and_the_list_is_not(pairs: Pairs, tmp_path: Path) -> None:
    content = found(pairs, tmp_path / "out", limit=1)
    page = Html.of_file(tmp_path / "out" / "label_errors" / "index.html")
    assert len(content["suspects"]) == 2 and len(page.all("figure")) == 1
    assert "The page shows the first 1 of 2" in page.text


def test_thumbnails_of_a_longer_list_are_deleted(pairs: Pairs, tmp_path: Path) -> None:
    found(pairs, tmp_path / "out")
    report_label_errors(tmp_path / "out", 1, QUIET)
    assert [path.name for path in (tmp_path / "out" / "label_errors" / "images").iterdir()] == ["00001.jpg"]


@pytest.mark.slow
def test_other_images_in_the_folder_of_the_page_are_kept(pairs: Pairs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found(pairs, out)
    mine = out / "label_errors" / "images" / "12345.jpg"
    mine.write_text("mine")
    report_label_errors(out, 1, QUIET)
    assert sorted(path.name for path in mine.parent.iterdir()) == ["00001.jpg", mine.name]
    evaluate_predictions(request_of(pairs, out), ALONE, QUIET)
    assert [path for path in (out / "label_errors").rglob("*") if path.is_file()] == [mine]


def test_a_page_that_fails_leaves_the_earlier_one(pairs: Pairs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found(pairs, out, limit=1)
    before = files_of(out)
    png = pairs.truth.pngs / "4.png"  # of the second suspect
    png.write_bytes(png.read_bytes()[:50])
    with pytest.raises(DataError, match=r"4\.png"):
        report_label_errors(out, 200, QUIET)
    assert files_of(out) == before


@pytest.mark.slow
def test_files_of_another_program_are_not_replaced(pairs: Pairs, tmp_path: Path) -> None:
    found(pairs, tmp_path / "whole")
    whole = files_of(tmp_path / "whole")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("metrics.json", "analysis.json", "records.jsonl"):
        (out / name).write_text('{"accuracy": 0.9}')
        with pytest.raises(PanformerError, match=rf"{name} is not a result of panformer and would be replaced"):
            evaluate_predictions(request_of(pairs, out), ALONE, QUIET)
        assert (out / name).read_text() == '{"accuracy": 0.9}'
        (out / name).unlink()
    (out / "label_errors.json").write_text("[]")
    with pytest.raises(PanformerError, match=r"label_errors\.json is not a result of panformer"):
        found(pairs, out)
    assert (out / "label_errors.json").read_text() == "[]"
    (out / "label_errors.json").unlink()
    found(pairs, out)
    for name in ("metrics.json", "analysis.json"):
        (out / name).unlink()  # as if the evaluation was killed
        evaluate_predictions(request_of(pairs, out), ALONE, QUIET)
    assert files_of(out).keys() == {"metrics.json", "analysis.json", "records.jsonl"} < whole.keys()


@pytest.mark.slow
def test_photos_are_shown_if_there_are_any(pairs: Pairs, tmp_path: Path) -> None:
    found(pairs, tmp_path / "maps")
    metrics = json.loads((tmp_path / "maps" / "metrics.json").read_text())
    photos = Path(metrics["photos"])
    photos.mkdir(parents=True, exist_ok=True)
    for number in range(IMAGES):
        cv2.imwrite(str(photos / f"{number}.jpg"), np.full((40, 60, 3), 200, np.uint8))
    found(pairs, tmp_path / "photos")
    small, large = (cv2.imread(str(tmp_path / name / "label_errors/images/00001.jpg")) for name in ("maps", "photos"))
    assert small is not None and large is not None
    assert large.shape[1] > 1.4 * small.shape[1]  # three panels instead of two
    assert large[100, 100].tolist() == pytest.approx([200] * 3, abs=3)


def test_a_correct_data_set_has_no_suspects(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data", IMAGES)
    pairs.prediction.edit(confident)
    content = found(pairs, tmp_path / "out")
    assert content["suspects"] == []
    assert "No probable label errors were found." in Html.of_file(tmp_path / "out/label_errors/index.html").text


def test_predictions_without_scores_are_refused_and_nothing_is_written(pairs: Pairs, tmp_path: Path) -> None:
    def without_scores(content: Content) -> None:
        for row in content["annotations"]:
            for segment in row["segments_info"]:
                del segment["score"]

    pairs.prediction.edit(without_scores)
    with pytest.raises(DataError, match="has no segment with a `score`; expected scores in segments_info"):
        found(pairs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _evaluate(process: Process, request: PredictionsRequest) -> None:
    evaluate_predictions(request, process, QUIET)


@pytest.mark.slow
def test_two_processes_give_the_same_files(pairs: Pairs, tmp_path: Path) -> None:
    found(pairs, tmp_path / "one")
    in_processes(2, _evaluate, request_of(pairs, tmp_path / "two"))
    report_label_errors(tmp_path / "two", 200, QUIET)
    one, two = (files_of(tmp_path / name) for name in ("one", "two"))
    assert one == two and "label_errors.json" in one


def test_a_new_evaluation_discards_the_list(pairs: Pairs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found(pairs, out)
    evaluate_predictions(request_of(pairs, out), ALONE, QUIET)
    assert not (out / "label_errors.json").exists() and not (out / "label_errors").exists()


@pytest.mark.slow
def test_a_resumed_evaluation_of_a_model_gives_the_same_list(
    trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    request = EvaluateRequest(trained.best, out, resamples=0)
    evaluate(request, ALONE, QUIET)
    report_label_errors(out, 200, QUIET)
    whole = files_of(out)
    assert "label_errors.json" in whole
    shutil.rmtree(out)
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(request, ALONE, QUIET)
    evaluate(EvaluateRequest(trained.best, out, resamples=0, resume=True), ALONE, QUIET)
    report_label_errors(out, 200, QUIET)
    assert files_of(out) == whole
