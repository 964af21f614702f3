"""Things of a tiled image: which pieces in adjacent tiles are one object (docs/model.md, "Tiles")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from panformer_cli.data.opencv import cv2
from panformer_cli.engine.combined.grid import Grid, Rectangle
from panformer_cli.engine.combined.grouping import SAME_OBJECT, join_groups
from panformer_cli.engine.combined.pieces import Piece, Region
from panformer_cli.models.candidates import Floats, MaskPrediction


@dataclass(frozen=True)
class TileThing:
    """A thing that a tile's own panoptic map contains."""

    tile: int
    piece: Piece


def things_of(prediction: MaskPrediction) -> Iterator[Piece]:
    """Yield the things in a panoptic map."""
    panoptic, categories = prediction.panoptic, prediction.categories
    for segment in panoptic.segments:
        if categories.by_id(segment.category_id).is_thing:
            rows, columns = segment.box_slices
            region = Region.of(panoptic.boxed_mask(segment), rows.start, columns.start)
            assert region is not None, "segments have pixels"
            yield Piece(categories.label(segment.category_id), segment.score or 0.0, region)


def moved(piece: Piece, tile: Rectangle) -> Piece:
    """Return a piece of a tile in the image that the tile is part of."""
    box = piece.region.box
    box = Rectangle(box.top + tile.top, box.left + tile.left, box.bottom + tile.top, box.right + tile.left)
    return Piece(piece.label, piece.score, Region(box, piece.region.bits, piece.region.area))


def join_things(things: Sequence[TileThing], grid: Grid) -> list[Piece]:
    """Return the things of the image. Those of adjacent tiles are one if their pixels in the shared strip agree.

    Its pixels are a weighted vote of the tiles that contain it; its score is the mean, weighted by area.
    """
    groups = join_groups([thing.tile for thing in things], _pairs(things, grid))
    return [_joined([things[number] for number in group], grid) for group in groups]


def _pairs(things: Sequence[TileThing], grid: Grid) -> list[tuple[int, int]]:
    """Return the pairs of things of one class that agree where their tiles overlap, the best agreement first."""
    in_tile: dict[int, list[int]] = {}
    for number, thing in enumerate(things):
        in_tile.setdefault(thing.tile, []).append(number)
    found = []
    for tile, own in in_tile.items():
        for other, strip in grid.covering(grid.tile(tile)):
            if other > tile and other in in_tile:
                weights = grid.weights_in(strip, tile) * grid.weights_in(strip, other)
                for one, two in product(own, in_tile[other]):
                    first, second = things[one].piece, things[two].piece
                    if first.label == second.label:
                        found.append((_agreement(first.region, second.region, strip, weights), one, two))
    found = [pair for pair in found if pair[0] > SAME_OBJECT]
    return [(one, two) for _, one, two in sorted(found, key=lambda pair: -pair[0])]


def _agreement(first: Region, second: Region, strip: Rectangle, weights: Floats) -> float:
    """Return the IoU of two regions in a shared strip, 0..1; 0 if neither has pixels there.

    The middle of the strip counts most: towards the border of a tile, its masks get worse.

    Args:
        first: in one tile.
        second: in another tile.
        strip: the pixels of both tiles.
        weights: of the pixels of the strip.
    """
    if first.box.intersection(strip) is None or second.box.intersection(strip) is None:
        return 0.0
    one, other = first.mask_in(strip), second.mask_in(strip)
    union = float(weights[one | other].sum())
    return float(weights[one & other].sum()) / union if union else 0.0


def _joined(things: Sequence[TileThing], grid: Grid) -> Piece:
    if len(things) == 1:
        return things[0].piece
    boxes = [thing.piece.region.box for thing in things]
    union = Rectangle(
        min(box.top for box in boxes),
        min(box.left for box in boxes),
        max(box.bottom for box in boxes),
        max(box.right for box in boxes),
    )
    votes = np.zeros(union.shape, np.float32)
    for thing in things:
        shared = grid.tile(thing.tile).intersection(union)
        assert shared is not None, "the union contains a part of the tile"
        weights = grid.weights_in(shared, thing.tile)
        votes[shared.within(union)] += np.where(thing.piece.region.mask_in(shared), weights, -weights)
    region = Region.of(votes > 0, union.top, union.left)
    assert region is not None, "the tiles agree on pixels of the strip"
    areas = [thing.piece.region.area for thing in things]
    score = float(np.average([thing.piece.score for thing in things], weights=areas))
    return Piece(things[0].piece.label, score, region)


def resized(piece: Piece, size: tuple[int, int], new_size: tuple[int, int]) -> Piece | None:
    """Return a thing of an image after the image is resized from `size` to `new_size`; None if no pixel remains.

    Args:
        piece: the thing.
        size: height and width of its image.
        new_size: height and width of the resized image.
    """
    rows, columns = (new / old for new, old in zip(new_size, size, strict=True))
    box = piece.region.box
    top, bottom = round(box.top * rows), round(box.bottom * rows)
    left, right = round(box.left * columns), round(box.right * columns)
    if top == bottom or left == right:
        return None
    mask = cv2.resize(piece.region.mask().astype(np.float32), (right - left, bottom - top))
    region = Region.of(np.asarray(mask) > 0.5, top, left)
    return None if region is None else Piece(piece.label, piece.score, region)


def with_large_things(things: Sequence[Piece], large: Sequence[Piece]) -> list[Piece]:
    """Return the things of the tiles, and those of the whole image that are too large for a tile.

    A large thing replaces the things of its class that have more than half of their pixels in it. If one of these alone
    covers more than half of the large thing, the tiles have found it, and the large thing is left out instead.

    Args:
        things: joined from tiles.
        large: things of the whole image that do not fit into a tile.
    """
    kept = list(things)
    for whole in sorted(large, key=lambda piece: -piece.score):
        shared = [piece.region.shared_area(whole.region) if piece.label == whole.label else 0 for piece in kept]
        if all(2 * area <= whole.region.area for area in shared):
            kept = [piece for piece, area in zip(kept, shared, strict=True) if 2 * area <= piece.region.area] + [whole]
    return kept
