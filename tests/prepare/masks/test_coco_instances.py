"""COCO instances: compared with pycocotools' masks and with COCO's panoptic samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from panformer_cli.cli.prepare_data.masks import coco_instances
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.prepare.compressed_rle import decompress
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.masks.coco_instances import open_coco_instances
from panformer_cli.reporting import SilentReporter

HEIGHT, WIDTH = 20, 30
CAR, DOG, SKY = 3, 7, 90
TRIANGLE = [2.3, 1.5, 20.5, 3.0, 9.1, 15.7]
OVER_THE_EDGE = [-3.0, 5.0, 12.5, -2.0, 33.0, 18.2, 10.0, 22.0]


def compressed(mask: npt.NDArray[Any]) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def uncompressed(mask: npt.NDArray[Any]) -> dict[str, Any]:
    counts, value = [0], 0
    for pixel in mask.ravel(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def speckled(seed: int) -> npt.NDArray[np.uint8]:
    return (np.random.default_rng(seed).random((HEIGHT, WIDTH)) > 0.6).astype(np.uint8)


def annotation(
    number: int, image_id: int | str, category_id: int, segmentation: Any, iscrowd: int = 0
) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": segmentation,
        "iscrowd": iscrowd,
    }


def content() -> dict[str, Any]:
    """Three images; annotations come before the images and in another order."""
    return {
        "info": {},
        "annotations": [
            annotation(5, 12, DOG, [TRIANGLE, [22, 2, 28, 2, 28, 9, 22, 9]]),
            annotation(1, 40, CAR, [TRIANGLE]),
            annotation(6, 12, CAR, [OVER_THE_EDGE]),
            annotation(7, 12, CAR, uncompressed(speckled(0)), iscrowd=1),
            annotation(8, 12, DOG, compressed(speckled(1))),
        ],
        "images": [
            {"id": 40, "file_name": "b.jpg", "height": HEIGHT, "width": WIDTH},
            {"id": 12, "file_name": "town/a.jpg", "height": HEIGHT, "width": WIDTH},
            {"id": 3, "file_name": "empty.jpg", "height": HEIGHT, "width": WIDTH},
        ],
        "categories": [{"id": DOG, "name": "dog", "color": "#ff0000"}, {"id": CAR, "name": "car"}],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for name in ("b.jpg", "town/a.jpg", "empty.jpg"):
        path = folder / "images/val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (len(name), 5, 200)).save(path)
    write(folder, content())
    return folder


def write(folder: Path, made: Any) -> None:
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations/instances_val.json").write_text(json.dumps(made))


def converted(root: Path, **options: Any) -> CocoPanoptic:
    out = root.parent / "out"
    convert(open_coco_instances(root, **options), out, ["val"], ConvertOptions(), SilentReporter())
    return CocoPanoptic(out, "val")


def maps(data: CocoPanoptic) -> dict[int | str, tuple[npt.NDArray[np.int32], dict[int, tuple[int, bool]]]]:
    """Return by image id the map, and category and crowd of each segment."""
    return {
        data[i].image_id: (
            data[i].annotation.ids,
            {s.id: (s.category_id, s.is_crowd) for s in data[i].annotation.segments},
        )
        for i in range(len(data))
    }


def test_masks_match_pycocotools(root: Path) -> None:
    coco = COCO(root / "annotations/instances_val.json")
    expected = np.zeros((HEIGHT, WIDTH), np.int32)
    for number, row in enumerate(coco.imgToAnns[12], 1):
        expected[coco.annToMask(row) == 1] = number
    found = maps(converted(root))
    assert np.array_equal(found[12][0], expected)
    assert found[12][1] == {1: (DOG, False), 2: (CAR, False), 3: (CAR, True), 4: (DOG, False)}
    assert np.array_equal(found[40][0], coco.annToMask(coco.imgToAnns[40][0]))
    assert not found[3][0].any() and found[3][1] == {}


def test_categories_keep_their_ids_and_are_things(root: Path) -> None:
    table = converted(root).categories
    assert [(c.id, c.name, c.is_thing) for c in table.categories] == [(CAR, "car", True), (DOG, "dog", True)]


def test_overlap_follows_the_rule(root: Path) -> None:
    coco = COCO(root / "annotations/instances_val.json")
    expected = np.zeros((HEIGHT, WIDTH), np.int32)
    for number, row in reversed(list(enumerate(coco.imgToAnns[12], 1))):
        expected[coco.annToMask(row) == 1] = number
    assert np.array_equal(maps(converted(root, overlap="first"))[12][0], expected)
    (root.parent / "out").rename(root.parent / "first")
    with pytest.raises(DataError, match=r"image town/a\.jpg: annotation 6 \(car\) and annotation 5 \(dog\) share"):
        converted(root, overlap="error")


def test_stuff_is_below_the_instances(root: Path) -> None:
    classes = root / "classes.yaml"
    classes.write_text(f"- {{id: {SKY}, name: sky, kind: stuff}}\n- {{id: {CAR}, name: car, kind: thing}}\n")
    stuff = np.full((HEIGHT, WIDTH), SKY, np.uint8)
    stuff[:, 20:] = 255
    stuff[:5] = CAR  # the car is unknown
    stuff[18:] = 0
    for name in ("b", "town/a", "empty"):
        (root / "stuff" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stuff).save(root / "stuff" / f"{name}.png")
    alone = maps(converted(root))
    (root.parent / "out").rename(root.parent / "alone")
    data = converted(root, classes=classes, stuff_masks=root / "stuff", overlap="last")
    assert [(c.id, c.is_thing) for c in data.categories.categories] == [(CAR, True), (DOG, True), (SKY, False)]
    for number, (ids, segments) in maps(data).items():
        things, _ = alone[number]
        assert np.array_equal(ids[things > 0], things[things > 0])
        (sky,) = (key for key, value in segments.items() if value == (SKY, False))
        assert np.array_equal(ids == sky, (things == 0) & (stuff == SKY))


def test_a_class_file_marks_stuff(root: Path) -> None:
    (root / "classes.csv").write_text(f"id,name,kind,color\n{DOG},dog,stuff,0 255 0\n")
    data = converted(root, classes=root / "classes.csv")
    assert [(c.id, c.is_thing, c.color) for c in data.categories.categories] == [
        (CAR, True, None),
        (DOG, False, (0, 255, 0)),
    ]
    assert maps(data)[12][1] == {1: (DOG, False), 2: (CAR, False), 3: (CAR, True)}


def test_an_export_with_the_json_next_to_the_images(tmp_path: Path) -> None:
    folder = tmp_path / "in/valid"
    folder.mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "b.jpg")
    made = content()
    made["images"], made["annotations"] = made["images"][:1], made["annotations"][1:2]
    (folder / "_annotations.coco.json").write_text(json.dumps(made))
    result = CliRunner().invoke(
        coco_instances, ["--root", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]
    )
    assert result.exit_code == 0, result.output
    assert f"prepare-data split --root {tmp_path}/out --out {tmp_path}/out_divided" in result.output
    assert maps(CocoPanoptic(tmp_path / "out", "valid"))[40][1] == {1: (CAR, False)}


@pytest.mark.slow
def test_several_workers_give_the_same_result(root: Path) -> None:
    alone = maps(converted(root))
    (root.parent / "out").rename(root.parent / "alone")
    convert(open_coco_instances(root), root.parent / "out", [], ConvertOptions(workers=2), SilentReporter())
    for number, (ids, segments) in maps(CocoPanoptic(root.parent / "out", "val")).items():
        assert np.array_equal(ids, alone[number][0]) and segments == alone[number][1]


@pytest.mark.slow
def test_real_samples_are_reproduced(shared: Path, tmp_path: Path) -> None:
    """The things of COCO's own panoptic samples, written as detection JSON."""
    source = shared / "data/coco_mini"
    panoptic = json.loads((source / "annotations/panoptic_val2017.json").read_text())
    things = {row["id"]: row["name"] for row in panoptic["categories"] if row["isthing"]}
    made: dict[str, Any] = {"images": panoptic["images"], "annotations": []}
    made["categories"] = [{"id": number, "name": name} for number, name in things.items()]
    expected = {}
    for row in panoptic["annotations"]:
        rgb = np.asarray(Image.open(source / "annotations/panoptic_val2017" / row["file_name"])).astype(np.int32)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        kept = [segment for segment in row["segments_info"] if segment["category_id"] in things]
        expected[row["image_id"]] = np.where(np.isin(ids, [segment["id"] for segment in kept]), ids, 0), kept
        for segment in kept:
            rle = compressed(ids == segment["id"])
            number, category_id, crowd = segment["id"], segment["category_id"], segment["iscrowd"]
            made["annotations"].append(annotation(number, row["image_id"], category_id, rle, crowd))
    (tmp_path / "in/annotations").mkdir(parents=True)
    (tmp_path / "in/images").symlink_to(source / "images")
    (tmp_path / "in/annotations/instances_val2017.json").write_text(json.dumps(made))
    opened = open_coco_instances(tmp_path / "in", overlap="error")
    convert(opened, tmp_path / "out", [], ConvertOptions(), SilentReporter())
    found = maps(CocoPanoptic(tmp_path / "out", "val2017"))
    assert set(found) == set(expected) and len(made["annotations"]) > 20
    for number, (ids, kept) in expected.items():
        pairs = [divmod(pair, 2**24) for pair in np.unique(ids.astype(np.int64) << 24 | found[number][0]).tolist()]
        new_id = dict(pairs)
        assert len(new_id) == len(pairs) == len(kept) + (0 in new_id)  # old and new ids correspond one to one
        assert new_id.get(0, 0) == 0 and len(set(new_id.values())) == len(new_id)
        for segment in kept:
            assert found[number][1][new_id[segment["id"]]] == (segment["category_id"], bool(segment["iscrowd"]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 2**33), min_size=1, max_size=12))
