"""`prepare-data cvat`: layouts that CVAT writes, and annotations without an area."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.cvat import Cvat, open_cvat
from tests.prepare.annotation_tools.converted import areas, converted_train

LABEL = "<label><name>car</name><color>#ff0000</color><type>polygon</type></label>"
BOX = '<box label="car" xtl="2" ytl="3" xbr="12" ybr="8" z_order="0"></box>'  # 10 x 5 pixels


def image(name: str, number: int, *shapes: str, more: str = "") -> str:
    return f'<image id="{number}" name="{name}" width="40" height="30" {more}>{"".join(shapes or [BOX])}</image>'


def write(
    root: Path, kind: str, *rows: str, labels: str = LABEL, more: str = "", name: str = "annotations.xml"
) -> None:
    """Write an XML whose header is that of a task, job or project (`kind`)."""
    root.mkdir(parents=True, exist_ok=True)
    meta = f"<meta><{kind}><id>1</id><name>mine</name>{more}<labels>{labels}</labels></{kind}></meta>"
    (root / name).write_text(
        f"<?xml version='1.0'?><annotations><version>1.1</version>{meta}{''.join(rows)}</annotations>"
    )


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (0, 90, 200)).save(path)


def found(source: Cvat) -> dict[str, list[str]]:
    return {split: [image.file_name for image in source.images(split)] for split in source.splits()}


def opened(root: Path) -> Cvat:
    return open_cvat(root, None, (), "last")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "in"


@pytest.mark.parametrize("kind", ["task", "job"])
def test_a_task_or_a_job(root: Path, kind: str) -> None:
    write(root, kind, image("a.jpg", 0), image("town/b.jpg", 1))
    save(root / "images/a.jpg")
    save(root / "images/town/b.jpg")
    assert found(opened(root)) == {"train": ["a.jpg", "town/b.jpg"]}
    assert areas(converted_train(opened(root))) == [("car", 50, (2, 3, 10, 5))]


def test_files_of_macos_beside_the_xml(root: Path) -> None:
    write(root, "task", image("a.jpg", 0), name="task1.xml")
    (root / "._task1.xml").write_bytes(b"\0\5\x16\7")
    save(root / "images/a.jpg")
    assert found(opened(root)) == {"train": ["a.jpg"]}


def test_the_subset_of_a_task_is_its_split(root: Path) -> None:
    write(root, "task", image("a.jpg", 0), more="<subset>Validation</subset>")
    save(root / "images/a.jpg")
    assert found(opened(root)) == {"Validation": ["a.jpg"]}


def test_the_header_of_a_project_lists_several_tasks(root: Path) -> None:
    tasks = "".join(f"<task><subset>{name}</subset></task>" for name in ("Train", "Val"))
    write(root, "project", image("a.jpg", 0), more=f"<tasks>{tasks}</tasks>")
    save(root / "images/a.jpg")
    assert opened(root).head.subset == "" and found(opened(root)) == {"train": ["a.jpg"]}


def test_a_project_with_subsets(root: Path) -> None:
    """CVAT puts the images of each subset in a folder; images of two subsets may have one name."""
    rows = [
        image("a.jpg", 0, more=f'subset="{subset}" task_id="{task}"') for task, subset in enumerate(["Train", "Val"])
    ]
    write(
        root, "project", *rows, more="<subsets>Train\nVal</subsets><tasks><task><subset>Train</subset></task></tasks>"
    )
    save(root / "images/Train/a.jpg")
    save(root / "images/Val/a.jpg")
    source = opened(root)
    assert found(source) == {"Train": ["a.jpg"], "Val": ["a.jpg"]}
    assert [image.path for image in source.images("Val")] == [root / "images/Val/a.jpg"]


def test_one_image_of_two_subsets(root: Path) -> None:
    """A file that is in no folder of a subset could be the image of either."""
    rows = [image("a.jpg", 0, more='subset="Train"'), image("a.jpg", 0, more='subset="Val"')]
    write(root, "project", *rows, image("b.jpg", 1, more='subset="Train"'))
    save(root / "images/a.jpg")
    save(root / "images/b.jpg")
    a, b = opened(root).images("Train")
    assert "a.jpg could belong to several subsets, which all list 'a.jpg'" in a.problem and not b.problem
    save(root / "images/Train/a.jpg")
    assert [image.problem for image in opened(root).images("Train")] == ["", ""]


def test_the_default_subset_is_train(root: Path) -> None:
    write(
        root, "project", image("a.jpg", 0, more='subset="default"'), image("frame_000001", 1, more='subset="default"')
    )
    save(root / "images/default/a.jpg")
    save(root / "images/default/frame_000001.PNG")
    assert found(opened(root)) == {"train": ["a.jpg", "frame_000001.PNG"]}


def test_the_default_subset_beside_train(root: Path) -> None:
    """Images of two subsets are never merged."""
    write(root, "project", *(image("a.jpg", n, more=f'subset="{s}"') for n, s in enumerate(["default", "train"])))
    save(root / "images/default/a.jpg")
    save(root / "images/train/a.jpg")
    assert found(opened(root)) == {"default": ["a.jpg"], "train": ["a.jpg"]}


def test_an_xml_with_another_name(root: Path) -> None:
    """Older versions of CVAT name it after the task."""
    write(root, "task", image("a.jpg", 0), name="7_street.xml")
    save(root / "a.jpg")
    assert found(opened(root)) == {"train": ["a.jpg"]}
    write(root, "task", image("b.jpg", 0), name="8_street.xml")
    with pytest.raises(DataError, match=r"has several XML files: 7_street.xml, 8_street.xml; expected one"):
        opened(root)
    write(root, "task", image("a.jpg", 0))
    assert opened(root).annotation == root / "annotations.xml"


def test_a_coco_export_names_its_command(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    (root / "annotations/instances_default.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(
        DataError, match=r"annotations.xml is missing.*COCO instances: `panformer prepare-data coco-instances"
    ):
        opened(root)


def test_an_export_without_images(root: Path) -> None:
    write(root, "task", image("a.jpg", 0), image("b.jpg", 1))
    with pytest.raises(DataError, match=r"images/b.jpg is missing, and so are all others .*\(`Save images`\)"):
        list(opened(root).images("train"))


def test_key_points_and_labels_of_lines_are_no_classes(root: Path) -> None:
    labels = [
        "<label><name>car</name><type>any</type></label>",
        "<label><name>lane</name><type>polyline</type></label>",
        "<label><name>body</name><type>skeleton</type><svg>...</svg></label>",
        "<label><name>1</name><type>points</type><parent>body</parent></label>",
        "<label><name>sky</name><type>mask</type></label>",
    ]
    write(root, "task", image("a.jpg", 0), labels="".join(labels))
    assert [(c.id, c.name) for c in opened(root).categories.categories] == [(1, "car"), (2, "sky")]


def test_annotations_without_area_are_counted(root: Path) -> None:
    others = [
        '<polyline label="car" points="1,1;2,2"></polyline>',
        '<points label="car" points="1,1;2,2"></points>',
        '<cuboid label="car" xtl1="1" ytl1="1"></cuboid>',
        '<skeleton label="body"><points label="1" points="3,3"></points></skeleton>',
        '<tag label="night" source="manual"></tag>',
        '<ellipse label="car" cx="30" cy="20" rx="3" ry="3" z_order="0"></ellipse>',
        '<mask label="car" rle="1, 3" left="20" top="2" width="2" height="2" z_order="0"></mask>',
    ]
    write(root, "task", image("a.jpg", 0, BOX, *others))
    save(root / "images/a.jpg")
    ((_, box, _), (_, ellipse, _), (_, mask, _)) = areas(converted_train(opened(root)))
    assert (box, mask) == (50, 3) and abs(ellipse - 28.3) < 4  # pi r^2
    rows = json.loads((root.parent / "out/summary.json").read_text())["train"]["annotations_left_out"]
    assert {row["reason"]: row["count"] for row in rows} == {
        "line or points, without area": 2,
        "cuboid, without outline": 1,
        "skeleton, without area": 1,
        "tag of a whole image": 1,
    }


@pytest.mark.parametrize(
    ("image_kind", "advice"),
    [("images", "missing"), ("", "Save images")],
)
def test_one_missing_image_is_one_bad_image(root: Path, image_kind: str, advice: str) -> None:
    write(root, "task", image("a.jpg", 0), image("b.jpg", 1))
    if image_kind:
        save(root / image_kind / "a.jpg")
    with pytest.raises(DataError, match=advice) as caught:
        converted_train(opened(root))
    assert ("1 of 2 images cannot be used" in str(caught.value)) == bool(image_kind)
