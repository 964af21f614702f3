"""Results: segments against the pixels that the model was made for, files, and other forms."""

from __future__ import annotations

import io
import json
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageShow
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from panformer_cli.api.model import Model
from panformer_cli.api.result import Result
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.predict import PredictRequest, predict
from panformer_cli.errors import PanformerError
from panformer_cli.reporting import SilentReporter
from panformer_cli.visualization.colors import with_colors
from tests.color_family import street
from tests.helpers import files_of

RED = np.zeros((48, 64), bool)
RED[24:48, 16:48] = True
"""The pixels of the red rectangle in `street`."""


def test_the_segments_are_those_of_the_picture(result: Result) -> None:
    red, sky = result.segments
    assert (red.name, red.category_id, red.is_thing, red.area, red.box) == ("red", 1, True, 768, (16, 24, 48, 48))
    assert (sky.name, sky.category_id, sky.is_thing, sky.area, sky.box) == ("sky", 5, False, 2304, (0, 0, 64, 48))
    assert red.score == pytest.approx(210 / 255, abs=1e-5)
    assert sky.score == pytest.approx(200 / 255, abs=1e-5)
    assert red.mask.dtype == bool
    assert np.array_equal(red.mask, RED)
    assert np.array_equal(sky.mask, ~RED)
    x1, y1, x2, y2 = red.box
    assert red.mask[y1:y2, x1:x2].all()
    assert result.segment_ids.dtype == np.int32
    assert np.array_equal(result.segment_ids, np.where(RED, red.id, sky.id))
    assert result.things == (red,) and result.stuff == (sky,)
    assert len(result) == 2 and list(result) == [red, sky]
    assert result.size == (48, 64)
    assert "segment_ids" not in repr(red) and repr(red).startswith("Segment(id=1, name='red'")


def test_maps_have_category_ids_and_instance_ids(result: Result) -> None:
    assert np.array_equal(result.semantic(), np.where(RED, 1, 5))
    assert np.array_equal(result.instances(), np.where(RED, result.segments[0].id, 0))
    assert result.semantic().dtype == result.instances().dtype == np.uint16


def test_void_is_zero_in_the_ids_and_65535_in_the_semantic_map(run: Path, photo: Path) -> None:
    from panformer_cli.api.model import load

    result = load(run, device="cpu", inference={"min_score": 0.8})(photo)
    assert [segment.name for segment in result.segments] == ["red"]
    assert np.array_equal(result.segment_ids > 0, RED)
    assert np.array_equal(result.semantic(), np.where(RED, 1, 65535))


def test_a_plot_is_a_new_picture_of_the_same_size(result: Result) -> None:
    before = result.image.copy()
    overlay = result.plot()
    assert overlay.shape == result.image.shape and overlay.dtype == np.uint8
    assert (overlay != result.image).any()
    assert np.array_equal(result.image, before)
    plain = result.plot(opacity=0.0, contours=False, labels=False)
    assert np.array_equal(plain, result.image)
    image = Image.open(io.BytesIO(result._repr_png_()))
    assert np.array_equal(np.asarray(image), overlay)


def test_a_plot_in_safe_colors(result: Result) -> None:
    safe = result.plot(opacity=1.0, contours=False, labels=False, colors="safe")
    (table,) = with_colors(result.categories, palette="safe")
    colors = {segment.id: table.by_id(segment.category_id).color for segment in result.segments}
    for number, color in colors.items():
        assert (safe[result.segment_ids == number] == color).all()
    assert (safe != result.plot(opacity=1.0, contours=False, labels=False)).any()


def test_crops_are_transparent_around_the_segment(result: Result) -> None:
    red, sky = result.crops()
    assert red.shape == (24, 32, 4) and sky.shape == (48, 64, 4)
    assert (red == (210, 30, 60, 255)).all()
    assert np.array_equal(sky[..., 3] > 0, ~RED)
    assert not sky[RED].any()
    assert [crop.shape for crop in result.crops(things_only=True)] == [red.shape]


def test_coco_rows_are_read_by_pycocotools(result: Result) -> None:
    rows = result.to_coco(image_id=7)
    rows = json.loads(json.dumps(rows))
    assert [(row["category_id"], row["category_name"], row["isthing"], row["area"]) for row in rows] == [
        (1, "red", 1, 768),
        (5, "sky", 0, 2304),
    ]
    assert rows[0]["bbox"] == [16, 24, 32, 24]
    assert np.array_equal(coco_mask.decode(rows[0]["segmentation"]), RED)
    truth = COCO()
    truth.dataset = {"images": [{"id": 7}], "categories": [{"id": 1}, {"id": 5}], "annotations": []}
    truth.createIndex()
    found = truth.loadRes(rows)
    assert len(found.anns) == 2 and found.getImgIds() == [7]


