"""Evaluation of a checkpoint: figures, files, and data that do not belong to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from panformer_cli.data.coco_panoptic import CocoPanoptic
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.engine.checkpoint import read_checkpoint
from panformer_cli.engine.evaluate import EvaluateRequest, evaluate, evaluate_model
from panformer_cli.engine.inference import Prediction, Predictor
from panformer_cli.engine.results import PanopticResults
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.runtime import Process
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.reporting import SilentReporter
from tests.data.coco_files import write_coco
from tests.engine.small import small_checkpoint, small_scenes

ALONE = Process(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def evaluated(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and figures of the trained run, with box and mask AP."""
    out = tmp_path_factory.mktemp("evaluated")
    request = EvaluateRequest(trained.best, out, metrics=("panoptic", "bbox", "segm"))
    return out, evaluate(request, SilentReporter())


def test_the_figures_are_those_of_training(evaluated: tuple[Path, dict[str, Any]], trained: RunFolder) -> None:
    _, figures = evaluated
    logged = [json.loads(line) for line in trained.metrics.read_text().splitlines() if '"eval"' in line]
    best = max(logged, key=lambda row: row["pq"])
    for name in ("pq", "sq", "rq"):
        assert figures["panoptic"]["all"][name] == best[name]
    assert figures["panoptic"]["stuff"]["pq"] == best["pq_stuff"]


def test_every_segment_is_counted(evaluated: tuple[Path, dict[str, Any]], scenes: Path) -> None:
    _, figures = evaluated
    data = CocoPanoptic(scenes, "val")
    segments = sum(not segment.is_crowd for sample in data for segment in sample.annotation.segments)
    rows = figures["panoptic"]["per_class"].values()
    assert sum(row["tp"] + row["fn"] for row in rows) == segments
    assert sum(row["tp"] + row["fp"] for row in rows) > 0, "without predictions nothing was tested"
    assert figures["images"] == len(data) == 4
    assert set(figures["bbox"]) >= {"AP"}
    assert set(figures["segm"]) >= {"AP"}


def test_what_an_evaluation_leaves_behind(
    evaluated: tuple[Path, dict[str, Any]], trained: RunFolder, scenes: Path
) -> None:
    out, figures = evaluated
    assert {path.name for path in out.iterdir()} == {"panoptic", "panoptic.json", "metrics.json"}
    assert json.loads((out / "metrics.json").read_text()) == figures
    assert figures["checkpoint"] == str(trained.best)
    assert figures["annotation"] == str(scenes / "annotations" / "panoptic_val.json")
    content = json.loads((out / "panoptic.json").read_text())
    data = CocoPanoptic(scenes, "val")
    for index, (image, annotation) in enumerate(zip(content["images"], content["annotations"], strict=True)):
        assert image["id"] == annotation["image_id"] == data.image_info(index).id
        assert image["file_name"] == data.image_info(index).file_name
        colours = np.asarray(Image.open(out / "panoptic" / annotation["file_name"])).astype(int)
        ids = colours @ [1, 256, 65536]
        areas = {segment["id"]: segment["area"] for segment in annotation["segments_info"]}
        assert {int(i): int((ids == i).sum()) for i in np.unique(ids) if i} == areas


class _Oracle(Predictor):
    """Predicts the ground truth of a data set, image by image."""

    def __init__(self, data: CocoPanoptic) -> None:
        self.categories = data.categories
        self._maps = iter([sample.annotation for sample in data])

    def __call__(self, image: ImageArray) -> Prediction:
        annotation = next(self._maps)
        kept = tuple(segment for segment in annotation.segments if not segment.is_crowd)
        ids = np.where(np.isin(annotation.ids, [segment.id for segment in kept]), annotation.ids, 0)
        return Prediction(PanopticMap(ids.astype(np.int32), kept), None)  # type: ignore[arg-type]


def test_the_ground_truth_is_perfect(scenes: Path, tmp_path: Path) -> None:
    data = CocoPanoptic(scenes, "val")
    results = PanopticResults(tmp_path, data.categories, ALONE)
    evaluation = evaluate_model(_Oracle(data), data, ALONE, SilentReporter(), results=results)
    assert results.finish() is not None
    groups = evaluation.panoptic
    assert (groups.all.pq, groups.things.pq, groups.stuff.pq) == (100, 100, 100)
    # What was written is a data set in itself, and its maps are the ground truth's.
    for index, sample in enumerate(data):
        ids = np.asarray(Image.open(tmp_path / "panoptic" / f"{index:06d}.png")).astype(int) @ [1, 256, 65536]
        crowd = [segment.id for segment in sample.annotation.segments if segment.is_crowd]
        assert np.array_equal(ids, np.where(np.isin(sample.annotation.ids, crowd), 0, sample.annotation.ids))


def test_another_split_and_another_root(trained: RunFolder, tmp_path: Path) -> None:
    other = small_scenes(tmp_path / "other", 2, 1)
    figures = evaluate(EvaluateRequest(trained.best, tmp_path / "out", other, "train"), SilentReporter())
    assert figures["images"] == 2


def test_data_of_other_categories_are_refused(trained: RunFolder, tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    request = EvaluateRequest(trained.best, tmp_path / "out", tmp_path / "coco")
    with pytest.raises(DataError, match=r"best\.safetensors knows 11 categories and .*coco has 3, and their ids or"):
        evaluate(request, SilentReporter())
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_names_no_data_needs_them_told(scenes: Path, tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path / "a.safetensors", scenes, "data.root=")
    assert read_checkpoint(path).recipe.data.root == ""
    with pytest.raises(PanformerError, match="the checkpoint names none; give its folder with --data ROOT"):
        evaluate(EvaluateRequest(path, tmp_path / "out"), SilentReporter())


def test_a_run_is_no_place_for_results(trained: RunFolder) -> None:
    with pytest.raises(PanformerError, match="holds a training run; choose another folder"):
        evaluate(EvaluateRequest(trained.best, trained.path), SilentReporter())


def test_a_damaged_image_ends_the_evaluation(trained: RunFolder, tmp_path: Path) -> None:
    data = small_scenes(tmp_path / "data", 1, 2)
    image = data / "images" / "val" / "000001.png"
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(DataError, match=r"000001\.png"):
        evaluate(EvaluateRequest(trained.best, tmp_path / "out", data), SilentReporter())
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_images_of_one_name_and_two_kinds_keep_a_png_each(tmp_path: Path) -> None:
    data = small_scenes(tmp_path / "data", 1, 2)
    images, path = data / "images" / "val", data / "annotations" / "panoptic_val.json"
    Image.open(images / "000001.png").save(images / "000000.jpg")
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = "000000.jpg"
    path.write_text(json.dumps(content))
    out = tmp_path / "out"
    evaluate(EvaluateRequest(small_checkpoint(tmp_path / "c.safetensors", data), out), SilentReporter())
    written = json.loads((out / "panoptic.json").read_text())
    assert [row["file_name"] for row in written["images"]] == ["000000.png", "000000.jpg"]
    pngs = [row["file_name"] for row in written["annotations"]]
    assert len(set(pngs)) == 2
    assert all((out / "panoptic" / name).is_file() for name in pngs)
