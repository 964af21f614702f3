"""A folder of results that is used twice has the results of one call, never those of both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.evaluation.evaluate_predictions import PredictionsRequest, evaluate_predictions
from panformer_cli.engine.evaluation.report import report_evaluation
from panformer_cli.engine.inputs.find import find_images
from panformer_cli.engine.predict import PredictRequest, predict
from panformer_cli.engine.results import PanopticResults
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.visualize import VisualizeRequest, visualize
from panformer_cli.errors import PanformerError
from panformer_cli.reporting import SilentReporter
from tests.data.coco.coco_files import write_coco
from tests.engine.small import ALONE


def images(folder: Path, *names: str) -> list[str]:
    """Write images and return their paths."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 40), (90, 120, 60)).save(folder / name)
    return [str(folder / name) for name in names]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def results(*stems: str) -> set[str]:
    """Return the files of a prediction."""
    return {
        "panoptic.json",
        "predict.json",
        *(f"overlays/{s}.jpg" for s in stems),
        *(f"panoptic/{s}.png" for s in stems),
    }


def segment(trained: RunFolder, inputs: list[str], out: Path) -> None:
    predict(PredictRequest(inputs, trained.best, out), ALONE, SilentReporter())


@pytest.mark.slow
def test_predictions_replace_earlier_ones_and_nothing_else(trained: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(trained, images(tmp_path / "in", "a.png", "b.png"), out)
    assert files(out) == results("a", "b")
    for name in ("notes.txt", "overlays/mine.jpg", "panoptic/mine.png"):
        (out / name).write_text("mine")
    segment(trained, images(tmp_path / "in", "c.png"), out)
    assert files(out) == results("c") | {"notes.txt", "overlays/mine.jpg", "panoptic/mine.png"}


@pytest.mark.slow
def test_an_interrupted_prediction_is_replaced(trained: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = images(tmp_path / "in", "a.png", "b.png")

    class Stop(SilentReporter):
        def warn(self, text: str) -> None:
            raise KeyboardInterrupt

    (tmp_path / "in" / "z.png").write_text("no image")
    with pytest.raises(KeyboardInterrupt):
        predict(PredictRequest([*given, str(tmp_path / "in" / "z.png")], trained.best, out), ALONE, Stop())
    assert (out / "panoptic").exists() and not (out / "panoptic.json").exists()
    segment(trained, images(tmp_path / "in", "c.png"), out)
    assert files(out) == results("c")


@pytest.mark.slow
def test_an_evaluation_replaces_predictions(trained: RunFolder, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(trained, images(tmp_path / "in", "a.png"), out)
    evaluate(EvaluateRequest(trained.best, out, scenes, "val", resume=True), ALONE, SilentReporter())
    assert not {"overlays/a.jpg", "panoptic/a.png"} & files(out)
    evaluated = files(out)
    evaluate(EvaluateRequest(trained.best, out, scenes, "val", resume=True), ALONE, SilentReporter())
    assert files(out) == evaluated and len(evaluated) == 4 + len(list((out / "panoptic").iterdir()))
    segment(trained, images(tmp_path / "in", "a.png"), out)
    assert files(out) == results("a")


def test_ground_truth_is_not_replaced(trained: RunFolder, tmp_path: Path) -> None:
    annotation = write_coco(tmp_path / "data")
    out = annotation.parent
    annotation.rename(out / "panoptic.json")
    (out / "panoptic_val").rename(out / "panoptic")
    before = {name: (out / name).read_bytes() for name in files(out)}
    with pytest.raises(PanformerError, match=r"panoptic\.json is not a result of panformer"):
        segment(trained, images(tmp_path / "in", "0.png"), out)
    assert {name: (out / name).read_bytes() for name in files(out)} == before


@pytest.mark.parametrize("name", ["overlays/a.jpg", "panoptic/a.png", ".parts/notes.txt", ".parts"])
def test_files_of_others_are_not_replaced_by_a_first_prediction(name: str, trained: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(PanformerError, match=rf"{name}.* is not a result of panformer and would be "):
        segment(trained, images(tmp_path / "in", "a.png"), tmp_path / "out")
    assert files(tmp_path / "out") == {name} and (tmp_path / "out" / name).read_text() == "mine"


ROW = {"image_id": 1, "file_name": "a.png", "segments_info": []}
IMAGE = {"id": 1, "file_name": "a.jpg", "height": 40, "width": 48}
EMPTY = {"images": [IMAGE], "annotations": [ROW], "categories": []}


def replaces(out: Path) -> bool:
    """Begin a prediction in a folder, and return whether panoptic.json was deleted; otherwise nothing changes."""
    before = {name: (out / name).read_bytes() for name in files(out)}
    try:
        PanopticResults.begin(out, {})
    except PanformerError as error:
        assert "panoptic.json is not a result of panformer and would be replaced; choose another folder" in str(error)
        assert {name: (out / name).read_bytes() for name in files(out)} == before
        return False
    assert not (out / "panoptic.json").exists()
    return True


@pytest.mark.parametrize(
    "content",
    [
        "notes of mine",
        "",
        "[1, 2]",
        '{"config": 1}',
        "{}",
        json.dumps(EMPTY),
        json.dumps({"info": {}, **EMPTY}),
        json.dumps({"info": {}, "images": [], "annotations": [], "categories": []}),
        json.dumps({**EMPTY, "annotations": [{**ROW, "file_name": 5}]}),
        json.dumps({**EMPTY, "annotations": [{**ROW, "segments_info": [5]}]}),
        json.dumps({**EMPTY, "annotations": [{**ROW, "segments_info": ["category_name"]}]}),
        json.dumps({**EMPTY, "annotations": [{**ROW, "segments_info": {"category_name": "dog"}}]}),
        json.dumps({**EMPTY, "annotations": [{**ROW, "segments_info": [{"id": 1, "category_id": 1}]}]})[:-30],
        json.dumps({**EMPTY, "annotations": [5]}),
        json.dumps({**EMPTY, "annotations": []}),
        json.dumps({**EMPTY, "annotations": [{**ROW, "file_name": "../a.png"}]}),
        b"\xff\xd8\xff\xe0\x00",
    ],
)
def test_a_panoptic_json_of_another_program_is_kept(tmp_path: Path, content: str | bytes) -> None:
    (tmp_path / "panoptic.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert not replaces(tmp_path)


def test_a_folder_named_panoptic_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "panoptic.json").mkdir()
    assert not replaces(tmp_path)


@pytest.mark.parametrize(
    ("content", "others"),
    [
        ({"images": [], "annotations": [], "categories": []}, {}),
        (EMPTY, {"overlays/a.jpg": "an image"}),
        (EMPTY, {"metrics.json": '{"images": 1, "panoptic": {}, "checkpoint": "best"}'}),
        ({**EMPTY, "annotations": [{**ROW, "segments_info": [{"id": 1, "category_name": "dog"}]}]}, {}),
        ({**EMPTY, "annotations": [{"file_name": 5, "segments_info": [{"category_name": "dog"}]}]}, {}),
    ],
)
def test_predictions_are_recognized(tmp_path: Path, content: dict[str, Any], others: dict[str, str]) -> None:
    for name, text in {"panoptic.json": json.dumps(content), **others}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert replaces(tmp_path)


@pytest.mark.slow
def test_an_evaluation_has_no_overlays_to_delete(trained: RunFolder, scenes: Path, tmp_path: Path) -> None:
    evaluate(EvaluateRequest(trained.best, tmp_path, scenes, "val", resamples=0), ALONE, SilentReporter())
    png = next((tmp_path / "panoptic").iterdir())
    mine = tmp_path / "overlays" / f"{png.stem}.jpg"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert replaces(tmp_path)
    assert mine.is_file() and not png.exists()


@pytest.mark.slow
def test_names_that_lead_out_of_the_folder_are_not_deleted(trained: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(trained, images(tmp_path / "in", "a.png"), out)
    content = json.loads((out / "panoptic.json").read_text())
    content["annotations"][0]["file_name"] = "../../in/a.png"
    (out / "panoptic.json").write_text(json.dumps(content))
    segment(trained, images(tmp_path / "in", "c.png"), out)
    assert (tmp_path / "in" / "a.png").is_file()


def metrics_of(pred: Path, annotation: Path, out: Path) -> dict[str, Any]:
    return evaluate_predictions(PredictionsRequest(pred, annotation, out), ALONE, SilentReporter())


@pytest.mark.slow
def test_metrics_are_not_mixed_with_other_predictions(trained: RunFolder, scenes: Path, tmp_path: Path) -> None:
    annotation = scenes / "annotations" / "panoptic_val.json"
    out = tmp_path / "out"
    evaluate(EvaluateRequest(trained.best, out, scenes, "val"), ALONE, SilentReporter())
    shutil.copytree(out, tmp_path / "other")
    before = {name: (out / name).read_bytes() for name in files(out)}
    with pytest.raises(PanformerError, match=r"has other predictions \(panoptic\.json\)"):
        metrics_of(tmp_path / "other" / "panoptic.json", annotation, out)
    assert {name: (out / name).read_bytes() for name in files(out)} == before
    metrics_of(out / "panoptic.json", annotation, out)
    assert json.loads((out / "metrics.json").read_text())["predictions"] == "panoptic.json"


def test_a_page_replaces_the_earlier_one_and_its_images(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "viz"
    visualize(VisualizeRequest(out, scenes, "train"), SilentReporter())
    assert len(files(out)) == 2 + 4 * 8, "the page, the list of its files, and four files for each image"
    (out / "overlays" / "mine.jpg").write_text("mine")
    visualize(VisualizeRequest(out, scenes, "val", limit=2), SilentReporter())
    assert len(files(out)) == 2 + 4 * 2 + 1 and (out / "overlays" / "mine.jpg").is_file()
    assert not [path for path in out.iterdir() if path.name.endswith(".tmp")]


def test_a_page_that_fails_leaves_the_earlier_one(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "viz"
    visualize(VisualizeRequest(out, scenes, "train"), SilentReporter())
    before = {name: (out / name).read_bytes() for name in files(out)}
    data = shutil.copytree(scenes, tmp_path / "data")
    sorted((data / "images" / "val").iterdir())[-1].write_text("no image")
    with pytest.raises(PanformerError, match="cannot be decoded"):
        visualize(VisualizeRequest(out, data, "val"), SilentReporter())
    assert {name: (out / name).read_bytes() for name in files(out)} == before


@pytest.mark.slow
def test_a_page_does_not_mix_with_predictions(trained: RunFolder, scenes: Path, tmp_path: Path) -> None:
    segment(trained, images(tmp_path / "in", "a.png"), tmp_path / "out")
    with pytest.raises(PanformerError, match=r"out has predictions"):
        visualize(VisualizeRequest(tmp_path / "out", scenes, "val"), SilentReporter())
    assert files(tmp_path / "out") == results("a")


def test_predictions_do_not_mix_with_a_page(trained: RunFolder, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "viz"
    visualize(VisualizeRequest(out, scenes, "val"), SilentReporter())
    before = files(out)
    with pytest.raises(PanformerError, match=r"viz has a page \(index\.html\) and its images"):
        segment(trained, images(tmp_path / "in", "a.png"), out)
    assert files(out) == before


def test_images_of_a_page_are_not_predicted(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    images(photos, "a.png", "images/b.png", "overlays/mine.png")
    for _ in range(2):
        visualize(VisualizeRequest(photos, scenes, "val"), SilentReporter())
    monkeypatch.chdir(tmp_path)
    for given in (str(photos), "photos"):
        found = find_images([given], tmp_path / "out")
        assert [image.name for image in found.images] == ["a.png", "images/b.png", "overlays/mine.png"]
        assert "16 results of an earlier call" in found.notes[0]


def is_refused(out: Path, scenes: Path, message: str) -> bool:
    """Return whether a page in `out` is refused with this message, and all files are unchanged."""
    before = {name: (out / name).read_bytes() for name in files(out)}
    with pytest.raises(PanformerError, match=message):
        visualize(VisualizeRequest(out, scenes, "val"), SilentReporter())
    return {name: (out / name).read_bytes() for name in files(out)} == before


def test_a_page_of_another_program_is_not_replaced(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir(parents=True)
    (tmp_path / "images" / "logo.png").write_text("logo")
    (tmp_path / "index.html").write_text('<img src="images/logo.png">')
    message = r"index\.html is not a page of panformer and would be replaced; choose another folder"
    assert is_refused(tmp_path, scenes, message)
    (tmp_path / "index.html").unlink()
    (tmp_path / "index.html").mkdir()
    assert is_refused(tmp_path, scenes, message)


def test_an_image_that_is_not_of_the_page_is_not_replaced(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "viz"
    visualize(VisualizeRequest(out, scenes, "val", limit=1), SilentReporter())
    (first,) = (out / "overlays").iterdir()
    visualize(VisualizeRequest(tmp_path / "other", scenes, "val"), SilentReporter())
    second = next(path for path in (tmp_path / "other" / "overlays").iterdir() if path.name != first.name)
    (out / "overlays" / second.name).write_text("mine")
    assert is_refused(out, scenes, rf"{second.name} does not belong to the page in this folder and would be replaced")


def test_files_that_a_page_mentions_are_kept(tmp_path: Path) -> None:
    annotation = write_coco(tmp_path / "data", images=1)
    photos, out = tmp_path / "data" / "images" / "val", tmp_path / "site"
    for folder in (photos, out):
        (folder / "images").mkdir(parents=True)
        shutil.copy(photos / "0.png", folder / "images" / "p1.png")
    content = json.loads(annotation.read_text())
    content["images"][0]["file_name"] = "images/p1.png"
    annotation.write_text(json.dumps(content))
    for _ in range(2):
        visualize(VisualizeRequest(out, tmp_path / "data", "val"), SilentReporter())
        assert '"images/p1.png"' in (out / "index.html").read_text(), "the caption of the image"
        assert (out / "images" / "p1.png").is_file()


@pytest.mark.slow
def test_the_list_of_images_cannot_lead_out_of_the_folder(scenes: Path, tmp_path: Path) -> None:
    out, kept = tmp_path / "viz", tmp_path / "kept.jpg"
    kept.write_text("mine")
    for content in ({"images": ["../kept.jpg", str(kept), 5]}, {"images": 5}, [5]):
        visualize(VisualizeRequest(out, scenes, "val"), SilentReporter())
        (out / ".panformer_page.json").write_text(json.dumps(content))
        for folder in ("overlays", "images"):
            shutil.rmtree(out / folder)
        visualize(VisualizeRequest(out, scenes, "val"), SilentReporter())
        assert kept.is_file()


@pytest.mark.slow
def test_a_report_replaces_the_earlier_one(trained: RunFolder, scenes: Path, tmp_path: Path) -> None:
    for split, count in (("train", 8), ("val", 4)):
        evaluate(EvaluateRequest(trained.best, tmp_path / split, scenes, split), ALONE, SilentReporter())
        assert report_evaluation(tmp_path / split, tmp_path / "report", SilentReporter()).is_file()
        assert len(list((tmp_path / "report" / "images" / "small").iterdir())) == count
        page = (tmp_path / "report" / "index.html").read_text()
        assert {name for name in files(tmp_path / "report") if name not in page} <= {
            "index.html",
            ".panformer_page.json",
        }
