"""Evaluation of a checkpoint: metrics, files, and data that does not match it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.scenes.generator import write_scenes
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate, evaluate_model, finds_no_things
from panformer_cli.engine.inference import Key, Predictor
from panformer_cli.engine.results import PanopticResults
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.metrics.detection import InstancePrediction
from panformer_cli.metrics.evaluator import MetricName
from panformer_cli.models.base import Prediction
from panformer_cli.reporting import SilentReporter
from tests.data.coco.coco_files import write_coco
from tests.engine.small import ALONE, small_checkpoint, small_scenes
from tests.engine.test_predict import batches_seen


@pytest.fixture(scope="module")
def evaluated(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the result folder and metrics of the trained run, with box and mask AP."""
    out = tmp_path_factory.mktemp("evaluated")
    request = EvaluateRequest(trained.best, out, metrics=("panoptic", "bbox", "segm"))
    return out, evaluate(request, ALONE, SilentReporter())


@pytest.mark.slow
def test_metrics_match_those_of_training(evaluated: tuple[Path, dict[str, Any]], trained: RunFolder) -> None:
    _, metrics = evaluated
    logged = [json.loads(line) for line in trained.metrics.read_text().splitlines() if '"eval"' in line]
    best = max(logged, key=lambda row: row["pq"])
    for name in ("pq", "sq", "rq"):
        assert metrics["panoptic"]["all"][name] == best[name]
    assert metrics["panoptic"]["stuff"]["pq"] == best["pq_stuff"]


def test_every_segment_is_counted(evaluated: tuple[Path, dict[str, Any]], scenes: Path) -> None:
    _, metrics = evaluated
    data = CocoPanoptic(scenes, "val")
    segments = sum(not segment.is_crowd for sample in data for segment in sample.annotation.segments)
    rows = metrics["panoptic"]["per_class"].values()
    assert sum(row["tp"] + row["fn"] for row in rows) == segments
    assert sum(row["tp"] + row["fp"] for row in rows) > 0, "without predictions nothing was tested"
    assert metrics["images"] == len(data) == 4
    assert set(metrics["bbox"]) >= {"AP"}
    assert set(metrics["segm"]) >= {"AP"}


def test_the_files_of_an_evaluation(evaluated: tuple[Path, dict[str, Any]], trained: RunFolder, scenes: Path) -> None:
    out, metrics = evaluated
    assert {path.name for path in out.iterdir()} == {
        "panoptic",
        "panoptic.json",
        "metrics.json",
        "analysis.json",
        "records.jsonl",
    }
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert metrics["checkpoint"] == str(trained.best)
    assert metrics["annotation"] == str(scenes / "annotations" / "panoptic_val.json")
    content = json.loads((out / "panoptic.json").read_text())
    data = CocoPanoptic(scenes, "val")
    for index, (image, annotation) in enumerate(zip(content["images"], content["annotations"], strict=True)):
        assert image["id"] == annotation["image_id"] == data.image_info(index).id
        assert image["file_name"] == data.image_info(index).file_name
        colors = np.asarray(Image.open(out / "panoptic" / annotation["file_name"])).astype(int)
        ids = colors @ [1, 256, 65536]
        areas = {segment["id"]: segment["area"] for segment in annotation["segments_info"]}
        assert {int(i): int((ids == i).sum()) for i in np.unique(ids) if i} == areas


class _KnownMap(Prediction):
    """A prediction with only a panoptic map."""

    def __init__(self, panoptic: PanopticMap) -> None:
        self._panoptic = panoptic

    @property
    def panoptic(self) -> PanopticMap:
        return self._panoptic

    def instances(self, image_id: int | str) -> InstancePrediction:
        raise NotImplementedError


