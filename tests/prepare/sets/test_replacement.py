"""`prepare-data merge --replace`: corrected labels go back into their data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.sets.derived import merge
from panformer_cli.reporting import SilentReporter
from tests.data.coco.coco_files import BALL, BOX, CATEGORIES, SKY, colors, scene, segment_info, write_coco
from tests.helpers import run


def names_and_ids(data: CocoPanoptic) -> list[tuple[str, int | str]]:
    return [(info.file_name, info.id) for info in data.listed.images]


def edited(annotation: Path, change: Any) -> None:
    content = json.loads(annotation.read_text())
    change(content)
    annotation.write_text(json.dumps(content))


def rename(annotation: Path, old: str, new: str) -> None:
    """Rename an image of a data set."""
    folder = annotation.parent.parent / "images" / annotation.stem.removeprefix("panoptic_")
    (folder / new).parent.mkdir(exist_ok=True)
    (folder / old).rename(folder / new)
    edited(
        annotation,
        lambda content: [row.update(file_name=new) for row in content["images"] if row["file_name"] == old],
    )


def replaced(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    convert(merge(tmp_path / "a", tmp_path / "b", (), None, True), out, (), ConvertOptions(), SilentReporter())
    return out


def test_images_with_the_same_name_are_replaced_in_any_split(tmp_path: Path) -> None:
    write_coco(tmp_path / "a", 2, "train")
    rename(write_coco(tmp_path / "a", 2, "val", first=5), "6.png", "town/6.png")
    corrected = write_coco(tmp_path / "b", 2, "train", first=5)  # the tool lost the split and the folder
    edited(corrected, lambda content: [row.update(image_id=n) for n, row in enumerate(content["annotations"])])
    edited(corrected, lambda content: [row.update(id=n) for n, row in enumerate(content["images"])])
    ids = np.zeros((40, 60), np.int32)
    ids[30:35, 2:8] = 9
    Image.fromarray(colors(ids)).save(corrected.with_suffix("") / "6.mask.png")
    only = [segment_info(ids, 9, BALL)]
    edited(corrected, lambda content: content["annotations"][1].update(segments_info=only))
    Image.new("RGB", (60, 40)).save(tmp_path / "b/images/train/6.png")  # a copy that the tool changed
    out = replaced(tmp_path)
    train, val = (CocoPanoptic(out, split) for split in ("train", "val"))
    assert names_and_ids(train) == [("0.png", 100), ("1.png", 101)]
    assert names_and_ids(val) == [("5.png", 105), ("town/6.png", 106)]
    assert [segment.area for segment in val[1].annotation.segments] == [30]
    assert (val[1].image == 10 + 20 * 6).all()  # the original image
    assert (val[0].annotation.ids == scene(5)[0]).all()


def test_what_does_not_match_is_refused(tmp_path: Path) -> None:
    write_coco(tmp_path / "a", 3)
    corrected = write_coco(tmp_path / "b", 1)
    rename(corrected, "0.png", "other.png")
    with pytest.raises(DataError, match=r"1 image of the second data set replace no image.*: other\.png; expected the"):
        replaced(tmp_path)
    rename(corrected, "other.png", "2.png")
    edited(corrected, lambda content: content["images"][0].update(height=20))
    with pytest.raises(DataError, match=r"2\.png is 60x20, but the image that it replaces, 2\.png in .*, is 60x40"):
        replaced(tmp_path)
    edited(corrected, lambda content: content["images"][0].update(height=40))
    write_coco(tmp_path / "b", 3, "test")
    with pytest.raises(DataError, match=r"2\.png and 2\.png of the second data set replace one image"):
        replaced(tmp_path)


def test_a_name_in_two_splits_belongs_to_the_split_of_the_same_name(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_coco(tmp_path / "a", 1, split)
    write_coco(tmp_path / "b", 1, "val")
    assert [len(merge(tmp_path / "a", tmp_path / "b", (), None, True).chosen[split]) for split in ("train", "val")] == [
        1,
        2,
    ]
    (tmp_path / "b").rename(tmp_path / "old")
    write_coco(tmp_path / "b", 1, "test")
    with pytest.raises(DataError, match="or several: 0.png"):
        replaced(tmp_path)


@pytest.mark.slow
def test_the_whole_loop_of_a_review(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Evaluate, export what the model contradicts, correct it in labelme, convert it, and put it back."""
    root = tmp_path / "a"
    truth = write_coco(root, 3)
    pngs, rows = tmp_path / "predicted", []
    pngs.mkdir()
    for number in range(3):  # in the second image, the model sees a ball where a box is annotated
        ids, segments = scene(number)
        ids[ids == 5] = 0
        Image.fromarray(colors(ids)).save(pngs / f"{number}.png")
        found = [{"id": row["id"], "category_id": row["category_id"], "score": 0.99} for row in segments[:2]]
        found[1]["category_id"] = BALL if number == 1 else BOX
        rows.append({"image_id": 100 + number, "file_name": f"{number}.png", "segments_info": found})
    pngs.with_suffix(".json").write_text(json.dumps({"annotations": rows, "categories": CATEGORIES}))
    words = ["--predictions", f"{pngs}.json", "--annotations", str(truth), "--out", str(tmp_path / "evaluation")]
    assert run("evaluate", *words, "--label-errors", "--bootstrap", "0") == 0
    review = ["--review", str(tmp_path / "evaluation/label_errors.json"), "--review-limit", "1"]
    out = ["--out", str(tmp_path / "review")]
    assert run("prepare-data", "export", "--to", "labelme", "--root", str(root), *review, *out, "--workers", "1") == 0
    (labels,) = (tmp_path / "review/val").glob("*.json")
    assert labels.name == "1.json"
    content = json.loads(labels.read_text())
    (box,) = (shape for shape in content["shapes"] if shape["label"] == "box")
    box["label"] = "ball"
    labels.write_text(json.dumps(content))
    classes = ["--classes", str(tmp_path / "review/classes.csv"), "--workers", "1"]
    converted = ["--root", str(tmp_path / "review"), "--out", str(tmp_path / "b")]
    assert run("prepare-data", "labelme", *converted, *classes) == 0
    capsys.readouterr()
    merged = ["--root", str(root), "--with", str(tmp_path / "b"), "--replace", "--out", str(tmp_path / "better")]
    assert run("prepare-data", "merge", *merged, "--workers", "1") == 0
    assert "Annotations replaced: those of 1 of 3 images" in capsys.readouterr().out
    old, new = CocoPanoptic(root, "val"), CocoPanoptic(tmp_path / "better", "val")
    after = {info.file_name: index for index, info in enumerate(new.listed.images)}
    for index, info in enumerate(old.listed.images):
        before, annotation = old[index].annotation, new[after[info.file_name]].annotation
        categories = [
            BALL if segment.category_id == BOX and index == 1 else segment.category_id for segment in before.segments
        ]
        assert sorted(segment.category_id for segment in annotation.segments) == sorted(categories)
        assert ((annotation.ids > 0) == (before.ids > 0)).all()
        assert new.listed.images[after[info.file_name]].id == info.id
    assert SKY in {segment.category_id for segment in new[0].annotation.segments}
