"""Tiles of large images, with a model whose answer is an exact function of the pixels."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from panformer_cli.data.images import read_image
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.data.transforms import prepare_image
from panformer_cli.engine.combined.grid import Axis, Grid, Rectangle
from panformer_cli.engine.combined.options import InferenceOptions, parse_views
from panformer_cli.engine.combined.pieces import Piece, Region
from panformer_cli.engine.combined.things import resized, with_large_things
from panformer_cli.engine.combined.tiles import TiledPrediction, TiledPredictor
from panformer_cli.engine.inference import Predictor
from panformer_cli.models.candidates import MaskPrediction
from tests.engine.combined.stub import CAT, DOG, SEA, SKY, Painted, named, paint, stub_predictor

RED_CAT, PINK_CAT = Painted(CAT, (250, 0, 0)), Painted(CAT, (250, 120, 120))
DOG_1 = Painted(DOG, (0, 250, 0), 0.8)
BLUE_SKY, GREEN_SEA = Painted(SKY, (0, 0, 250), 0.7), Painted(SEA, (0, 120, 250), 0.6)
PAINTED = [RED_CAT, PINK_CAT, DOG_1, BLUE_SKY, GREEN_SEA]
TILES = InferenceOptions(tile=64, tile_overlap=16)


def tiled(image: np.ndarray, options: InferenceOptions = TILES, blind_border: int = 0) -> PanopticMap:
    """Return the map of a model that sees tiles in their own size."""
    predictor, _ = stub_predictor(PAINTED, options, side=options.tile or 64, blind_border=blind_border)
    return predictor(image).panoptic


def categories(panoptic: PanopticMap) -> np.ndarray:
    """Return the category id of every pixel, 0 for void."""
    of_id = np.zeros(panoptic.ids.max() + 1, int)
    for segment in panoptic.segments:
        of_id[segment.id] = segment.category_id
    return of_id[panoptic.ids]


# The grid


@pytest.mark.parametrize("overlap", [1, 7, 16, 32])
@pytest.mark.parametrize("total", [1, 32, 63, 64, 65, 96, 111, 112, 113, 127, 128, 129, 211, 997])
def test_tiles_cover_a_side_without_repetition(total: int, overlap: int) -> None:
    axis = Axis.of(total, 64, overlap)
    covered = np.zeros(total, int)
    for start in axis.starts:
        assert 0 <= start <= start + axis.length <= total
        covered[start : start + axis.length] += 1
    assert covered.all()
    assert len(set(axis.starts)) == len(axis.starts)
    assert axis.starts[-1] + axis.length == total
    gaps = np.diff(axis.starts)
    assert len(gaps) == 0 or gaps.max() <= 64 - overlap, "adjacent tiles share fewer pixels than requested"
    assert len(axis.starts) <= 1 or total > 64


def test_the_number_of_tiles_is_the_smallest_possible() -> None:
    # 3 tiles of 64 that share 16 pixels cover 64 + 2 * 48 = 160 pixels.
    assert Axis.of(160, 64, 16).starts == (0, 48, 96)
    assert len(Axis.of(161, 64, 16).starts) == 4


@pytest.mark.parametrize("total", [160, 161, 100, 65])
def test_cells_partition_the_image_and_weights_are_tapered(total: int) -> None:
    grid = Grid.of((total, 70), 64, 16)
    owners = np.zeros(grid.size, int)
    for number in range(len(grid)):
        owners[grid.cell(number).within(grid.whole)] += 1
        weights = grid.weights(number)
        assert weights.shape == grid.tile_size
        assert weights.min() > 0
        assert weights.max() <= 1
    assert (owners == 1).all()
    axis = Axis.of(160, 64, 16)
    summed = np.zeros(160)
    for number, start in enumerate(axis.starts):
        summed[start : start + 64] += axis.window(number)
    np.testing.assert_allclose(summed, 1, rtol=1e-6)
    assert axis.window(0)[0] == 1, "the edge of the image is not a seam"
    assert axis.window(1)[0] == np.float32(0.5 / 16)


# Objects and stuff


def test_a_bar_across_four_tiles_is_one_object() -> None:
    image = paint((64, 200), (RED_CAT, (20, 5, 40, 195)))
    panoptic = tiled(image)
    assert named(panoptic) == [("cat", 20 * 190, (5, 20, 190, 20))]
    assert (panoptic.ids[20:40, 5:195] == panoptic.ids[30, 100]).all()


def test_an_object_on_a_corner_of_four_tiles_is_one_object() -> None:
    assert named(tiled(paint((112, 112), (DOG_1, (30, 30, 80, 80))))) == [("dog", 2500, (30, 30, 50, 50))]


@pytest.mark.parametrize("border", range(44, 70, 5))
def test_two_touching_objects_of_one_class_stay_two(border: int) -> None:
    """Tiles 0 to 64 and 48 to 112 share columns 48 to 64; the objects touch before, in and after them."""
    image = paint((64, 112), (RED_CAT, (10, 5, 50, border)), (PINK_CAT, (10, border, 50, 105)))
    boxes = [
        ("cat", 40 * (border - 5), (5, 10, border - 5, 40)),
        ("cat", 40 * (105 - border), (border, 10, 105 - border, 40)),
    ]
    assert named(tiled(image)) == sorted(boxes)


def test_touching_objects_of_different_classes_stay_apart() -> None:
    image = paint((64, 112), (RED_CAT, (10, 5, 50, 56)), (DOG_1, (10, 56, 50, 105)))
    assert [name for name, _, _ in named(tiled(image))] == ["cat", "dog"]


def test_stuff_of_one_class_is_one_segment_in_all_tiles() -> None:
    image = paint((150, 170), (BLUE_SKY, (0, 0, 70, 170)), (GREEN_SEA, (70, 0, 150, 170)), (RED_CAT, (60, 60, 90, 90)))
    panoptic = tiled(image)
    assert named(panoptic) == sorted([
        ("cat", 900, (60, 60, 30, 30)),
        ("sky", 70 * 170 - 300, (0, 0, 170, 70)),
        ("sea", 80 * 170 - 600, (0, 70, 170, 80)),
    ])  # fmt: skip
    scores = {segment.category_id: segment.score for segment in panoptic.segments}
    assert scores[2] == pytest.approx(0.7, abs=2e-3)  # tiles have the same score, but for quality n / (n + 1)
    assert scores[7] == pytest.approx(0.9, abs=1e-2)


@pytest.mark.parametrize("blind_border", [1, 4, 6])
def test_the_edges_of_tiles_do_not_show(blind_border: int) -> None:
    """The model sees nothing near the edges of its input, where tiles are worst: another tile decides there."""
    areas = [(BLUE_SKY, (0, 0, 90, 170)), (GREEN_SEA, (90, 0, 150, 170)), (RED_CAT, (30, 30, 120, 140))]
    image = paint((150, 170), *areas)
    inside = slice(blind_border, 150 - blind_border), slice(blind_border, 170 - blind_border)
    panoptic, perfect = tiled(image, blind_border=blind_border), tiled(image)
    assert (categories(panoptic)[inside] == categories(perfect)[inside]).all()
    assert [name for name, _, _ in named(panoptic)] == [name for name, _, _ in named(perfect)]


def test_another_grid_gives_the_same_map() -> None:
    rng = np.random.default_rng(0)
    image = paint((160, 160), (BLUE_SKY, (0, 0, 160, 100)), (GREEN_SEA, (0, 100, 160, 160)))
    for one, corner in zip((RED_CAT, PINK_CAT, DOG_1), rng.integers(0, 90, (3, 2)), strict=True):
        image[corner[0] : corner[0] + 50, corner[1] : corner[1] + 60] = one.color
    first = tiled(image, InferenceOptions(tile=64, tile_overlap=16), blind_border=2)
    second = tiled(image, InferenceOptions(tile=96, tile_overlap=32), blind_border=2)
    inside = slice(2, -2), slice(2, -2)
    assert (categories(first)[inside] == categories(second)[inside]).mean() > 0.99
    assert [name for name, _, _ in named(first)] == [name for name, _, _ in named(second)]


@pytest.mark.parametrize("transposed", [False, True])
def test_boxes_of_an_image_that_is_not_square(transposed: bool) -> None:
    image = paint((150, 500), (DOG_1, (120, 440, 145, 490)))
    expected = ("dog", 25 * 50, (440, 120, 50, 25))
    if transposed:
        image, expected = np.ascontiguousarray(image.transpose(1, 0, 2)), ("dog", 25 * 50, (120, 440, 25, 50))
    panoptic = tiled(image)
    assert panoptic.ids.shape == image.shape[:2]
    assert named(panoptic) == [expected]


def test_an_image_that_fits_into_a_tile_is_predicted_whole() -> None:
    image = paint((60, 50), (BLUE_SKY, (0, 0, 60, 50)), (RED_CAT, (10, 10, 30, 30)))
    plain, _ = stub_predictor(PAINTED, InferenceOptions())
    predictor, _ = stub_predictor(PAINTED, TILES)
    one, other = plain(image).panoptic, predictor(image).panoptic
    assert (one.ids == other.ids).all()
    assert one.segments == other.segments
    assert predictor.described((60, 50)) == {}


def test_the_model_sees_each_tile_as_a_file_of_its_own(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    predictor, model = stub_predictor(PAINTED, TILES, side=80)
    predictor(image)
    grid = Grid.of((100, 130), 64, 16)
    assert len(model.inputs) == len(grid) == 6
    for number, seen in enumerate(model.inputs):
        tile = grid.tile(number)
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), image[tile.top : tile.bottom, tile.left : tile.right, ::-1])
        torch.testing.assert_close(seen[0], prepare_image(read_image(path), 80, 320), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(150, 170), (40, 170)])
def test_batches_of_tiles_do_not_change_the_result(size: tuple[int, int]) -> None:
    image = paint(size, (BLUE_SKY, (0, 0, 150, 170)), (RED_CAT, (10, 30, 38, 160)))
    predictor, model = stub_predictor(PAINTED, TILES)
    ids = [next(iter(predictor.stream([("key", image)], batch)))[1].panoptic.ids for batch in (1, 4)]
    assert (ids[0] == ids[1]).all()
    assert {len(batch) for batch in model.inputs} >= {1, 4}
    assert len({tuple(batch.shape[1:]) for batch in model.inputs}) == 1, "tiles of an image have one size"


def test_the_scale_of_the_tiles_is_described() -> None:
    predictor, _ = stub_predictor(PAINTED, TILES, side=96)
    assert predictor.described((150, 170)) == {
        "tile": [64, 64], "tile_overlap": 16, "tiles": 12, "scale": 1.5, "whole_image": False,
    }  # fmt: skip
    assert "resized by a factor of 1.5" in predictor.notes()[0]


# Objects larger than a tile


def test_the_whole_image_finds_an_object_that_tiles_cannot_join() -> None:
    """The model sees nothing in the outer 20 pixels of its input, so tiles find unconnected parts of the object."""
    image = paint((160, 200), (RED_CAT, (20, 20, 140, 180)))
    chopped = tiled(image, InferenceOptions(tile=64, tile_overlap=16), blind_border=14)
    assert len(chopped.segments) > 1
    whole = tiled(image, InferenceOptions(tile=64, tile_overlap=16, tile_whole_image=True), blind_border=4)
    assert [name for name, _, _ in named(whole)] == ["cat"]
    assert whole.segments[0].area == pytest.approx(120 * 160, rel=0.1)


def test_the_whole_image_does_not_replace_what_tiles_find() -> None:
    image = paint((160, 200), (RED_CAT, (20, 20, 140, 180)), (DOG_1, (60, 60, 90, 90)))
    options = InferenceOptions(tile=64, tile_overlap=16, tile_whole_image=True)
    with_it, without = tiled(image, options), tiled(image)
    assert (with_it.ids == without.ids).all()
    assert named(with_it) == [("cat", 120 * 160 - 900, (20, 20, 160, 120)), ("dog", 900, (60, 60, 30, 30))]


def test_things_are_resized_with_their_image() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    large = resized(piece_of(mask), (40, 60), (80, 120))
    assert large is not None
    assert large.region.box == Rectangle(20, 60, 40, 100)
    assert large.region.area == 20 * 40
    mask[:] = False
    mask[10:20, 32] = True
    assert resized(piece_of(mask), (40, 60), (12, 18)) is None, "a line of one pixel vanishes"


def piece_of(mask: np.ndarray) -> Piece:
    region = Region.of(mask)
    assert region is not None
    return Piece(CAT, 0.9, region)


def test_a_large_thing_replaces_its_parts_and_nothing_else() -> None:
    def piece(label: int, top: int, left: int, bottom: int, right: int) -> Piece:
        region = Region.of(np.ones((bottom - top, right - left), bool), top, left)
        assert region is not None
        return Piece(label, 0.5, region)

    large = piece(CAT, 0, 0, 100, 100)
    parts, outside = [piece(CAT, 0, 0, 100, 40), piece(CAT, 0, 60, 100, 110)], piece(CAT, 0, 90, 100, 200)
    other = piece(DOG, 10, 10, 90, 90)
    assert with_large_things([*parts, outside, other], [large]) == [outside, other, large]
    found = piece(CAT, 0, 0, 100, 51)
    assert with_large_things([found, other], [large]) == [found, other]
    assert with_large_things([], [large]) == [large]


# Instances and memory


def test_instances_are_the_joined_things() -> None:
    image = paint((64, 112), (RED_CAT, (10, 5, 50, 90)), (BLUE_SKY, (0, 0, 8, 112)))
    predictor, _ = stub_predictor(PAINTED, TILES)
    found = predictor(image).instances(3)
    assert found.labels == [CAT]
    assert np.asarray(found.boxes).tolist() == [[5, 10, 90, 50]]
    assert found.masks[0]["size"] == [64, 112]


def test_memory_does_not_grow_with_the_number_of_segments() -> None:
    """Full-size masks of 300 segments would take 1200 MB; the id map takes 16 MB."""
    predictor, _ = stub_predictor(PAINTED, InferenceOptions())
    rules = predictor(paint((64, 64), (RED_CAT, (0, 0, 9, 9))))
    assert isinstance(rules, MaskPrediction)
    peaks = []
    for count in (3, 300):
        tracemalloc.start()
        mask = np.ones((60, 60), bool)
        regions = [Region.of(mask, 90 * (number // 20), 90 * (number % 20)) for number in range(count)]
        pieces = [Piece(CAT, 0.9, region) for region in regions if region is not None]
        assert len(TiledPrediction(pieces, (2000, 2000), rules).panoptic.segments) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(piece.region.bits.nbytes for piece in pieces) == count * 60 * 60 // 8
    assert peaks[1] < 40e6
    assert peaks[1] - peaks[0] < 10e6


def test_map_and_call_agree() -> None:
    image = paint((100, 100), (RED_CAT, (20, 20, 90, 90)))
    predictor, _ = stub_predictor(PAINTED, TILES)
    assert isinstance(predictor, TiledPredictor)
    (mapped,) = predictor.map([("a", image)], lambda key, prediction: (key, prediction.panoptic.ids))
    assert mapped[0] == "a"
    assert (mapped[1] == predictor(image).panoptic.ids).all()
    assert (predictor.predict_all([image])[0].panoptic.ids == mapped[1]).all()


def test_the_views_of_the_whole_image_are_made_from_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """An enlarged view of an image that was reduced before would have lost its details."""
    image = paint((160, 200), (RED_CAT, (20, 20, 140, 180)))
    options = InferenceOptions(tile=64, tile_overlap=16, tile_whole_image=True, views=parse_views("1.25"))
    predictor, _ = stub_predictor(PAINTED, options, side=64)
    seen: list[tuple[int, ...]] = []
    prepare = Predictor.prepare

    def watched(own: Predictor, images: Sequence[ImageArray]) -> tuple[Tensor, Tensor]:
        seen.append(images[0].shape)
        return prepare(own, images)

    monkeypatch.setattr(Predictor, "prepare", watched)
    found = predictor(image).panoptic
    assert seen[-2:] == [image.shape] * 2
    assert [name for name, _, _ in named(found)] == ["cat"]
