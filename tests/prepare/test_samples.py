"""Sample images of the summary page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panformer_cli.prepare.coco.in_place import prepare_in_place
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.masks.mask_folder import open_mask_folder
from panformer_cli.reporting import SilentReporter
from tests.data.coco.coco_files import write_coco
from tests.pages.html import Html
from tests.pages.layer_files import decoded, sides_of


def masks(root: Path, images: int, size: tuple[int, int] = (20, 30)) -> Path:
    """Write gray images; the left half of each is a car."""
    height, width = size
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    values = np.zeros(size, np.uint8)
    values[:, : width // 2] = 1
    for number in range(images):
        Image.new("RGB", (width, height), (100, 100, 100)).save(root / f"images/{number:03d}.png")
        Image.fromarray(values).save(root / f"masks/{number:03d}.png")
    (root / "classes.csv").write_text("id,name,isthing,color\n1,car,1,\n")
    return root


def samples(root: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    source = open_mask_folder(root, root / "classes.csv")
    (summary,) = convert(source, out, [], ConvertOptions(**options), SilentReporter())
    assert json.loads((out / "summary.json").read_text())["train"]["samples"] == summary.samples
    return summary.samples


def data_of(out: Path) -> Any:
    return json.loads(Html.of_file(out / "summary.html").raw["application/json"])


def test_twelve_images_are_drawn_evenly_spread(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = samples(masks(tmp_path / "in", 36), out)
    assert [sample["file_name"] for sample in found] == [f"{number:03d}.png" for number in range(0, 36, 3)]
    assert [sample["segments"] for sample in found] == [1] * 12
    shown = data_of(out)["images"]
    assert [image["drawing"] for image in shown] == [f"summary_images/train/{k}.jpg" for k in range(1, 13)]
    assert [sample["path"] for sample in found] == [image["drawing"] for image in shown]
    for image in shown:
        assert image["name"] in {sample["file_name"] for sample in found} and image["detail"] == "1 segment"
        assert all((out / image[kind]).is_file() for kind in ("small", "large", "layers"))
        [side] = sides_of(out / image["layers"])
        assert np.array_equal(decoded(side["map"], (20, 30))[0], np.where(np.arange(30) < 15, 1, 0))
    for path in (image["drawing"] for image in shown):
        pixels = np.asarray(Image.open(out / str(path)).convert("RGB")).astype(int)
        assert pixels.shape == (20, 30, 3)
        # Void keeps the gray of the image, dimmed; the car has the color of its class.
        assert np.ptp(pixels[3:17, 22:28], axis=-1).max() < 12 and np.ptp(pixels[3:17, 3:12], axis=-1).min() > 20


def test_all_images_of_a_small_split_are_drawn(tmp_path: Path) -> None:
    assert len(samples(masks(tmp_path / "in", 3), tmp_path / "out")) == 3


def test_bad_images_are_replaced_or_left_out(tmp_path: Path) -> None:
    root = masks(tmp_path / "in", 24)
    (root / "masks/002.png").write_bytes(b"")  # not converted
    path = root / "images/004.png"
    path.write_bytes(path.read_bytes()[:-30])  # only its header is read
    found = samples(root, tmp_path / "out", skips_bad_images=True)
    names = [sample["file_name"] for sample in found]
    assert names == ["000.png", "003.png", *(f"{number:03d}.png" for number in range(6, 24, 2))]


def test_large_images_are_scaled_down(tmp_path: Path) -> None:
    (sample,) = samples(masks(tmp_path / "in", 1, (500, 2000)), tmp_path / "out")
    assert sample["size"] == [240, 960]
    assert Image.open(tmp_path / "out" / sample["path"]).size == (960, 240)


def test_a_split_checked_in_place_has_samples(tmp_path: Path) -> None:
    write_coco(tmp_path / "in")
    for out in (None, tmp_path / "out"):
        prepared = prepare_in_place(tmp_path / "in", "val", ConvertOptions(), SilentReporter(), "none", out)
        assert [sample["segments"] for sample in prepared.summary.samples] == [3, 3, 3]
        assert (out or tmp_path / "in").joinpath("summary_images/val/3.jpg").is_file()


def test_a_summary_without_samples_is_still_read(tmp_path: Path) -> None:
    out = tmp_path / "out"
    samples(masks(tmp_path / "in", 2), out)
    content = json.loads((out / "summary.json").read_text())
    for key in ("samples", "void_values", "conventions"):
        del content["train"][key]
    (out / "summary.json").write_text(json.dumps(content))
    shutil.rmtree(out / "summary_images")
    source = open_mask_folder(tmp_path / "in", tmp_path / "in" / "classes.csv")
    (summary,) = convert(source, out, [], ConvertOptions(), SilentReporter())
    assert summary.samples == [] and summary.images == 2


@pytest.mark.parametrize("name", ["a#b%41.png", "a'\"<b>.png"])
def test_names_are_escaped(tmp_path: Path, name: str) -> None:
    root = masks(tmp_path / "in", 1)
    (root / "images/000.png").rename(root / "images" / name)
    (root / "masks/000.png").rename(root / "masks" / name)
    samples(root, tmp_path / "out")
    assert [image["name"] for image in data_of(tmp_path / "out")["images"]] == [name]
