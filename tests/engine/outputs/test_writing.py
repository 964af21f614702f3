"""Files of results: all outputs of an image or none, only in the folder of results, and deleted by the next run."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from panformer_cli.data.coco.panoptic_png import read_panoptic_png
from panformer_cli.data.result_folders import is_result, is_result_folder
from panformer_cli.data.structures import PanopticMap
from panformer_cli.engine.inputs.find import find_images
from panformer_cli.engine.outputs.file_list import listed_files
from panformer_cli.engine.outputs.names import SUFFIXES, USUAL, usable_name
from panformer_cli.engine.outputs.registry import NAMES, OUTPUTS, ResultFile, Saving, SegmentedImage
from panformer_cli.engine.outputs.writing import written_together
from panformer_cli.engine.results import PanopticResults
from panformer_cli.errors import DataError, PanformerError, WriteError
from tests.engine.outputs.results_of import CATEGORIES, begin, expected, files, segmented, write
from tests.engine.small import ALONE

LIST = ".panformer_outputs.jsonl"


def test_every_output_of_an_image(tmp_path: Path) -> None:
    assert write(tmp_path, "in/a.b.jpg") is None
    assert files(tmp_path) == expected("in/a.b") | {"panoptic.json", LIST}
    source = segmented()
    ids = read_panoptic_png(tmp_path / "panoptic/in/a.b.png")
    assert np.array_equal(ids, source.panoptic.ids)
    semantic = np.array(Image.open(tmp_path / "semantic/in/a.b.png"))
    assert (
        semantic.dtype.itemsize == 2
        and semantic.tolist() == np.select([ids == 3, ids == 4, ids == 7], [1, 2, 9], 65535).tolist()
    )
    instances = Image.open(tmp_path / "instances/in/a.b.png")
    assert instances.mode.startswith("I;16") and np.array_equal(np.array(instances), np.where(ids == 7, 0, ids))
    cutout = Image.open(tmp_path / "cutouts/in/a.b/3-traffic-light.png")
    assert cutout.mode == "RGBA" and cutout.size == (3, 3)
    assert np.array_equal(np.array(cutout)[..., :3], source.image[2:5, 1:4])
    mask = Image.open(tmp_path / "masks/in/a.b/7-sky-other.png")
    assert mask.mode == "L" and np.array_equal(np.array(mask), np.where(ids == 7, 255, 0))
    record = json.loads((tmp_path / "segments/in/a.b.json").read_text())
    assert record["image"]["file_name"] == "in/a.b.jpg"
    assert [np.count_nonzero(coco_mask.decode(row["segmentation"])) for row in record["segments"]] == [9, 8, 34]
    assert len(json.loads((tmp_path / "polygons/in/a.b.geojson").read_text())["features"]) == 3
    assert Image.open(tmp_path / "overlays/in/a.b.jpg").size == (10, 8)


def test_the_usual_outputs_have_no_list_of_files(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", save=USUAL)
    assert files(tmp_path) == {"panoptic.json", "panoptic/a.png", "overlays/a.jpg"}


def test_without_the_json_its_content_is_returned(tmp_path: Path) -> None:
    content = write(tmp_path, "a.jpg", "b.jpg", save=["cutouts"])
    assert {name.split("/")[0] for name in files(tmp_path)} == {"cutouts", LIST}
    assert content is not None and [row["file_name"] for row in content["images"]] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("save", [("cutouts",), ("overlay", "masks"), ("json", "semantic"), USUAL, NAMES])
@pytest.mark.parametrize("finish", [True, False])
def test_the_next_run_deletes_what_this_one_wrote_and_nothing_else(
    save: tuple[str, ...], finish: bool, tmp_path: Path
) -> None:
    write(tmp_path, "a.jpg", "in/b.jpg", save=save, finish=finish)
    own: tuple[str, ...] = (
        "masks/a/notes.png",
        "cutouts/9-dog.png",
        "overlays/c.jpg",
        "panoptic/c.png",
        "semantic/in/b.txt",
        "mine.txt",
    )
    own += ("overlays/a.jpg",) if "overlay" not in save else ()
    for name in own:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    write(tmp_path, "z.jpg", save=["polygons"])
    assert files(tmp_path) == {*own, LIST, "polygons/z.geojson"}
    assert all((tmp_path / name).read_text() == "mine" for name in own)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_dir()}
    assert left == {parent.as_posix() for name in [*own, "polygons/z"] for parent in Path(name).parents} - {"."}


def test_a_run_with_the_usual_outputs_replaces_one_with_others(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    write(tmp_path, "b.jpg", save=USUAL)
    assert files(tmp_path) == {"panoptic.json", "panoptic/b.png", "overlays/b.jpg"}
    write(tmp_path, "c.jpg", save=["json", "masks"])
    write(tmp_path, "d.jpg", save=["masks"])
    assert {name for name in files(tmp_path) if "/" in name} == {name for name in expected("d") if "masks" in name}


def test_no_file_of_an_image_appears_if_one_cannot_be_encoded(tmp_path: Path) -> None:
    writer, image = begin(tmp_path, ["a.jpg"]), segmented()
    ids = image.panoptic.ids.copy()
    ids[ids == 3] = 65536
    big = [s.__class__(65536 if s.id == 3 else s.id, s.category_id, s.area, s.bbox) for s in image.panoptic.segments]
    panoptic = image.panoptic.__class__(ids, tuple(big))
    with pytest.raises(
        DataError, match=r"segment id 65536 does not fit into a 16-bit instance map .* 65535; leave out"
    ):
        writer.write(0, image.__class__(image.image, panoptic, CATEGORIES, 0, "a.jpg"), "a.jpg")
    writer.write(1, segmented(1), "b.jpg")
    writer.results.finish()
    assert files(tmp_path) == expected("b") | {"panoptic.json", LIST}
    assert len(json.loads((tmp_path / "panoptic.json").read_text())["images"]) == 1


def test_no_file_of_an_image_appears_if_one_cannot_be_moved(tmp_path: Path) -> None:
    writer = begin(tmp_path, ["a.jpg"])
    (tmp_path / "semantic" / "a.png").mkdir(parents=True)
    with pytest.raises(WriteError, match=r"semantic/a\.png: .*Is a directory"):
        writer.write(0, segmented(), "a.jpg")
    assert {name for name in files(tmp_path) if not name.startswith(".parts")} == {LIST}
    assert not [name for name in files(tmp_path) if name.endswith(".tmp")]


def test_an_image_that_a_format_cannot_have_is_reported(tmp_path: Path) -> None:
    writer = begin(tmp_path, ["a.jpg"], USUAL)
    wide = SegmentedImage(
        np.zeros((1, 65501, 3), np.uint8), PanopticMap(np.zeros((1, 65501), np.int32), ()), CATEGORIES, 0, "a"
    )
    with pytest.raises(DataError, match=r"cannot write the overlay of a: 65501x1 pixels exceed the limit of \.jpg"):
        writer.write(0, wide, "a.jpg")
    writer.results.finish()
    assert files(tmp_path) == {"panoptic.json"}


def test_files_are_copied_to_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of an output may be a link to another disk, to which files cannot be renamed."""
    replace = os.replace

    def refuses(source: Any, target: Any) -> None:
        if ".parts" in str(source) and ".parts" not in str(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuses)
    write(tmp_path, "a.jpg")
    assert files(tmp_path) == expected("a") | {"panoptic.json", LIST}
    assert np.array_equal(read_panoptic_png(tmp_path / "panoptic/a.png"), segmented().panoptic.ids)


