"""Outputs and options through a whole prediction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from panformer_cli.data.coco.panoptic_png import read_panoptic_png
from panformer_cli.engine.inference_changes import InferenceChanges
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.outputs.registry import NAMES
from panformer_cli.engine.predict import PredictRequest, predict
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import PanformerError
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.reporting import SilentReporter
from tests.engine.small import ALONE


def run(trained: RunFolder, photos: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Predict and return the content of the panoptic JSON."""
    return predict(PredictRequest([str(photos)], trained.best, out, **options), ALONE, SilentReporter()).content


ALL = InferenceChanges(threshold=0.0, overlap=1.0)
"""As many segments as the model has candidates that are not completely covered."""


def segments_in(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [segment for row in content["annotations"] for segment in row["segments_info"]]


@pytest.fixture
def photos(scenes: Path) -> Path:
    return scenes / "images" / "val"


@pytest.mark.slow
def test_all_outputs_show_the_segments_that_are_kept(trained: RunFolder, photos: Path, tmp_path: Path) -> None:
    everything = segments_in(run(trained, photos, tmp_path / "all", changes=ALL))
    first, *others = dict.fromkeys(segment["category_name"] for segment in everything)
    area = sorted(segment["area"] for segment in everything)[len(everything) // 3]
    options = OutputOptions(tuple(NAMES), (first.upper(), *others[1:]), area)
    content = run(trained, photos, tmp_path / "some", changes=ALL, output=options)
    expected = [row for row in everything if row["category_name"] != others[0] and row["area"] >= area]
    assert segments_in(content) == expected and 0 < len(expected) < len(everything)
    files = json.loads((tmp_path / "some" / ".panformer_outputs.jsonl").read_text().splitlines()[1])
    assert all((tmp_path / "some" / name).is_file() for name in files) and len(files) >= 6
    for row in content["annotations"]:
        ids = read_panoptic_png(tmp_path / "some" / "panoptic" / row["file_name"])
        before = read_panoptic_png(tmp_path / "all" / "panoptic" / row["file_name"])
        numbers = [segment["id"] for segment in row["segments_info"]]
        assert np.array_equal(ids, np.where(np.isin(before, numbers), before, 0))
        stem = Path(row["file_name"]).stem
        record = json.loads((tmp_path / "some" / "segments" / f"{stem}.json").read_text())
        masks = {segment["id"]: coco_mask.decode(segment["segmentation"]) for segment in record["segments"]}
        assert masks.keys() == {*numbers}
        assert all(np.array_equal(mask, ids == number) for number, mask in masks.items())
        semantic = np.array(Image.open(tmp_path / "some" / "semantic" / f"{stem}.png"))
        assert np.array_equal(semantic == 65535, ids == 0)
        assert len(list((tmp_path / "some" / "masks").glob(f"{stem}/*.png"))) == len(numbers)


@pytest.mark.slow
def test_thresholds_and_sizes_reach_the_model(
    trained: RunFolder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    infer = PanopticSegFormer.infer

    def noted(model: PanopticSegFormer, images: Any, padding_mask: Any) -> Any:
        shapes.append(tuple(images.shape[-2:]))
        return infer(model, images, padding_mask)

    monkeypatch.setattr(PanopticSegFormer, "infer", noted)
    scores = sorted(segment["score"] for segment in segments_in(run(trained, photos, tmp_path / "all", changes=ALL)))
    middle = (scores[0] + scores[-1]) / 2
    assert scores[0] < middle
    content = run(trained, photos, tmp_path / "high", changes=replace(ALL, threshold=middle))
    found = [segment["score"] for segment in segments_in(content)]
    assert found and min(found) >= middle
    assert {*shapes} == {(64, 64)}
    shapes.clear()
    content = run(trained, photos, tmp_path / "small", changes=InferenceChanges(max_size=32))
    assert {*shapes} == {(32, 32)}
    assert {(image["width"], image["height"]) for image in content["images"]} == {(64, 64)}


@pytest.mark.slow
def test_unknown_categories_leave_earlier_results(trained: RunFolder, photos: Path, tmp_path: Path) -> None:
    run(trained, photos, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(PanformerError, match=r"--classes: the model has no category 'disk' \(did you mean disc"):
        run(trained, photos, tmp_path, output=OutputOptions(classes=("disk",)))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
