"""A small valid data set for each source of `prepare-data`, and ways to corrupt files."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data.coco.coco_files import write_coco
from tests.data.coco.png_files import END, SIGNATURE, header, image_data

HEIGHT, WIDTH = 12, 16
CLASSES = "id,name,kind\n26,car,thing\n7,road,stuff\n"
Damage = Callable[[Path], Any]


def save_image(path: Path, tone: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (tone, 10, 200)).save(path)


def label(path: Path, values: Any, kind: Any = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values).astype(kind)).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def drawn(background: int, thing: int) -> Any:
    """Return values (12, 16) with a box of `thing` on `background`."""
    values = np.full((HEIGHT, WIDTH), background)
    values[4:8, 3:9] = thing
    return values


def outline() -> list[list[float]]:
    """Return the corners of the box in `drawn`."""
    return [[3, 4], [9, 4], [9, 8], [3, 8]]


def custom(root: Path) -> list[str]:
    write_coco(root, 2)
    return ["custom"]


def coco_images(root: Path) -> list[str]:
    """With zipped images."""
    write_coco(root, 2, "val2017")
    pack(root / "val2017.zip", root / "images" / "val2017")
    return ["coco"]


def coco_pngs(root: Path) -> list[str]:
    """With zipped PNGs."""
    write_coco(root, 2, "val2017")
    pack(root / "annotations" / "panoptic_val2017.zip", root / "annotations" / "panoptic_val2017")
    return ["coco"]


def pack(archive: Path, folder: Path) -> None:
    """Move the files of `folder` into a zip."""
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(folder.iterdir()):
            opened.write(path, f"{folder.name}/{path.name}")
            path.unlink()
    folder.rmdir()


def cityscapes(root: Path, split: str = "val") -> list[str]:
    for number in (1, 2):
        frame = f"ulm_000000_00000{number}"
        save_image(root / f"leftImg8bit/{split}/ulm/{frame}_leftImg8bit.png", number)
        label(root / f"gtFine/{split}/ulm/{frame}_gtFine_instanceIds.png", drawn(7, 26001), np.uint16)
    return ["cityscapes"]


def ade20k(root: Path, split: str = "validation") -> list[str]:
    for name in ("a", "b"):
        save_image(root / f"images/{split}/{name}.jpg", ord(name))
        label(root / f"annotations/{split}/{name}.png", drawn(1, 8))
        objects = np.zeros((HEIGHT, WIDTH, 3))
        objects[4:8, 3:9] = (1, 3, 0)
        label(root / f"annotations_instance/{split}/{name}.png", objects)
    return ["ade20k"]


def mapillary(root: Path, split: str = "training") -> list[str]:
    names = [("nature--sky", False), ("object--vehicle--car", True)]
    labels = [
        {"name": name, "readable": name, "instances": is_thing, "evaluate": True, "color": [1, 2, 3]}
        for name, is_thing in names
    ]
    text(root / "config_v1.2.json", json.dumps({"labels": labels, "version": "1.2"}))
    for name in ("a", "b"):
        save_image(root / f"{split}/images/{name}.jpg", ord(name))
        label(root / f"{split}/v1.2/instances/{name}.png", drawn(0, 256 + 1), np.uint16)
    return ["mapillary"]


def coco_instances(root: Path) -> list[str]:
    corners = [number for point in outline() for number in point]
    rows = [
        {"id": number, "image_id": number, "category_id": 3, "iscrowd": 0, "segmentation": [corners]}
        for number in (1, 2)
    ]
    images = [
        {"id": n, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH} for n, name in ((1, "a"), (2, "b"))
    ]
    content = {"images": images, "annotations": rows, "categories": [{"id": 3, "name": "car"}]}
    text(root / "annotations/instances_val.json", json.dumps(content))
    for name in ("a", "b"):
        save_image(root / f"images/val/{name}.jpg", ord(name))
    return ["coco-instances"]


def png_pairs(root: Path) -> list[str]:
    text(root / "classes.csv", CLASSES)
    for name in ("a", "b"):
        save_image(root / f"images/{name}.jpg", ord(name))
        label(root / f"semantic/{name}.png", drawn(7, 26))
        label(root / f"instance/{name}.png", drawn(0, 1), np.uint16)
    return ["png-pairs", "--classes", str(root / "classes.csv")]


def masks(root: Path) -> list[str]:
    text(root / "classes.csv", CLASSES)
    for name in ("a", "b"):
        save_image(root / f"images/{name}.jpg", ord(name))
        label(root / f"masks/{name}/car_1.png", drawn(0, 255))
        label(root / f"masks/{name}/road.png", drawn(255, 0))
    return ["masks", "--classes", str(root / "classes.csv")]


def labelme(root: Path) -> list[str]:
    for name in ("a", "b"):
        save_image(root / f"{name}.jpg", ord(name))
        shape: dict[str, Any] = {
            "label": "car",
            "points": outline(),
            "shape_type": "polygon",
            "group_id": None,
            "flags": {},
        }
        content = {"shapes": [shape], "imagePath": f"{name}.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH}
        text(root / f"{name}.json", json.dumps(content))
    return ["labelme"]


def yolo(root: Path) -> list[str]:
    text(root / "data.yaml", "names: [car, road]\n")
    for name in ("a", "b"):
        save_image(root / f"images/train/{name}.jpg", ord(name))
        shares = " ".join(f"{x / WIDTH:.4f} {y / HEIGHT:.4f}" for x, y in outline())
        text(root / f"labels/train/{name}.txt", f"0 {shares}\n")
    return ["yolo"]


def cvat(root: Path) -> list[str]:
    points = ";".join(f"{x},{y}" for x, y in outline())
    rows = "\n".join(
        f'<image id="{number}" name="{name}.jpg" width="{WIDTH}" height="{HEIGHT}">'
        f'<polygon label="car" occluded="0" points="{points}"/></image>'
        for number, name in enumerate("ab")
    )
    labels = "<labels><label><name>car</name><color>#0000ff</color></label></labels>"
    head = f"<version>1.1</version><meta><task><id>4</id><name>mine</name>{labels}</task></meta>"
    text(root / "annotations.xml", f'<?xml version="1.0"?>\n<annotations>\n{head}\n{rows}\n</annotations>\n')
    for name in ("a", "b"):
        save_image(root / f"images/{name}.jpg", ord(name))
    return ["cvat"]


SOURCES: Sequence[Callable[[Path], list[str]]] = (
    custom, coco_images, coco_pngs, cityscapes, ade20k, mapillary,
    coco_instances, png_pairs, masks, labelme, yolo, cvat,
)  # fmt: skip


def cut(name: str, kept: int) -> Damage:
    """Keep the first `kept` bytes of a file, or drop bytes at its end if negative."""
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:kept])


def replaced(name: str, old: str, new: str) -> Damage:
    """Replace a word in a text file."""

    def damage(root: Path) -> None:
        content = (root / name).read_text()
        assert old in content
        (root / name).write_text(content.replace(old, new, 1))

    return damage


def written(name: str, content: str | bytes) -> Damage:
    return lambda root: (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def edited(name: str, change: Callable[[Any], object]) -> Damage:
    """Change the content of a JSON."""

    def damage(root: Path) -> None:
        content = json.loads((root / name).read_text())
        change(content)
        (root / name).write_text(json.dumps(content))

    return damage


def removed(name: str) -> Damage:
    return lambda root: (root / name).unlink()


def linked_out(name: str) -> Damage:
    """Move a file out of the folder and replace it with a symbolic link."""

    def damage(root: Path) -> None:
        outside = root.parent / "outside" / Path(name).name
        (root / name).rename(outside)
        (root / name).symlink_to(outside)

    return damage


def smaller(name: str) -> Damage:
    """Remove the last row of an image."""

    def damage(root: Path) -> None:
        with Image.open(root / name) as image:
            image.crop((0, 0, image.width, image.height - 1)).save(root / name)

    return damage


def converted(name: str, mode: str) -> Damage:
    def damage(root: Path) -> None:
        with Image.open(root / name) as image:
            image.convert(mode).save(root / name)

    return damage


def huge(name: str, color_type: int = 2, bits: int = 8) -> Damage:
    """Write a PNG that declares 60,000 x 60,000 pixels but has almost no data."""
    start = SIGNATURE + header(60_000, 60_000, (bits, color_type, 0, 0, 0))
    return written(name, start + image_data(zlib.compress(bytes(1000))) + END)


def pixel(name: str, value: Any) -> Damage:
    """Change the last pixel of a PNG."""

    def damage(root: Path) -> None:
        with Image.open(root / name) as image:
            values = np.array(image)
        values[-1, -1] = value
        Image.fromarray(values).save(root / name)

    return damage


def entry(archive: str, name: str, mode: int = 0o100644) -> Damage:
    """Add an entry to a zip; `mode` is its file type and permissions."""

    def damage(root: Path) -> None:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, mode << 16
        with zipfile.ZipFile(root / archive, "a") as opened:
            opened.writestr(info, "/etc/passwd")

    return damage


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def renamed(name: str, new: str) -> Damage:
    return lambda root: (root / name).rename((root / name).with_name(new))


def unlabeled(root: Path) -> None:
    """Remove the shapes from labelme files."""
    for name in ("a.json", "b.json"):
        edited(name, lambda content: content.update(shapes=[]))(root)
