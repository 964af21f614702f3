"""Corrupt data sets on the command line: one error names the file, and only finished images remain."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.prepare_folders import (
    SOURCES,
    Damage,
    ade20k,
    cityscapes,
    coco_images,
    coco_instances,
    coco_pngs,
    converted,
    custom,
    cut,
    cvat,
    edited,
    emptied,
    entry,
    huge,
    labelme,
    linked_out,
    mapillary,
    masks,
    pixel,
    png_pairs,
    removed,
    renamed,
    replaced,
    smaller,
    text,
    unlabeled,
    written,
    yolo,
)
from tests.helpers import run

Build = Callable[[Path], list[str]]

CUSTOM, PNGS = "annotations/panoptic_val.json", "annotations/panoptic_val"
INSTANCES = "annotations/instances_val.json"
STREET = "gtFine/val/ulm/ulm_000000_000001_gtFine_instanceIds.png"
STREET_PICTURE = "leftImg8bit/val/ulm/ulm_000000_000001_leftImg8bit.png"
ADE, ADE_OBJECTS = "annotations/validation/a.png", "annotations_instance/validation/a.png"
VISTAS = "training/v1.2/instances/a.png"
XML = "annotations.xml"
IMAGE_ZIP, PNG_ZIP = "val2017.zip", "annotations/panoptic_val2017.zip"

CASES: dict[str, tuple[Build, Damage, list[str]]] = {
    # The annotation.
    "custom: JSON empty": (custom, written(CUSTOM, ""), [CUSTOM]),
    "custom: JSON truncated": (custom, cut(CUSTOM, -40), ["panoptic_val.json", "truncated"]),
    "custom: JSON of another kind": (custom, written(CUSTOM, "[1, 2]"), [CUSTOM]),
    "custom: no images listed": (custom, edited(CUSTOM, lambda c: c.update(images=[], annotations=[])), [CUSTOM]),
    "custom: id listed twice": (custom, edited(CUSTOM, lambda c: c["images"].append(c["images"][0])), [CUSTOM, "100"]),
    "custom: segment without category": (
        custom,
        edited(CUSTOM, lambda c: c["annotations"][0]["segments_info"][0].pop("category_id")),
        ["panoptic_val.json", "category_id None"],
    ),
    "custom: no PNG for an id": (
        custom,
        edited(CUSTOM, lambda c: c["annotations"][0]["segments_info"].pop()),
        ["0.mask.png", "segment ids 5 only in the PNG"],
    ),
    "coco-instances: JSON truncated": (coco_instances, cut(INSTANCES, -40), [INSTANCES]),
    "coco-instances: polygon of two numbers": (
        coco_instances,
        edited(INSTANCES, lambda c: c["annotations"][0].update(segmentation=[[1, 2]])),
        ["instances_val.json", "annotation 1"],
    ),
    "coco-instances: RLE of another size": (
        coco_instances,
        edited(INSTANCES, lambda c: c["annotations"][0].update(segmentation={"size": [12, 16], "counts": [5]})),
        ["instances_val.json", "annotation 1", "add up to 5"],
    ),
    "coco-instances: no annotation at all": (coco_instances, removed(INSTANCES), ["instances_<split>.json"]),
    "labelme: JSON truncated": (labelme, cut("a.json", -10), ["a.json is not valid JSON, or is truncated"]),
    "labelme: a cuboid": (labelme, replaced("a.json", '"polygon"', '"cuboid"'), ["a.json", "(car)", "shape_type"]),
    "labelme: only lines": (
        labelme,
        lambda root: [replaced(f"{name}.json", '"polygon"', '"line"')(root) for name in "ab"],
        ["has a labeled shape with an area"],
    ),
    "labelme: coordinates far outside": (labelme, replaced("a.json", "[3, 4]", "[300, 4]"), ["a.json", "(car)"]),
    "yolo: a word": (yolo, replaced("labels/train/a.txt", "0.1875", "left"), ["a.txt", "line 1", "non-numbers"]),
    "yolo: a box": (yolo, written("labels/train/a.txt", "0 0.5 0.5 0.1 0.1\n"), ["a.txt", "line 1"]),
    "cvat: XML truncated": (cvat, cut("annotations.xml", -30), ["annotations.xml"]),
    "cvat: document type": (
        cvat,
        replaced("annotations.xml", "<annotations>", '<!DOCTYPE a [<!ENTITY b SYSTEM "/etc/passwd">]><annotations>'),
        ["annotations.xml", "DOCTYPE"],
    ),
    # Categories.
    "custom: category twice": (
        custom,
        edited(CUSTOM, lambda c: c["categories"].append(c["categories"][0])),
        ["panoptic_val.json", "category ids [7] appear more than once"],
    ),
    "custom: isthing missing": (custom, edited(CUSTOM, lambda c: c["categories"][0].pop("isthing")), [CUSTOM]),
    "custom: no categories": (custom, edited(CUSTOM, lambda c: c.update(categories=[])), [CUSTOM]),
    "custom: category unknown": (
        custom,
        edited(CUSTOM, lambda c: c["annotations"][0]["segments_info"][0].update(category_id=99)),
        ["panoptic_val.json", "category_id 99"],
    ),
    "coco-instances: category unknown": (
        coco_instances,
        edited(INSTANCES, lambda c: c["annotations"][0].update(category_id=99)),
        ["instances_val.json", "99"],
    ),
    "labelme: no class drawn": (labelme, unlabeled, ["--classes FILE"]),
    "yolo: class number unknown": (yolo, replaced("labels/train/a.txt", "0 ", "5 "), ["a.txt", "line 1", "5"]),
    "yolo: no names": (yolo, written("data.yaml", "nc: 3\n"), ["data.yaml"]),
    "cvat: label unknown": (cvat, replaced(XML, 'label="car"', 'label="bus"'), [XML, "bus"]),
    "png-pairs: class file with an id twice": (
        png_pairs,
        written("classes.csv", "id,name,kind\n26,car,thing\n26,road,stuff\n"),
        ["classes.csv", "26"],
    ),
    "png-pairs: class id unknown": (png_pairs, pixel("semantic/a.png", 9), ["semantic/a.png", "9"]),
    "masks: class file without isthing": (masks, written("classes.csv", "id,name\n1,car\n"), ["classes.csv"]),
    "masks: class unknown": (masks, renamed("masks/a/car_1.png", "bus.png"), ["bus.png", "bus"]),
    "cityscapes: label id unknown": (cityscapes, pixel(STREET, 60_001), [STREET, "60"]),
    "ade20k: class of an object unknown": (ade20k, pixel(ADE_OBJECTS, (120, 1, 0)), [ADE_OBJECTS, "120"]),
    "ade20k: class id unknown": (ade20k, pixel(ADE, 200), [ADE, "200"]),
    "mapillary: label unknown": (mapillary, pixel(VISTAS, 256 * 90), [VISTAS, "90"]),
    "mapillary: config truncated": (mapillary, cut("config_v1.2.json", -9), ["config_v1.2.json"]),
    # PNGs of labels.
    "custom: PNG missing": (custom, removed(f"{PNGS}/0.mask.png"), ["0.mask.png is missing"]),
    "custom: PNG empty": (custom, written(f"{PNGS}/0.mask.png", ""), ["0.mask.png is empty"]),
    "custom: PNG truncated": (custom, cut(f"{PNGS}/0.mask.png", -20), ["0.mask.png", "truncated"]),
    "custom: PNG is text": (custom, written(f"{PNGS}/0.mask.png", "PNG"), ["0.mask.png is not a PNG"]),
    "custom: PNG with palette": (custom, converted(f"{PNGS}/0.mask.png", "P"), ["0.mask.png", "palette"]),
    "custom: PNG with alpha": (custom, converted(f"{PNGS}/0.mask.png", "RGBA"), ["0.mask.png", "alpha"]),
    "custom: PNG of another size": (custom, smaller(f"{PNGS}/0.mask.png"), ["0.mask.png", "60x39"]),
    "cityscapes: PNG truncated": (cityscapes, cut(STREET, -20), [STREET, "truncated"]),
    "cityscapes: PNG in color": (cityscapes, converted(STREET, "RGB"), [STREET, "RGB"]),
    "ade20k: PNG of another size": (ade20k, smaller(ADE), [ADE, "16x11"]),
    "mapillary: PNG missing": (mapillary, removed(VISTAS), [VISTAS]),
    "png-pairs: PNG missing": (png_pairs, removed("instance/a.png"), ["instance/a.png"]),
    "masks: PNG truncated": (masks, cut("masks/a/car_1.png", -20), ["car_1.png"]),
    "masks: PNG of another size": (masks, smaller("masks/a/car_1.png"), ["car_1.png", "16x11"]),
    # Images.
    "custom: image missing": (custom, removed("images/val/0.png"), ["0.png is missing"]),
    "custom: image is text": (custom, written("images/val/0.png", "image"), ["0.png"]),
    "custom: image of another size": (custom, smaller("images/val/0.png"), ["0.png", "60x39"]),
    "coco-instances: image missing": (coco_instances, removed("images/val/a.jpg"), ["a.jpg is missing"]),
    "labelme: image missing": (labelme, removed("a.jpg"), ["a.jpg"]),
    "labelme: image of another size": (labelme, smaller("a.jpg"), ["a.json", "16x12", "16x11"]),
    "yolo: image truncated": (yolo, cut("images/train/a.jpg", 30), ["a.jpg"]),
    "cvat: image missing": (cvat, removed("images/a.jpg"), ["a.jpg"]),
    # Implausible sizes.
    "custom: huge image": (custom, huge("images/val/0.png"), ["images/val/0.png"]),
    "custom: huge PNG": (custom, huge(f"{PNGS}/0.mask.png"), ["0.mask.png", "cannot be decoded"]),
    "cityscapes: huge image": (cityscapes, huge(STREET_PICTURE), [STREET_PICTURE, "implausible size"]),
    "cityscapes: huge PNG": (cityscapes, huge(STREET, 0, 16), [STREET, "implausible size"]),
    "ade20k: huge PNG": (ade20k, huge(ADE, 0), [ADE, "implausible size"]),
    "ade20k: huge PNG of objects": (ade20k, huge(ADE_OBJECTS), [ADE_OBJECTS, "implausible size"]),
    "mapillary: huge PNG": (mapillary, huge(VISTAS, 0, 16), [VISTAS, "implausible size"]),
    "png-pairs: huge PNG": (png_pairs, huge("semantic/a.png", 0), ["semantic/a.png", "implausible size"]),
    "masks: huge PNG": (masks, huge("masks/a/car_1.png", 0), ["car_1.png", "implausible size"]),
    "labelme: huge image": (labelme, huge("a.jpg"), ["a.jpg", "implausible size"]),
    "coco-instances: huge image in the JSON": (
        coco_instances,
        edited(INSTANCES, lambda c: c["images"][0].update(height=60_000, width=60_000)),
        ["a.jpg", "60000x60000"],
    ),
    "cvat: huge image in the XML": (cvat, replaced(XML, 'width="16"', 'width="60000"'), ["a.jpg", "60000"]),
    # Names that are not valid Unicode.
    "custom: name of a category in half characters": (
        custom,
        edited(CUSTOM, lambda c: c["categories"][0].update(name="\ud800")),
        ["panoptic_val.json", "has the name '\\ud800', not valid Unicode"],
    ),
    "coco-instances: name of a category in half characters": (
        coco_instances,
        edited(INSTANCES, lambda c: c["categories"][0].update(name="\ud800")),
        ["instances_val.json", "has the name '\\ud800', not valid Unicode"],
    ),
    "coco-instances: name of an image in half characters": (
        coco_instances,
        edited(INSTANCES, lambda c: c["images"][0].update(file_name="\ud800.jpg")),
        ["instances_val.json", "'\\ud800.jpg' is not a valid file name"],
    ),
    # Names and links that point outside.
    "custom: name climbs": (
        custom,
        edited(CUSTOM, lambda c: c["images"][0].update(file_name="../x.png")),
        ["'../x.png' points outside"],
    ),
    "custom: name absolute": (
        custom,
        edited(CUSTOM, lambda c: c["annotations"][0].update(file_name="/etc/x.png")),
        ["'/etc/x.png' points outside"],
    ),
    "custom: image is a link": (custom, linked_out("images/val/0.png"), ["'0.png' points outside"]),
    "custom: PNG is a link": (custom, linked_out(f"{PNGS}/0.mask.png"), ["'0.mask.png' points outside"]),
    "coco-instances: name climbs": (
        coco_instances,
        edited(INSTANCES, lambda c: c["images"][0].update(file_name="../../../x.jpg")),
        ["instances_val.json", "points outside"],
    ),
    "coco-instances: image is a link": (coco_instances, linked_out("images/val/a.jpg"), ["'a.jpg' points outside"]),
    "labelme: name climbs": (labelme, replaced("a.json", "a.jpg", "../a.jpg"), ["a.json", "points outside"]),
    "labelme: name absolute": (labelme, replaced("a.json", "a.jpg", "/etc/x.jpg"), ["a.json", "the absolute path"]),
    "labelme: image is a link": (labelme, linked_out("a.jpg"), ["'a.jpg' points outside"]),
    "yolo: image is a link": (yolo, linked_out("images/train/a.jpg"), ["'a.jpg' points outside"]),
    "cvat: name climbs": (cvat, replaced(XML, '"a.jpg"', '"../../a.jpg"'), [XML, "points outside"]),
    "cityscapes: PNG is a link": (cityscapes, linked_out(STREET), ["instanceIds.png' points outside"]),
    "ade20k: PNG is a link": (ade20k, linked_out(ADE), ["a.png' points outside"]),
    "mapillary: image is a link": (mapillary, linked_out("training/images/a.jpg"), ["a.jpg' points outside"]),
    "png-pairs: PNG is a link": (png_pairs, linked_out("semantic/a.png"), ["a.png' points outside"]),
    "masks: PNG is a link": (masks, linked_out("masks/a/car_1.png"), ["car_1.png' points outside"]),
    # Zips.
    "coco: image zip truncated": (coco_images, cut(IMAGE_ZIP, -30), [f"{IMAGE_ZIP} is corrupt or not a zip"]),
    "coco: zip is text": (coco_pngs, written(PNG_ZIP, "zip"), [f"{PNG_ZIP} is corrupt or not a zip"]),
    "coco: entry climbs": (coco_images, entry(IMAGE_ZIP, "../../x.png"), [IMAGE_ZIP, "'../../x.png' points outside"]),
    "coco: entry absolute": (coco_pngs, entry(PNG_ZIP, "/etc/x.png"), [PNG_ZIP, "'/etc/x.png' points outside"]),
    "coco: entry is a link": (
        coco_pngs,
        entry(PNG_ZIP, "panoptic_val2017/x", stat.S_IFLNK | 0o777),
        [PNG_ZIP, "is a link"],
    ),
    "coco: entry below a file": (coco_images, entry(IMAGE_ZIP, "val2017/0.png/x"), [IMAGE_ZIP]),
    # Missing and empty folders.
    "custom: folder missing": (custom, shutil.rmtree, ["does not exist"]),
    "cityscapes: folder empty": (cityscapes, emptied, []),
    "ade20k: folder empty": (ade20k, emptied, []),
    "mapillary: folder empty": (mapillary, emptied, []),
    "coco-instances: folder empty": (coco_instances, emptied, []),
    "png-pairs: folder empty": (png_pairs, emptied, ["classes.csv"]),
    "masks: no image": (masks, lambda root: emptied(root / "images"), ["images"]),
    "labelme: folder empty": (labelme, emptied, []),
    "yolo: no image": (yolo, lambda root: emptied(root / "images/train"), ["data, train: no images found"]),
    "cvat: no image": (cvat, written("annotations.xml", "<annotations></annotations>"), ["annotations.xml"]),
}  # fmt: skip


MAPS: dict[str, tuple[str, list[str]]] = {
    "not YAML": ("{truck", ["map.yaml"]),
    "a list": ("- truck\n", ["map.yaml"]),
    "empty": ("", ["map.yaml"]),
    "a number for a name": ("ball: 3\n", ["map.yaml", "ball"]),
    "unknown name": ("truck: vehicle\n", ["map.yaml", "truck"]),
    "nothing left": ("box: void\nball: void\nsky: void\n", ["map.yaml", "all categories become void"]),
    "things and stuff as one": ("box: all\nsky: all\n", ["map.yaml", "things and stuff are both mapped to 'all'"]),
    "an id twice": ("map: {box: crate}\ncategories: [{name: crate, id: 3}]\n", ["map.yaml"]),
    "isthing a word": ("map: {box: crate}\ncategories: [{name: crate, isthing: very}]\n", ["map.yaml"]),
}

OPTIONS: dict[str, tuple[list[str], list[str]]] = {
    "subset of too many": (["subset", "--images", "3"], [CUSTOM, "annotates only 2 images"]),
    "subset of an unknown image": (["subset", "--list", "{root}/list.txt"], ["list.txt, line 2", "'9.png'"]),
    "subset of a missing list": (["subset", "--list", "{root}/none.txt"], ["none.txt"]),
    "split without a rest": (["split", "--val", "2"], ["--val 2 of the 2 images in"]),
    "split of an unknown split": (["split", "--split", "test"], ["no split 'test'"]),
    "merge with itself": (["merge", "--with", "{root}"], ["are the same data set", "choose another one"]),
    "merge with nothing": (["merge", "--with", "{root}/nothing"], ["nothing does not exist"]),
    "split that climbs": (["custom", "--split", "../x"], ["'../x'"]),
}


def snapshot(folder: Path, without: Path) -> dict[str, Any]:
    """Return name and content of all files in `folder` except those in `without`."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path != without and without not in path.parents:
            found[str(path)] = path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
    return found


