"""The generated scenes: files, content of the images, and options."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.scenes import generator as scenes
from panformer_cli.data.scenes.generator import SceneOptions, generate_scene, write_scenes
from panformer_cli.data.scenes.patterns import OUTLINES, TEXTURES, scene_categories
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.errors import PanformerError
from panformer_cli.reporting import SilentReporter

FEW = SceneOptions(train_images=3, val_images=2, height=64, width=96, crowd_probability=1.0, void_probability=1.0)
CATEGORIES = scene_categories()


class Listener(SilentReporter):
    """Records the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "data" / "scenes"
    write_scenes(out, FEW, SilentReporter())
    return out


@pytest.fixture(scope="module")
def many() -> list[tuple[ImageArray, PanopticMap]]:
    """Scenes with the default options."""
    return [generate_scene(SceneOptions(), "train", index) for index in range(150)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def thing_segments(panoptic: PanopticMap) -> list[Any]:
    return [segment for segment in panoptic.segments if CATEGORIES.by_id(segment.category_id).is_thing]


def test_files_are_in_the_layout_of_coco(written: Path) -> None:
    names = {f"images/{split}/{k:06d}.jpg" for split, count in (("train", 3), ("val", 2)) for k in range(count)}
    pngs = {name.replace("images/", "annotations/panoptic_").replace(".jpg", ".png") for name in names}
    jsons = {"annotations/panoptic_train.json", "annotations/panoptic_val.json", "scenes.json"}
    assert set(contents(written)) == names | pngs | jsons


def test_json_and_png_agree(written: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        content = json.loads((written / "annotations" / f"panoptic_{split}.json").read_text())
        assert len(content["images"]) == len(content["annotations"]) == count
        for image, annotation in zip(content["images"], content["annotations"], strict=True):
            assert image["id"] == annotation["image_id"]
            with Image.open(written / "images" / split / image["file_name"]) as image_file:
                assert image_file.size == (image["width"], image["height"]) == (96, 64)
            with Image.open(written / "annotations" / f"panoptic_{split}" / annotation["file_name"]) as png:
                rgb = np.asarray(png).astype(np.int64)
            ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
            rows = annotation["segments_info"]
            assert sorted(row["id"] for row in rows) == sorted(set(ids.ravel().tolist()) - {0})
            for row in rows:
                ys, xs = np.nonzero(ids == row["id"])
                assert row["area"] == len(xs)
                assert row["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]


def test_the_package_reads_what_it_writes(written: Path) -> None:
    data = CocoPanoptic(written, "val")
    assert data.categories == CATEGORIES
    for index in range(2):
        image, panoptic = generate_scene(FEW, "val", index)
        sample = data[index]
        assert np.array_equal(sample.annotation.ids, panoptic.ids)
        assert {row.id: row for row in sample.annotation.segments} == {row.id: row for row in panoptic.segments}
        right, swapped = (
            np.abs(sample.image[..., order].astype(int) - image).mean() for order in ([0, 1, 2], [2, 1, 0])
        )
        assert right < 10
        assert swapped > 2 * right, "the image on disk is in RGB order"


def test_png_images_are_exact(tmp_path: Path) -> None:
    options = replace(FEW, train_images=1, val_images=1, image_format="png")
    write_scenes(tmp_path / "out", options, SilentReporter())
    with Image.open(tmp_path / "out" / "images" / "val" / "000000.png") as image_file:
        assert np.array_equal(np.asarray(image_file), generate_scene(options, "val", 0)[0])


def test_equal_seeds_give_equal_files_and_other_seeds_do_not(written: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "again", FEW, SilentReporter())
    assert contents(tmp_path / "again") == contents(written)
    images = [generate_scene(replace(FEW, seed=seed), split, k)[0] for seed, split, k in KEYS]
    assert len({image.tobytes() for image in images}) == len(KEYS)


KEYS = [(0, "train", 0), (0, "train", 1), (0, "val", 0), (1, "train", 0)]


def test_a_scene_does_not_depend_on_the_number_of_scenes() -> None:
    few, many = replace(FEW, train_images=1), replace(FEW, train_images=500)
    assert np.array_equal(generate_scene(few, "train", 0)[0], generate_scene(many, "train", 0)[0])


def test_there_are_enough_categories_and_their_ids_have_gaps() -> None:
    assert CATEGORIES.num_things >= 6
    assert CATEGORIES.num_stuff >= 4
    for kind in (True, False):
        ids = [category.id for category in CATEGORIES.categories if category.is_thing is kind]
        assert ids != list(range(ids[0], ids[0] + len(ids)))
    assert {category.name for category in CATEGORIES.categories} == set(OUTLINES) | set(TEXTURES)
    assert len({category.color for category in CATEGORIES.categories}) == len(CATEGORIES)


@pytest.mark.slow
def test_scenes_contain_all_that_an_evaluation_needs(many: list[tuple[ImageArray, PanopticMap]]) -> None:
    seen = Counter(segment.category_id for _, panoptic in many for segment in panoptic.segments)
    assert min(seen[category.id] for category in CATEGORIES.categories) >= 30
    with_void = sum(bool((panoptic.ids == 0).any()) for _, panoptic in many)
    with_crowd = sum(any(segment.is_crowd for segment in panoptic.segments) for _, panoptic in many)
    assert 30 <= with_void <= 90
    assert 8 <= with_crowd <= 45
    twice = sum(
        max(Counter(segment.category_id for segment in thing_segments(panoptic)).values(), default=0) > 1
        for _, panoptic in many
    )
    assert twice >= 75, "most scenes have several objects of one class"
    areas = [segment.area for _, panoptic in many for segment in thing_segments(panoptic)]
    assert min(areas) < 150
    assert max(areas) > 2000


@pytest.mark.slow
def test_segments_follow_the_rules(many: list[tuple[ImageArray, PanopticMap]]) -> None:
    for image, panoptic in many:
        assert image.shape == (128, 128, 3)
        assert image.dtype == np.uint8
        assert panoptic.ids.shape == (128, 128)
        assert panoptic.ids.min() >= 0
        assert panoptic.ids.max() < 256**3
        assert min(segment.area for segment in panoptic.segments) >= 60
        assert sum(segment.area for segment in panoptic.segments) == int((panoptic.ids > 0).sum())
        stuff = Counter(row.category_id for row in panoptic.segments if not CATEGORIES.by_id(row.category_id).is_thing)
        assert set(stuff.values()) <= {1}, "stuff has at most one segment per class"
        assert all(CATEGORIES.by_id(row.category_id).is_thing for row in panoptic.segments if row.is_crowd)


@pytest.mark.slow
def test_objects_are_drawn_where_the_annotation_says(many: list[tuple[ImageArray, PanopticMap]]) -> None:
    """Color changes more across the border of an object than inside it."""
    across, within = [], []
    for image, panoptic in many:
        step = np.abs(np.diff(image.astype(int), axis=1)).sum(axis=2)
        left, right = panoptic.ids[:, :-1], panoptic.ids[:, 1:]
        things = np.isin(left, [segment.id for segment in thing_segments(panoptic) if not segment.is_crowd])
        across.append(step[things & (left != right)].mean() if (things & (left != right)).any() else np.nan)
        within.append(step[things & (left == right)].mean() if things.any() else np.nan)
    assert np.nanmean(across) > 2 * np.nanmean(within)


def hues(spread: float) -> list[float]:
    """Return the distances (0..0.5) of the objects' mean hues from those of their categories."""
    distances = []
    for index in range(40):
        options = SceneOptions(hue_spread=spread, void_probability=0, crowd_probability=0)
        image, panoptic = generate_scene(options, "train", index)
        for segment in thing_segments(panoptic):
            means = [image[panoptic.ids == segment.id].mean(axis=0), CATEGORIES.by_id(segment.category_id).color]
            hsv = Image.fromarray(np.array([means]).astype(np.uint8)).convert("HSV")
            found, mean = np.asarray(hsv)[0, :, 0].astype(int) / 256
            distances.append(min(abs(found - mean), 1 - abs(found - mean)))
    return distances


@pytest.mark.slow
def test_the_hue_spread_controls_how_much_color_depends_on_the_class() -> None:
    fixed, dependent, free = (np.mean(hues(spread)) for spread in (0.0, 35.0, 1000.0))
    assert fixed < 0.03
    assert 0.05 < dependent < 0.12
    assert 0.2 < free < 0.3, "the mean distance of a uniform hue is 0.25"


def test_options_are_respected() -> None:
    options = SceneOptions(
        height=96, width=160, min_objects=3, max_objects=3, smallest_object=0.2, largest_object=0.2, min_stuff=2,
        max_stuff=2, void_probability=0, crowd_probability=0,
    )  # fmt: skip
    counts: Counter[int] = Counter()
    for index in range(20):
        image, panoptic = generate_scene(options, "val", index)
        assert image.shape == (96, 160, 3)
        assert not any(segment.is_crowd for segment in panoptic.segments)
        assert (panoptic.ids > 0).all()
        objects = thing_segments(panoptic)
        counts[len(objects)] += 1
        assert len(panoptic.segments) - len(objects) <= 2
        # A diameter of 0.2 x 96 pixels; drawing may add a pixel at either end.
        assert all(max(segment.bbox[2:]) <= 0.2 * 96 + 2 for segment in objects)
    assert max(counts) == 3
    assert counts[3] >= 15


def test_void_and_crowd_appear_with_probability_1() -> None:
    options = SceneOptions(void_probability=1, crowd_probability=1, max_objects=2, min_objects=0)
    maps = [generate_scene(options, "val", index)[1] for index in range(20)]
    assert sum(bool((panoptic.ids == 0).any()) for panoptic in maps) >= 18
    assert sum(any(segment.is_crowd for segment in panoptic.segments) for panoptic in maps) >= 18


@pytest.mark.slow
def test_every_object_is_sufficiently_visible() -> None:
    """Disks without occlusion have the box of a complete disk, unless the image border clips them."""
    options = SceneOptions(min_visible_share=1.0, min_objects=6, void_probability=0, crowd_probability=0)
    disks = 0
    for index in range(30):
        for segment in thing_segments(generate_scene(options, "val", index)[1]):
            if CATEGORIES.by_id(segment.category_id).name == "disc":
                disks += 1
                assert abs(segment.bbox[2] - segment.bbox[3]) <= 1
                assert segment.area == pytest.approx(np.pi / 4 * segment.bbox[2] * segment.bbox[3], rel=0.06)
    assert disks > 10


def test_the_smallest_image_can_be_drawn() -> None:
    options = SceneOptions(height=32, width=32, crowd_probability=1, void_probability=1)
    assert all(generate_scene(options, "val", index)[1].segments for index in range(20))


def test_the_same_scenes_are_not_written_twice(written: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    listener = Listener()
    write_scenes(written, FEW, listener)
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before
    assert listener.messages == [f"{written} already contains these scenes: nothing to write"]


def test_an_interrupted_run_is_not_complete_and_can_be_repeated(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(options: SceneOptions, split: str, index: int) -> tuple[ImageArray, PanopticMap]:
        if (split, index) == ("val", 1):
            raise KeyboardInterrupt
        return generate_scene(options, split, index)

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scenes, "generate_scene", interrupted)
        write_scenes(out, FEW, SilentReporter())
    assert (out / "images" / "val" / "000000.jpg").is_file()
    assert not list(out.glob("annotations/*.json"))
    write_scenes(out, FEW, SilentReporter())
    assert contents(out) == contents(written)


def test_a_folder_with_other_files_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(PanformerError, match=r"already contains other files; choose another folder"):
        write_scenes(tmp_path, FEW, SilentReporter())
    assert set(contents(tmp_path)) == {"thesis.txt"}


@pytest.mark.parametrize("record", ["[]", "{", "\xff"])
def test_a_corrupt_record_counts_as_other_files(tmp_path: Path, record: str) -> None:
    (tmp_path / "scenes.json").write_text(record, encoding="latin-1")
    with pytest.raises(PanformerError, match="already contains other files"):
        write_scenes(tmp_path, FEW, SilentReporter())


def test_different_options_are_named(written: Path) -> None:
    with pytest.raises(PanformerError, match=r"scenes with train_images 3 instead of 4, seed 0 instead of 9; choose"):
        write_scenes(written, replace(FEW, seed=9, train_images=4), SilentReporter())


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PanformerError, match="cannot write"):
            write_scenes(out, FEW, SilentReporter())


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.suffix == ".jpg":
            raise OSError(28, "No space left on device")
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PanformerError, match=r"cannot write .*000000\.jpg: No space left on device; free some space"):
        write_scenes(tmp_path / "out", FEW, SilentReporter())


def test_all_invalid_options_are_reported() -> None:
    with pytest.raises(PanformerError) as caught:
        SceneOptions(train_images=-1, height=8, min_objects=5, max_objects=4, void_probability=2, largest_object=0)
    lines = str(caught.value).splitlines()
    assert [line.split(" is ")[0] for line in lines] == [
        "train_images",
        "height",
        "min_objects",
        "smallest_object",
        "void_probability",
        "largest_object",
    ]
    assert lines[1] == "height is 8: expected 32 or more"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_stuff": 99}, "max_stuff is 99: expected at most 5"),
        ({"width": 100_000}, "width is 100000: expected at most 8192"),
        ({"image_format": "gif"}, "image_format is 'gif': expected jpg or png"),
        ({"hue_spread": float("nan")}, "hue_spread is nan: expected 0 or more degrees"),
        ({"seed": -1}, "seed is -1: expected 0 or more"),
        ({"val_images": 0}, "val_images is 0: expected 1 or more"),
    ],
)
def test_an_invalid_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PanformerError, match=message):
        SceneOptions(**options)
