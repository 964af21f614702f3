"""Evaluating a checkpoint, and evaluating its predictions on the same images, give the same result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from panformer_cli.data.coco import annotation_index
from panformer_cli.engine.evaluation.compare import CompareOptions
from panformer_cli.engine.evaluation.compare_inputs import compare_inputs
from panformer_cli.engine.evaluation.cross_check import check_against_panopticapi
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.evaluation.evaluate_predictions import PredictionsRequest, evaluate_predictions
from panformer_cli.engine.evaluation.report import report_evaluation
from panformer_cli.engine.inputs.find import find_images
from panformer_cli.engine.predict import PredictRequest, predict
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import DataError
from panformer_cli.reporting import SilentReporter
from tests.engine.small import ALONE, StopAfter

NAMES = ["1.png", "10.png", "2.png", "3.png"]
"""In the order of a listing: the ids 0, 1, 2, 3 of a converted data set are not the numbers in the names."""


@pytest.fixture
def data(scenes: Path, tmp_path: Path) -> Path:
    """Return a copy of the scenes whose images are called `NAMES`."""
    root = shutil.copytree(scenes, tmp_path / "data")
    annotation = root / "annotations" / "panoptic_val.json"
    content = json.loads(annotation.read_text())
    for image, name in zip(content["images"], NAMES, strict=True):
        (root / "images" / "val" / image["file_name"]).rename(root / "images" / "val" / name)
        image["file_name"] = name
    annotation.write_text(json.dumps(content))
    return root


def predicted(trained: RunFolder, images: Path, out: Path, ids_from: Path | None = None) -> dict[int, str]:
    """Predict a folder, and return the file name of each image id."""
    result = predict(PredictRequest([str(images)], trained.best, out, ids_from=ids_from), ALONE, SilentReporter())
    return {image["id"]: image["file_name"] for image in result.content["images"]}


def evaluated(out: Path, data: Path, reporter: Any = None) -> dict[str, Any]:
    request = PredictionsRequest(
        out / "panoptic.json", data / "annotations" / "panoptic_val.json", out.with_name(f"{out.name}_metrics")
    )
    return evaluate_predictions(request, ALONE, reporter or SilentReporter())


@pytest.mark.slow
def test_predictions_of_copied_images_give_the_result_of_the_checkpoint(
    trained: RunFolder, data: Path, tmp_path: Path
) -> None:
    expected = evaluate(EvaluateRequest(trained.best, tmp_path / "eval", data, "val"), ALONE, SilentReporter())
    photos = shutil.copytree(data / "images" / "val", tmp_path / "photos")
    assert predicted(trained, photos, tmp_path / "out") == {1: "1.png", 10: "10.png", 2: "2.png", 3: "3.png"}
    reporter = StopAfter()
    metrics = evaluated(tmp_path / "out", data, reporter)
    assert metrics["panoptic"] == expected["panoptic"] and metrics["intervals"] == expected["intervals"]
    assert [message for message in reporter.messages if "paired by file name" in message]
    check_against_panopticapi(tmp_path / "out_metrics")
    report_evaluation(tmp_path / "out_metrics", tmp_path / "report", SilentReporter())
    same = compare_inputs(
        (tmp_path / "out" / "panoptic.json", tmp_path / "eval" / "panoptic.json"),
        data / "annotations" / "panoptic_val.json",
        None,
        CompareOptions(resamples=10),
        SilentReporter(),
    )
    assert same.difference()["all"]["pq"] == 0 and not same.gained and not same.lost


@pytest.mark.slow
def test_images_of_a_data_set_get_its_ids(trained: RunFolder, data: Path, tmp_path: Path) -> None:
    ids = dict(enumerate(NAMES))
    assert predicted(trained, data / "images" / "val", tmp_path / "out") == ids
    photos = shutil.copytree(data / "images" / "val", tmp_path / "photos")
    annotation = data / "annotations" / "panoptic_val.json"
    assert predicted(trained, photos, tmp_path / "other", annotation) == ids
    assert "paired" not in str(evaluated(tmp_path / "out", data, reporter := StopAfter())) and not reporter.messages


def test_single_files_of_a_data_set_get_its_ids(data: Path, tmp_path: Path) -> None:
    images = data / "images" / "val"
    found = find_images([str(images / "3.png"), str(images / "10.png")], tmp_path / "out")
    assert [image.id for image in found.images] == [3, 1]
    assert found.notes == [f"Image ids are those of {data / 'annotations' / 'panoptic_val.json'}"]


def test_no_index_is_built_for_ids_but_one_is_used(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_index, "SMALLEST", 0)
    annotation = data / "annotations" / "panoptic_val.json"
    before = set(data.rglob("*"))

    def ids() -> list[int | str]:
        return [image.id for image in find_images([str(data / "images" / "val")], tmp_path / "out").images]

    expected = ids()
    assert set(data.rglob("*")) == before and sorted(map(int, expected)) == [0, 1, 2, 3]
    annotation_index.open_annotation(annotation)
    monkeypatch.setattr("panformer_cli.engine.inputs.ids.read_image_ids", None)
    assert ids() == expected


def test_ids_are_not_taken_from_a_data_set_that_lacks_an_image(data: Path, tmp_path: Path) -> None:
    images = data / "images" / "val"
    shutil.copy(images / "1.png", images / "new.png")
    found = find_images([str(images)], tmp_path / "out")
    assert [image.id for image in found.images] == [1, 2, 3, 4, 5]
    annotation = data / "annotations" / "panoptic_val.json"
    start = f"Image ids are not those of {annotation}, which "
    assert found.notes == [f"{start}does not list 1 of 5 images (first new.png)"]
    annotation.write_text(annotation.read_text()[:-20])
    found = find_images([str(images / "3.png")], tmp_path / "out")
    assert found.images[0].id == 3 and found.notes[0].startswith(f"{start}cannot be used; check it")


def test_a_json_that_does_not_list_an_image_is_refused(data: Path, tmp_path: Path) -> None:
    annotation = data / "annotations" / "panoptic_val.json"
    shutil.copy(data / "images" / "val" / "1.png", tmp_path / "new.png")
    with pytest.raises(DataError, match=r"does not list 1 of 1 image \(.*new\.png\)"):
        find_images([str(tmp_path / "new.png")], tmp_path / "out", annotation)


def test_an_image_info_without_annotations_gives_ids(tmp_path: Path, data: Path) -> None:
    info = tmp_path / "image_info.json"
    rows = [{"id": f"id{k}", "file_name": f"val/{name}"} for k, name in enumerate(NAMES)]
    info.write_text(json.dumps({"images": rows}))
    found = find_images([str(data / "images" / "val")], tmp_path / "out", info)
    assert [image.id for image in found.images] == ["id0", "id1", "id2", "id3"]