def prepared(folder: Path, build: Build) -> tuple[Path, list[str]]:
    """Return a valid data set and the command that converts it into the folder `out`."""
    root = folder / "data"
    (folder / "outside").mkdir()
    root.mkdir()
    words = build(root)
    return root, ["prepare-data", *words, "--root", str(root), "--out", str(folder / "out"), "--workers", "1"]


def check_failure(command: list[str], words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Expect exit code 2, one error with these words, and no changes except finished images in `out`."""
    out = folder / "out"
    before = snapshot(folder, out)
    capsys.readouterr()
    assert run(*command) == 2
    printed, err = capsys.readouterr()
    assert printed == ""
    assert "Traceback" not in err
    assert err.count("Error: ") == 1
    for word in words:
        assert word in err
    assert snapshot(folder, out) == before
    left = [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()] if out.is_dir() else []
    finished = r"(annotations/)?\.panoptic_\w+\.parts/.*|(.*/)?[^./][^/]*\.(png|jpg)"
    assert [name for name in left if not re.fullmatch(finished, name)] == []


@pytest.mark.parametrize("build", SOURCES, ids=lambda build: build.__name__)
def test_valid_data_sets_are_converted(build: Build, tmp_path: Path) -> None:
    _, command = prepared(tmp_path, build)
    assert run(*command) == 0
    assert (tmp_path / "out/manifest.json").is_file()


@pytest.mark.parametrize("name", CASES)
def test_corruption_is_reported_in_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build, damage, words = CASES[name]
    root, command = prepared(tmp_path, build)
    damage(root)
    check_failure(command, [str(root), *words], tmp_path, capsys)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("custom")])
def test_reshaping_rejects_invalid_data_sets(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build, damage, words = CASES[name]
    root, command = prepared(tmp_path, build)
    text(root / "map.yaml", "box: crate\n")
    damage(root)
    check_failure(["prepare-data", "remap", "--map", str(root / "map.yaml"), *command[2:]], words[:1], tmp_path, capsys)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("custom")])
def test_verify_finds_problems_without_changing_files(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, damage, words = CASES[name]
    root, _ = prepared(tmp_path, build)
    damage(root)
    before = snapshot(tmp_path, tmp_path / "out")
    capsys.readouterr()
    code = run("prepare-data", "verify", str(root), "--workers", "1", "--json")
    printed, err = capsys.readouterr()
    assert (code, err.count("Error: ")) in ((1, 0), (2, 1))
    assert "Traceback" not in err
    # A finding may name the image where the check names its PNG.
    file = Path(words[0].split()[0].strip("'")).name.replace(".mask", "")
    found = (printed if code == 1 else err).replace(".mask", "")
    assert file in found or "panoptic_val.json: '0.png'" in found
    assert snapshot(tmp_path, tmp_path / "out") == before


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("subcommand", ["remap", "merge"])
def test_invalid_category_maps(subcommand: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = MAPS[name]
    root, command = prepared(tmp_path, custom)
    text(root / "map.yaml", content)
    other = ["--with", str(shutil.copytree(root, tmp_path / "other"))] if subcommand == "merge" else []
    options = ["--map", str(root / "map.yaml"), *other]
    check_failure(["prepare-data", subcommand, *options, *command[2:]], words, tmp_path, capsys)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_do_not_match_the_data(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, words = OPTIONS[name]
    root, command = prepared(tmp_path, custom)
    text(root / "list.txt", "0.png\n9.png\n")
    named = [option.format(root=root) for option in options]
    check_failure(["prepare-data", *named, *command[2:]], words, tmp_path, capsys)


@pytest.mark.parametrize(
    ("build", "place"),
    [(custom, "out"), (labelme, "out"), (labelme, "out/annotations"), (cityscapes, "out/images")],
)
def test_a_file_where_a_folder_is_needed(
    build: Build, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, command = prepared(tmp_path, build)
    text(tmp_path / place, "unrelated")
    capsys.readouterr()
    assert run(*command) == 2
    err = capsys.readouterr().err
    assert f"cannot write {tmp_path / place}" in err
    assert err.count("Error: ") == 1
    assert (tmp_path / place).read_text() == "unrelated"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can write everywhere")
def test_an_unwritable_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, command = prepared(tmp_path, labelme)
    (tmp_path / "out").mkdir(mode=0o555)
    check_failure(command, [f"cannot write {tmp_path / 'out'}", "Permission denied"], tmp_path, capsys)


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "panoptic_train.json", "summary.json", "summary.html", "manifest.json"]
)
def test_resuming_after_a_full_disk(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, command = prepared(tmp_path, labelme)
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        capsys.readouterr()
        assert run(*command) == 2
    err = capsys.readouterr().err
    assert err.count("Error: ") == 1
    assert re.search(f"cannot write {re.escape(str(tmp_path / 'out'))}/.*{name}: No space left on device", err)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert not list((tmp_path / "out").rglob(name))
    assert run(*command) == 0
    assert (tmp_path / "out" / "manifest.json").is_file()


@pytest.mark.parametrize("build", [coco_images, coco_pngs], ids=lambda build: build.__name__)
def test_no_space_to_unpack(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, command = prepared(tmp_path, build)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    check_failure(command, [".zip needs 0.00 GB", "free some space"], tmp_path, capsys)