def test_decompression_inverts_coco_compression(counts: list[int]) -> None:
    decoded = decompress(reference_compression(counts).encode())
    assert decoded is not None and decoded.tolist() == counts


def reference_compression(counts: list[int]) -> str:
    """COCO's compression, number by number: five bits per character, the sign in the last."""
    text = ""
    for place, count in enumerate(counts):
        number = count - (counts[place - 2] if place > 2 else 0)
        more = True
        while more:
            digit = number & 0x1F
            number >>= 5
            more = number != (-1 if digit & 0x10 else 0)
            text += chr(48 + (digit | (0x20 if more else 0)))
    return text


def test_reference_compression_is_cocos_compression() -> None:
    for seed in range(5):
        mask = speckled(seed)
        assert reference_compression(uncompressed(mask)["counts"]) == compressed(mask)["counts"]


def without(made: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in made.items() if name != key}


def with_row(key: str, place: int, **change: Any) -> dict[str, Any]:
    made = content()
    made[key][place].update(change)
    return made


def with_segmentation(segmentation: Any) -> dict[str, Any]:
    return with_row("annotations", 1, segmentation=segmentation)


MASK = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "contains a list; expected an object"),
        (without(content(), "categories"), "has no `categories`"),
        (without(content(), "annotations"), "has no `annotations`; expected COCO detection format"),
        (without(content(), "images"), "has no `images`"),
        ({**content(), "categories": []}, "category table is empty"),
        ({**content(), "categories": {"id": 3}}, r"categories is \{.*\}; expected a list"),
        ({**content(), "categories": [{"id": 3, "name": "car"}] * 2}, r"category ids \[3\] appear more than once"),
        ({**content(), "images": []}, "annotates image 12, which is not in `images`"),
        ({**content(), "images": [], "annotations": []}, "no images found"),
        ({**content(), "annotations": 5}, "annotations is 5; expected a list"),
        ({**content(), "annotations": [5]}, r"annotations\[0\] is 5; expected an object with image_id"),
        (with_row("images", 0, id=None), r"images\[0\]: the id is None"),
        (with_row("images", 2, id=12), "have the same id 12"),
        (with_row("images", 0, file_name=5), "the file_name of image 40 is 5"),
        (with_row("images", 0, file_name="../c.jpg"), r"'\.\./c\.jpg' points outside"),
        (with_row("images", 0, file_name="/c.jpg"), "points outside"),
        (with_row("images", 0, file_name=""), "the file name '' points outside"),
        (with_row("images", 0, file_name="c.jpg"), r"c\.jpg is missing"),
        (
            with_row("images", 0, height=WIDTH),
            "the row of b.jpg is for an image of 30x30 but the image is displayed as 30x20",
        ),
        (with_row("annotations", 1, image_id=[40]), r"annotations\[1\]: the image_id is \[40\]"),
        (with_row("annotations", 1, category_id=4), "annotation 1: the category_id 4 is not in `categories`"),
        (with_row("annotations", 1, category_id="3"), "annotation 1: the category_id '3'"),
        (with_row("annotations", 1, iscrowd=2), "annotation 1: iscrowd is 2"),
        (with_segmentation([]), "annotation 1 has no segmentation, only a bounding box"),
        (with_segmentation(None), "annotation 1 has no segmentation, only a bounding box"),
        (with_segmentation({}), "annotation 1 has no segmentation, only a bounding box"),
        (with_segmentation(TRIANGLE), r"annotation 1: a polygon is 2\.3"),
        (with_segmentation(TRIANGLE), r"a list of such polygons: \[\[x1, y1, \.\.\.\]\]"),
        (with_segmentation([[TRIANGLE]]), r"a polygon is \[\[2\.3, .* a list of such polygons"),
        (with_segmentation([[[1, 1], [5, 5]], TRIANGLE]), r"a polygon is \[\[1, 1\], .* a list of such polygons"),
        (with_segmentation([[[n, n * n] for n in range(6)]]), r"a polygon is \[\[0, 0\], .* a list of such polygons"),
        (with_segmentation([[1, 2, 3, 4]]), r"a polygon is \[1, 2, 3, 4\]; expected"),
        (with_segmentation([[1, 2, 3, 4, 5, 6, 7]]), "expected x1, y1"),
        (with_segmentation([[1, 2, 3, 4, 5, "6"]]), "a polygon contains '6'; expected pixels"),
        (with_segmentation([[1, 2, 3, 4, 5, float("nan")]]), "a polygon contains nan; expected"),
        (with_segmentation([[1, 2, 3, 4, 5, 10**400]]), "a polygon contains 1000"),
        (with_segmentation({**MASK, "size": [WIDTH, HEIGHT]}), r"the RLE has the size \[30, 20\]; expected \[20, 30\]"),
        (with_segmentation({**MASK, "counts": [0, 599]}), "add up to 599; expected 600"),
        (with_segmentation({**MASK, "counts": [700, -100]}), "the counts of the RLE are"),
        (with_segmentation({**MASK, "counts": "0"}), "add up to 0; expected 600"),
        (with_segmentation({**MASK, "counts": "0" + "o" * 40}), "the counts of the RLE are"),
        (with_segmentation({**MASK, "counts": "ü"}), "the counts of the RLE are"),
    ],
)
def test_corrupt_input(root: Path, made: Any, message: str) -> None:
    write(root, made)
    with pytest.raises(DataError, match=message) as caught:
        converted(root)
    assert str(root) in str(caught.value)
    assert not (root.parent / "out/annotations/panoptic_val.json").exists()