class _Oracle(Predictor):
    """Predict the ground truth of a data set."""

    def __init__(self, data: CocoPanoptic) -> None:
        self._categories = data.categories
        self.device = torch.device("cpu")
        self._maps = iter([sample.annotation for sample in data])

    @property
    def categories(self) -> CategoryTable:
        return self._categories

    def stream(self, images: Iterable[tuple[Key, ImageArray]], batch_size: int = 1) -> Iterator[tuple[Key, Prediction]]:
        for (key, _), annotation in zip(images, self._maps, strict=True):
            kept = tuple(segment for segment in annotation.segments if not segment.is_crowd)
            ids = np.where(np.isin(annotation.ids, [segment.id for segment in kept]), annotation.ids, 0)
            yield key, _KnownMap(PanopticMap(ids.astype(np.int32), kept))


def test_the_ground_truth_is_perfect(scenes: Path, tmp_path: Path) -> None:
    data = CocoPanoptic(scenes, "val")
    results = PanopticResults(tmp_path, data.categories, ALONE)
    evaluation = evaluate_model(_Oracle(data), data, ALONE, SilentReporter(), results=results)
    results.finish()
    assert (tmp_path / "panoptic.json").is_file()
    groups = evaluation.panoptic.result()
    assert (groups.all.pq, groups.things.pq, groups.stuff.pq) == (100, 100, 100)
    # The results are a data set themselves, and its maps are the ground truth's.
    for index, sample in enumerate(data):
        ids = np.asarray(Image.open(tmp_path / "panoptic" / f"{index:06d}.png")).astype(int) @ [1, 256, 65536]
        crowd = [segment.id for segment in sample.annotation.segments if segment.is_crowd]
        assert np.array_equal(ids, np.where(np.isin(sample.annotation.ids, crowd), 0, sample.annotation.ids))


def mixed_scenes(root: Path) -> Path:
    """Write a split `val` with scenes of three alternating sizes."""
    sizes = [(64, 64), (48, 64), (128, 96)]
    parts = [root / f"{height}x{width}" for height, width in sizes]
    for seed, (part, (height, width)) in enumerate(zip(parts, sizes, strict=True)):
        write_scenes(part, SceneOptions(1, 3, height, width, seed, "png"), SilentReporter())
    contents = [json.loads((part / "annotations" / "panoptic_val.json").read_text()) for part in parts]
    joined: dict[str, Any] = {**contents[0], "images": [], "annotations": []}
    for folder in ("images/val", "annotations/panoptic_val"):
        (root / folder).mkdir(parents=True)
    for index in range(9):
        part, content, row = parts[index % 3], contents[index % 3], index // 3
        image, annotation = content["images"][row], content["annotations"][row]
        (part / "images/val" / image["file_name"]).rename(root / "images/val" / f"{index}.png")
        (part / "annotations/panoptic_val" / annotation["file_name"]).rename(
            root / "annotations/panoptic_val" / f"{index}.png"
        )
        joined["images"].append({**image, "id": index, "file_name": f"{index}.png"})
        joined["annotations"].append({**annotation, "image_id": index, "file_name": f"{index}.png"})
    (root / "annotations" / "panoptic_val.json").write_text(json.dumps(joined))
    return root


