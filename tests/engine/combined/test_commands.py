"""`predict` and `evaluate` with the options of inference, on a trained model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panformer_cli.data.coco.panoptic_png import read_panoptic_png
from panformer_cli.engine.runs import RunFolder
from tests.engine.small import run_command
from tests.helpers import run


@pytest.mark.slow
def test_predict_records_how_each_image_was_run(trained: RunFolder, tmp_path: Path) -> None:
    """Overlay, PNG and JSON are of the same, combined map. The second image fits into a tile."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name, size in (("large", (100, 130)), ("small", (60, 60))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{name}.png")
    options = ("--tile", 64, "--tile-overlap", 16, "--tile-whole-image", "--tta", "flip", "--mask-layers", 1)
    run_command("predict", tmp_path / "photos", "--checkpoint", trained.path, "--out", tmp_path / "out", *options)
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    views = ["scale 1", "scale 1, flipped"]
    assert [image["inference"] for image in content["images"]] == [
        {"views": views, "tile": [64, 64], "tile_overlap": 16, "tiles": 6, "scale": 1.0, "whole_image": True},
        {"views": views},
    ]
    for image, row in zip(content["images"], content["annotations"], strict=True):
        ids = read_panoptic_png(tmp_path / "out" / "panoptic" / row["file_name"])
        assert ids.shape == (image["height"], image["width"])
        areas = {segment["id"]: segment["area"] for segment in row["segments_info"]}
        assert areas, "without segments nothing was tested"
        numbers, counts = np.unique(ids[ids > 0], return_counts=True)
        assert areas == dict(zip(numbers.tolist(), counts.tolist(), strict=True))


@pytest.mark.slow
def test_evaluate_records_the_options_and_resumes_only_with_them(
    trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("evaluate", str(trained.path), "--out", str(tmp_path / "out"), "--metrics", "all", "--bootstrap", "0")
    run_command(*out, "--tta", "flip")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["settings"]["inference"] == {"views": ["scale 1", "scale 1, flipped"]}
    assert metrics["images"] == 4
    assert run(*out, "--resume") == 2
    assert "different settings (inference)" in capsys.readouterr().err
    assert run(*out, "--resume", "--tta", "flip") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tile", "10"), "--tile is 10: expected 64 pixels or more"),
        (("--tile-overlap", "10"), "--tile-overlap needs --tile N"),
        (("--tta", "rotate"), "--tta is 'rotate': expected words"),
        (("--mask-layers", "0"), "--mask-layers"),
    ],
)
def test_invalid_options_are_reported_first(
    options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("predict", "missing.jpg", "--out", "out"), ("evaluate", "missing.safetensors")):
        assert run(*command, *options) == 2
        assert message in " ".join(capsys.readouterr().err.split())