def test_corrupt_files(root: Path) -> None:
    annotations = root / "annotations/instances_val.json"
    whole = annotations.read_bytes()
    for data, message in ((whole[:-30], "truncated"), (b"", "is empty"), (b"\xff\xfe{", "instances_val.json")):
        annotations.write_bytes(data)
        with pytest.raises(DataError, match=message):
            converted(root)
    annotations.unlink()
    with pytest.raises(DataError, match=r"has no COCO annotations: looked for annotations/instances_<split>\.json"):
        converted(root)
    write(root, content())
    with pytest.raises(DataError, match="no split 'train' in .*; available splits: val"):
        open_coco_instances(root, ["train"])
    (root / "images/val/b.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"b\.jpg is empty"):
        converted(root)


def test_invalid_stuff(root: Path) -> None:
    classes = root / "classes.csv"
    classes.write_text(f"id,name,kind\n{SKY},sky,stuff\n")
    with pytest.raises(DataError, match="requires --classes"):
        open_coco_instances(root, stuff_masks=root)
    with pytest.raises(DataError, match="stuff masks .*nowhere does not exist"):
        open_coco_instances(root, classes=classes, stuff_masks=root / "nowhere")
    (root / "stuff").mkdir()
    with pytest.raises(DataError, match=r"3 of 3 images .*\n.*b\.png is missing"):
        converted(root, classes=classes, stuff_masks=root / "stuff")
    Image.new("L", (WIDTH, HEIGHT), 5).save(root / "stuff/b.png")
    Image.new("L", (HEIGHT, WIDTH), SKY).save(root / "stuff/empty.png")
    with pytest.raises(DataError) as caught:
        converted(root, classes=classes, stuff_masks=root / "stuff")
    message = str(caught.value)
    assert "b.png contains the class ids 5, which are not in the class file" in message
    assert "empty.png is 20x30 but its image is displayed as 30x20" in message
    classes.write_text(f"id,name,kind\n{CAR},sky,stuff\n")
    with pytest.raises(DataError, match="names the id 3 'sky' but .* names it 'car'"):
        open_coco_instances(root, classes=classes)


def test_splits_must_share_categories(root: Path) -> None:
    (root / "images/train").symlink_to(root / "images/val")
    made = content()
    made["categories"][0]["name"] = "cat"
    (root / "annotations/instances_train.json").write_text(json.dumps(made))
    with pytest.raises(
        DataError, match=r"instances_val\.json has the category .*dog.*, which other splits do not have"
    ):
        convert(open_coco_instances(root), root.parent / "out", ["val"], ConvertOptions(), SilentReporter())


def areas(root: Path, **options: Any) -> list[list[int]]:
    """Return the areas of each image's segments after a conversion, in the order of the JSON."""
    data = converted(root, **options)
    return [[segment.area for segment in data.annotation(i).segments] for i in range(len(data))]


@pytest.mark.parametrize("encode", [compressed, uncompressed])
def test_a_list_of_rles_is_their_union(root: Path, encode: Any) -> None:
    first, second = speckled(3), speckled(4)
    write(root, with_segmentation([encode(first), encode(second), TRIANGLE]))
    triangle = coco_mask.decode(coco_mask.frPyObjects([TRIANGLE], HEIGHT, WIDTH))[..., 0]
    assert areas(root)[0] == [int((first | second | triangle).sum())]


@pytest.mark.parametrize(
    ("key", "place", "change"),
    [
        ("annotations", 1, {"category_id": 3.0}),
        ("annotations", 1, {"image_id": 40.0}),
        ("annotations", 1, {"iscrowd": False}),
        ("annotations", 1, {"iscrowd": None}),
        ("images", 0, {"id": 40.0}),
        ("images", 0, {"height": 20.0, "width": 30.0}),
        ("images", 0, {"height": None, "width": None}),
        ("categories", 1, {"id": 3.0}),
    ],
)
def test_numbers_of_other_types_are_read(root: Path, key: str, place: int, change: dict[str, Any]) -> None:
    expected = areas(root)
    (root.parent / "out").rename(root.parent / "first")
    write(root, with_row(key, place, **change))
    assert areas(root) == expected


@pytest.mark.parametrize("part", [[], [1, 1], [1, 1, 5, 5]])
def test_parts_without_area_are_left_out_beside_others(root: Path, part: list[int]) -> None:
    write(root, with_segmentation([part, TRIANGLE]))
    (summary,) = convert(open_coco_instances(root), root.parent / "out", ["val"], ConvertOptions(), SilentReporter())
    assert summary.annotations_left_out["line or points, without area"].count == 1
    expected = coco_mask.decode(coco_mask.frPyObjects([TRIANGLE], HEIGHT, WIDTH)).sum()
    assert [segment.area for segment in CocoPanoptic(root.parent / "out", "val").annotation(0).segments] == [expected]


def test_fractions_of_the_image_size_are_left_out_and_named(root: Path) -> None:
    row = with_segmentation([[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]])
    write(root, row)
    (summary,) = convert(open_coco_instances(root), root.parent / "out", ["val"], ConvertOptions(), SilentReporter())
    (reason,) = summary.annotations_left_out
    assert reason.startswith("coordinates from 0 to 1: fractions of the image size")
    assert "such as 0.1; expected pixels" in summary.annotations_left_out[reason].first[0]


def test_a_point_with_x_and_y_is_no_rle(root: Path) -> None:
    write(root, with_segmentation([{"x": 1, "y": 2}]))
    with pytest.raises(DataError, match=r"a polygon is \{'x': 1, 'y': 2\}; expected x1, y1"):
        converted(root)


def test_iscrowd_may_be_true(root: Path) -> None:
    write(root, with_row("annotations", 1, iscrowd=True))
    (segment,) = converted(root).annotation(0).segments
    assert segment.is_crowd


def test_run_lengths_may_be_whole_numbers_with_a_fraction(root: Path) -> None:
    mask = uncompressed(speckled(5))
    write(root, with_segmentation(mask | {"counts": [float(count) for count in mask["counts"]]}))
    assert areas(root)[0] == [int(speckled(5).sum())]


def test_polygons_slightly_outside_are_clipped(root: Path) -> None:
    write(root, with_segmentation([[-2, -2, 10.5, -2, 10.5, 8, -2, 8]]))
    expected = coco_mask.decode(coco_mask.frPyObjects([[-2, -2, 10.5, -2, 10.5, 8, -2, 8]], HEIGHT, WIDTH)).sum()
    assert areas(root)[0] == [int(expected)]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (with_row("images", 0, height="20"), "the row of b.jpg: the height is the text '20'; expected a number"),
        (with_row("images", 0, width=[30]), r"the width is \[30\]; expected a number"),
        (with_row("annotations", 1, category_id="3"), "the category_id '3' is text, but in `categories` a number"),
        (with_row("annotations", 1, category_id=3.5), "the category_id 3.5 is not in `categories`"),
        (
            with_row("annotations", 1, image_id="40"),
            "annotations with the image_id text '40', but `images` has the id number 40; expected both as numbers",
        ),
        (with_row("annotations", 1, image_id=41), "1 of 4 images cannot be used(.|\n)*annotates image 41"),
        (with_row("annotations", 1, iscrowd="0"), "iscrowd is '0'; expected 0 or 1"),
        (with_segmentation([[[1, 1], [5, 1], [5, 5]]]), r"a polygon is \[\[1, 1\], .*; expected x1, y1"),
        (with_segmentation([MASK, {"size": [9, 9], "counts": [81]}]), r"the RLE has the size \[9, 9\]; expected"),
        (with_segmentation([MASK, "text"]), "a polygon is 'text'; expected x1, y1"),
        (with_segmentation("text"), "the segmentation is 'text'; expected a list of polygons or an RLE"),
        (
            {**content(), "images": [*content()["images"], {"id": 77, "file_name": "b.jpg"}]},
            "b.jpg is labeled twice, both times in .*instances_val.json; keep one of them",
        ),
    ],
)
def test_the_true_reason_is_reported(root: Path, made: Any, message: str) -> None:
    write(root, made)
    with pytest.raises(DataError, match=message):
        converted(root)