@pytest.mark.slow
def test_metrics_and_files_do_not_depend_on_the_batch_size(
    trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, results, contents, seen = mixed_scenes(tmp_path / "data"), [], [], batches_seen(monkeypatch)
    for batch_size in (1, 3, 8):
        out = tmp_path / str(batch_size)
        metrics: tuple[MetricName, ...] = ("panoptic", "bbox", "segm")
        request = EvaluateRequest(trained.best, out, data, metrics=metrics, batch_size=batch_size)
        results.append(evaluate(request, ALONE, SilentReporter()))
        contents.append(json.loads((out / "panoptic.json").read_text()))
    assert seen == 9 * [1] + 3 * [3] + 3 * [3]
    assert results[0]["images"] == 9
    assert sum(row["tp"] + row["fp"] for row in results[0]["panoptic"]["per_class"].values()) > 0
    assert [image["file_name"] for image in contents[0]["images"]] == [f"{index}.png" for index in range(9)]
    rows = [
        [segment for annotation in content["annotations"] for segment in annotation["segments_info"]]
        for content in contents
    ]
    scores = [[segment.pop("score") for segment in part] for part in rows]
    for other in (1, 2):
        assert contents[other] == contents[0]
        assert scores[other] == pytest.approx(scores[0], abs=1e-5)
        assert results[other]["panoptic"] == results[0]["panoptic"]
        for metric in ("bbox", "segm"):
            assert results[other][metric] == pytest.approx(results[0][metric], abs=1e-6)


@pytest.mark.slow
def test_another_split_and_another_root(trained: RunFolder, tmp_path: Path) -> None:
    other = small_scenes(tmp_path / "other", 2, 1)
    metrics = evaluate(EvaluateRequest(trained.best, tmp_path / "out", other, "train"), ALONE, SilentReporter())
    assert metrics["images"] == 2


def test_data_with_other_categories_is_rejected(trained: RunFolder, tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    request = EvaluateRequest(trained.best, tmp_path / "out", tmp_path / "coco")
    with pytest.raises(DataError, match=r"best\.safetensors has 11 categories and .*coco has 3, and their ids or"):
        evaluate(request, ALONE, SilentReporter())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_checkpoint_without_a_data_set_needs_one(scenes: Path, tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path / "a.safetensors", scenes, "data.root=")
    assert read_checkpoint(path).recipe.data.root == ""
    with pytest.raises(PanformerError, match="the checkpoint does not name one; give its folder with --data ROOT"):
        evaluate(EvaluateRequest(path, tmp_path / "out"), ALONE, SilentReporter())


def test_results_are_not_written_into_a_run(trained: RunFolder) -> None:
    with pytest.raises(PanformerError, match="has a training run; choose another folder"):
        evaluate(EvaluateRequest(trained.best, trained.path), ALONE, SilentReporter())


@pytest.mark.slow
def test_a_corrupt_image_ends_the_evaluation(trained: RunFolder, tmp_path: Path) -> None:
    data = small_scenes(tmp_path / "data", 1, 2)
    image = data / "images" / "val" / "000001.png"
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(DataError, match=r"000001\.png"):
        evaluate(EvaluateRequest(trained.best, tmp_path / "out", data), ALONE, SilentReporter())
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.slow
def test_images_that_differ_only_in_suffix_have_separate_pngs(tmp_path: Path) -> None:
    data = small_scenes(tmp_path / "data", 1, 2)
    images, path = data / "images" / "val", data / "annotations" / "panoptic_val.json"
    Image.open(images / "000001.png").save(images / "000000.jpg")
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = "000000.jpg"
    path.write_text(json.dumps(content))
    out = tmp_path / "out"
    evaluate(EvaluateRequest(small_checkpoint(tmp_path / "c.safetensors", data), out), ALONE, SilentReporter())
    written = json.loads((out / "panoptic.json").read_text())
    assert [row["file_name"] for row in written["images"]] == ["000000.png", "000000.jpg"]
    pngs = [row["file_name"] for row in written["annotations"]]
    assert len(set(pngs)) == 2
    assert all((out / "panoptic" / name).is_file() for name in pngs)


def test_an_evaluation_without_predicted_things_is_recognized() -> None:
    def metrics(**of_thing: int) -> dict[str, Any]:
        stuff = {"is_thing": False, "tp": 3, "fp": 0, "fn": 0}
        return {"panoptic": {"per_class": {"1": {"is_thing": True, **of_thing}, "2": stuff}}}

    assert finds_no_things(metrics(tp=0, fp=0, fn=2))
    assert not finds_no_things(metrics(tp=0, fp=1, fn=2))
    assert not finds_no_things(metrics(tp=1, fp=0, fn=2))
    assert not finds_no_things(metrics(tp=0, fp=0, fn=0))