def test_a_process_killed_between_two_files_leaves_nothing_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended without cleaning up after the third of ten files, and by a kill while the temporary files are written."""

    class Killed(BaseException):
        pass

    replace, moved = os.replace, []

    def dies(source: Any, target: Any) -> None:
        if "panoptic_outputs" not in str(target) and ".parts" not in str(target):
            moved.append(target)
            if len(moved) == 4:
                raise Killed
        replace(source, target)

    writer = begin(tmp_path, ["a.jpg"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process cleans nothing up
        with pytest.raises(Killed):
            writer.write(0, segmented(), "a.jpg")
    writer.results.log.close()
    assert len(expected("a") & files(tmp_path)) == 3
    assert list(PanopticResults(tmp_path, CATEGORIES, ALONE).done()) == [], "not all files exist"
    write(tmp_path, "z.jpg", save=["semantic"])
    assert files(tmp_path) == {"semantic/z.png", LIST}


def test_a_finished_image_is_known(tmp_path: Path) -> None:
    for save in (USUAL, NAMES):
        write(tmp_path, "a.jpg", "b.jpg", save=save, finish=False)
        (tmp_path / "overlays" / "b.jpg").unlink()
        (line,) = PanopticResults(tmp_path, CATEGORIES, ALONE).done()
        assert line["image"]["file_name"] == "a.jpg"
        shutil.rmtree(tmp_path)


@pytest.mark.parametrize("name", ["semantic/a.png", "masks/a/3-cat.png", "masks/a", "polygons/a.geojson"])
def test_files_of_others_are_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(PanformerError, match=rf"{re.escape(name)} is not a result of panformer and would be replaced"):
        write(tmp_path, "a.jpg")
    assert files(tmp_path) == {name}
    write(tmp_path, "a.jpg", save=USUAL)
    assert (tmp_path / name).read_text() == "mine"


def test_results_do_not_leave_the_folder(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    (out / "masks").mkdir(parents=True)
    (out / "masks" / "a").symlink_to(other)
    with pytest.raises(DataError, match="points outside"):
        write(out, "a.jpg")
    for name in ("../b", "masks/../../b", "/b", "masks"):
        with (
            pytest.raises(DataError, match="outside|not the path of a result"),
            written_together(out, [ResultFile(name, b"")], tmp_path / ".0"),
        ):
            pass
    assert files(other) == set() and not (tmp_path / "b").exists()


def test_the_folder_of_an_output_may_be_a_link(tmp_path: Path) -> None:
    out, disk = tmp_path / "out", tmp_path / "disk"
    disk.mkdir()
    out.mkdir()
    (out / "masks").symlink_to(disk)
    write(out, "a.jpg", save=["masks"])
    assert len(files(disk)) == 3
    write(out, "b.jpg", save=["masks"])
    assert len(files(disk)) == 3 and (out / "masks").is_symlink()


def test_a_list_that_was_changed_deletes_nothing_outside(tmp_path: Path) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine.txt"
    mine.write_text("mine")
    write(out, "a.jpg", save=["masks"])
    for line in ('["../mine.txt", "masks/../../mine.txt", 5, "x/../../mine.txt"]', "[", "{}", "5", '{"files": 1}'):
        with (out / LIST).open("a") as file:
            file.write(line + "\n")
    assert len(list(listed_files(out))) == 3
    write(out, "b.jpg", save=["masks"])
    assert mine.read_text() == "mine"


def names_of(tmp_path: Path, *given: str) -> list[str]:
    """Return the result names of image files, each given by itself or in the folder before `//`."""
    inputs = []
    for number, name in enumerate(given):
        path = tmp_path / str(number) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, format="PNG")
        inputs.append(str(tmp_path / str(number)))
    return [image.name for image in find_images(inputs, tmp_path / "out").images]


CLASHING = [
    ("a.png", "a.jpg", "A.bmp", "a_2.png"),
    ("a.png", "a.jpg/b.png", "a_jpg/b.png"),
    ("a.png", "a.png/b.png", "a.json/c.png", "A.GEOJSON/c.png"),
    ("a.png", "a/b.png", "a/3-traffic-light.png", "a/3-traffic-light.png.jpg", "a/3.png.jpg/x.png"),
    ("x/a:b.png", "x/a\\b.png", "x/a_b.png"),
    ("a..png", "a.png", "a.b.png", "a.b.c.png"),
    (*(f"{'x' * 250}{number}.png" for number in range(2)), f"{'é' * 125}.png", f"{'é' * 125}.jpg"),
]


@pytest.mark.parametrize("given", CLASHING)
def test_results_of_any_names_do_not_collide(given: tuple[str, ...], tmp_path: Path) -> None:
    names = names_of(tmp_path / "in", *given)
    assert len(names) == len(given)
    write(tmp_path / "out", *names)
    per_image = len(expected("a"))
    found = {name.lower() for name in files(tmp_path / "out")} - {"panoptic.json", LIST}
    assert len(found) == per_image * len(given)


@pytest.mark.parametrize(("name", "stem"), [("..png", "_"), ("...png", "_"), (" .png", "_"), (".a.png", ".a")])
def test_a_name_of_dots_is_no_folder_of_others(name: str, stem: str, tmp_path: Path) -> None:
    write(tmp_path / "out", usable_name(Path(name)).as_posix())
    assert expected(stem) <= files(tmp_path / "out")


def test_results_are_not_inputs(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "masks" / "b.png")
    out = tmp_path / "out"
    for finish in (True, False):
        write(out, "a.jpg", save=["masks", "cutouts"], finish=finish)
        for given in (tmp_path, f"{tmp_path}/**/*.png"):
            found = find_images([str(given)], tmp_path / "elsewhere")
            assert [image.name for image in found.images][-1] == "b.png" or found.images[-1].name == "masks/b.png"
            assert len(found.images) == 2 and "6 results of an earlier call" in found.notes[0]
        assert is_result(out) and is_result_folder(out / "masks" / "a") and not is_result_folder(tmp_path / "masks")


def test_the_suffixes_and_folders_of_outputs() -> None:
    assert {output.suffix for output in OUTPUTS} | {".js"} == set(SUFFIXES)  # those of the gallery
    assert len({output.folder for output in OUTPUTS}) == len({output.name for output in OUTPUTS}) == len(OUTPUTS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["mask"], r"--save has no output 'mask'; did you mean masks\? expected some of overlay, panoptic, json, segm"),
        (["overlay", "txt"], r"--save has no output 'txt'; expected some of "),
        (["gallery"], r"--save has no output 'gallery'; the gallery is --gallery; expected some of "),
        ([], "--save names no output"),
    ],
)
def test_unknown_outputs_are_reported(given: list[str], message: str) -> None:
    with pytest.raises(PanformerError, match=message):
        Saving.of(given)