def test_an_annotation_of_no_image_may_be_skipped(root: Path) -> None:
    write(root, with_row("annotations", 1, image_id=41))
    options = ConvertOptions(skips_bad_images=True)
    (summary,) = convert(open_coco_instances(root), root.parent / "out", ["val"], options, SilentReporter())
    assert summary.images == 3 and len(summary.left_out) == 1 and "annotates image 41" in summary.left_out[0]


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (with_row("annotations", 1, image_id=None), r"annotations\[1\]: the image_id is None; expected a number"),
        ({**content(), "annotations": [5, *content()["annotations"]]}, r"annotations\[0\] is 5; expected an object"),
        ({**content(), "images": [{"id": 1}, *content()["images"]]}, r"images\[0\] is \{'id': 1\}; expected an object"),
        (
            {**content(), "images": [{"id": 1, "file_name": None}, *content()["images"]]},
            "the file_name of image 1 is None; expected text",
        ),
    ],
)
def test_rows_that_belong_to_no_image_count_as_bad_images(root: Path, made: Any, reason: str) -> None:
    write(root, made)
    with pytest.raises(DataError, match=f"1 of 4 images cannot be used(.|\n)*{reason}"):
        converted(root)
    options = ConvertOptions(skips_bad_images=True)
    (summary,) = convert(open_coco_instances(root), root.parent / "out", ["val"], options, SilentReporter())
    assert summary.images == 3 and len(summary.left_out) == 1