def test_files_are_those_of_predict(result: Result, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = ["overlay", "panoptic", "segments", "instances", "semantic", "masks", "cutouts", "polygons"]
    paths = result.save(out, names)
    assert sorted(path.relative_to(out).as_posix() for path in paths) == [
        "cutouts/street/1-red.png",
        "cutouts/street/3-sky.png",
        "instances/street.png",
        "masks/street/1-red.png",
        "masks/street/3-sky.png",
        "overlays/street.jpg",
        "panoptic/street.png",
        "polygons/street.geojson",
        "segments/street.json",
        "semantic/street.png",
    ]
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(paths)
    red, green, blue = np.moveaxis(np.asarray(Image.open(out / "panoptic/street.png")).astype(int), -1, 0)
    assert np.array_equal(red + 256 * green + 65536 * blue, result.segment_ids)
    assert np.array_equal(np.asarray(Image.open(out / "masks/street/1-red.png")) > 0, RED)
    assert json.loads((out / "segments/street.json").read_text())["image"]["file_name"] == result.source


def test_the_files_have_the_bytes_that_the_command_writes(result: Result, run: Path, tmp_path: Path) -> None:
    outputs = ("overlay", "panoptic", "instances", "semantic", "masks", "cutouts", "polygons")
    assert result.source is not None
    request = PredictRequest(
        [result.source], run / "model.safetensors", tmp_path / "command", output=OutputOptions(outputs)
    )
    predict(request, Process.single("cpu"), SilentReporter())
    result.save(tmp_path / "python", outputs)
    written = files_of(tmp_path / "python")
    assert written == {name: data for name, data in files_of(tmp_path / "command").items() if name in written}
    assert len(written) == 9


def stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "overlays").iterdir())


def test_equal_names_of_different_images_never_collide(model: Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("x/1.png", "y/1.png", "1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(street()).save(tmp_path / name)
        model(tmp_path / name).save(out)
    assert stems(out) == ["1", "1_2", "1_3"]
    sources = {path.stem: json.loads(path.read_text())["image"]["file_name"] for path in (out / "segments").iterdir()}
    assert sources == {"1": f"{tmp_path}/x/1.png", "1_2": f"{tmp_path}/y/1.png", "1_3": f"{tmp_path}/1.jpg"}
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    model(tmp_path / "y/1.png").save(out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_one_of_many_equal_names_is_saved_again(model: Model, tmp_path: Path) -> None:
    result = model(street())
    for _ in range(2):
        for number in range(9):
            replace(result, source=f"{number}/a.jpg").save(tmp_path, "segments")
    files = (tmp_path / "segments").iterdir()
    sources = {path.stem: json.loads(path.read_text())["image"]["file_name"] for path in files}
    assert sources == {f"a_{number + 1}" if number else "a": f"{number}/a.jpg" for number in range(9)}


def test_images_in_memory_are_numbered(model: Model, tmp_path: Path) -> None:
    result = model(street())
    for _ in range(9):
        result.save(tmp_path, "overlay")
    assert stems(tmp_path) == sorted(["image", *(f"image_{number}" for number in range(2, 10))])
    result.save(tmp_path, "overlay", name="image_3")
    result.save(tmp_path, "overlay", name="frames/0001.a")
    assert len(stems(tmp_path)) == 10
    assert (tmp_path / "overlays/frames/0001.a.jpg").is_file()


def test_threads_that_save_at_once_choose_different_names(model: Model, tmp_path: Path) -> None:
    result = model(street())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: result.save(tmp_path, ["panoptic"]), range(12)))
    assert len(list((tmp_path / "panoptic").iterdir())) == 12


def test_saving_again_removes_segments_that_are_gone(model: Model, run: Path, photo: Path, tmp_path: Path) -> None:
    from panformer_cli.api.model import load

    outputs = ["segments", "masks"]
    model(photo).save(tmp_path / "out", outputs)
    load(run, device="cpu", inference={"min_score": 0.8})(photo).save(tmp_path / "out", outputs)
    assert [path.name for path in (tmp_path / "out/masks/street").iterdir()] == ["1-red.png"]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["overlays"], "outputs has overlays; expected some of overlay, panoptic, segments"),
        (["json"], "`json` is one file for all images"),
        ([], "names no output"),
    ],
)
def test_unknown_outputs_are_refused(result: Result, tmp_path: Path, outputs: list[str], message: str) -> None:
    with pytest.raises(PanformerError, match=message):
        result.save(tmp_path / "out", outputs)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", ""])
def test_a_name_that_leads_out_of_the_folder_is_refused(result: Result, tmp_path: Path, name: str) -> None:
    with pytest.raises(PanformerError):
        result.save(tmp_path / "out", name=name)
    assert not list(tmp_path.rglob("outside*"))


def test_show_uses_the_desktop_or_says_what_to_do(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    def show(image: Image.Image, title: str) -> bool:
        shown.append((image.size, title))
        return True

    monkeypatch.setattr(ImageShow, "show", show)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(PanformerError, match="no program was found that shows images"):
        result.show()
    assert not shown, "xdg-open would print errors"
    monkeypatch.setenv("DISPLAY", ":0")
    result.show()
    assert shown == [((64, 48), result.source)]
    monkeypatch.setattr(ImageShow, "show", lambda image, title: False)
    with pytest.raises(PanformerError, match=r"no program was found that shows images.*result\.save"):
        result.show()


def test_show_displays_below_the_cell_of_a_notebook(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    ipython = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    display = types.SimpleNamespace(display=lambda image: shown.append(image.size))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    result.show()
    assert shown == [(64, 48)]