@pytest.mark.parametrize(("name", "encoding"), [("Stra\u00dfe", "cp1252"), ("\u6c7d\u8f66", "gbk")])
def test_a_json_in_another_encoding(root: Path, name: str, encoding: str) -> None:
    made = content()
    made["categories"][0]["name"] = name
    (root / "annotations/instances_val.json").write_bytes(json.dumps(made, ensure_ascii=False).encode(encoding))
    with pytest.raises(DataError, match="instances_val.json is not UTF-8: byte .*; it may be .*--encoding NAME"):
        converted(root)
    data = converted(root, encoding=encoding)
    assert {category.name for category in data.categories.categories} == {name, "car"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_json_with_a_byte_order_mark(root: Path, encoding: str) -> None:
    (root / "annotations/instances_val.json").write_bytes(json.dumps(content()).encode(encoding))
    assert len(converted(root)) == 3


def test_collected_cases(shared: Path, tmp_path: Path) -> None:
    cases = shared / "cases"
    for kind in ("data", "compressed"):
        source = open_coco_instances(cases / "coco-rle-in-list" / kind)
        convert(source, tmp_path / kind, ["val"], ConvertOptions(), SilentReporter())
        (segment,) = CocoPanoptic(tmp_path / kind, "val").annotation(0).segments
        assert (segment.area, segment.bbox) == (300, (10, 5, 20, 15))
    for case, message in (
        ("coco-size-as-text/data", "the height is the text '40'; expected a number"),
        ("same-picture-twice-message/coco", "a.jpg is labeled twice, both times in .*instances_val.json"),
    ):
        with pytest.raises(DataError, match=message):
            source = open_coco_instances(cases / case)
            convert(source, tmp_path / "out", ["val"], ConvertOptions(), SilentReporter())
