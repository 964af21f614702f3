"""Large images in overlapping tiles: each tile is predicted like an image of its own, and all are merged once.

Masks are packed crops, so memory grows with the size of the image, and not with its size times its segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.engine.combined.grid import Grid
from panformer_cli.engine.combined.pieces import Piece
from panformer_cli.engine.combined.stuff import TileStuff, blend_stuff
from panformer_cli.engine.combined.things import (
    TileThing,
    join_things,
    moved,
    resized,
    things_of,
    with_large_things,
)
from panformer_cli.engine.inference import Key, Predictor
from panformer_cli.metrics.detection import InstancePrediction, encode_mask
from panformer_cli.models.base import Prediction
from panformer_cli.models.candidates import MaskPrediction


@dataclass(frozen=True)
class TiledPrediction(Prediction):
    """The prediction for an image from its tiles.

    Attributes:
        pieces: things and parts of stuff.
        size: height and width of the image.
        rules: the prediction of a tile, which merges by the family's rules.
    """

    pieces: Sequence[Piece]
    size: tuple[int, int]
    rules: MaskPrediction

    @cached_property
    def panoptic(self) -> PanopticMap:
        """The merged map of the whole image."""
        ordered = sorted(self.pieces, key=lambda piece: -piece.score)
        return self.rules.merge((piece.claim() for piece in ordered), self.size)

    def instances(self, image_id: int | str) -> InstancePrediction:
        """Return the things that tiles accepted, joined, before they are merged."""
        things = [piece for piece in self.pieces if piece.label < self.rules.categories.num_things]
        boxes = [(box.left, box.top, box.right, box.bottom) for box in (piece.region.box for piece in things)]
        masks = []
        for piece in things:
            mask = np.zeros(self.size, np.bool_)  # one at a time
            box = piece.region.box
            mask[box.top : box.bottom, box.left : box.right] = piece.region.mask()
            masks.append(encode_mask(mask))
        scores, labels = [piece.score for piece in things], [piece.label for piece in things]
        return InstancePrediction(image_id, scores, labels, np.array(boxes, np.float32).reshape(-1, 4), masks)


class TiledPredictor(Predictor):
    """Run a model on large images tile by tile. Images that fit into one tile are predicted whole.

    Args:
        predictor: Predicts the tiles; its model predicts masks.
        tile: Side of a tile in pixels of the image.
        overlap: Pixels that adjacent tiles share at least.
        whole_image: Also predict the whole image, for things that do not fit into a tile.
    """

    def __init__(self, predictor: Predictor, tile: int, overlap: int, whole_image: bool = False) -> None:
        super().__init__(predictor.model, predictor.recipe, predictor.device, predictor.precision)
        self._predictor = predictor
        self.tile = tile
        self.overlap = overlap
        self.whole_image = whole_image

    def grid(self, size: tuple[int, ...]) -> Grid:
        """Return the tiles of an image of this height and width."""
        height, width = size
        return Grid.of((height, width), self.tile, self.overlap)

    def described(self, size: tuple[int, int]) -> dict[str, Any]:
        """Return the tiles, and the factor by which they are resized; see `Predictor.described`."""
        grid, description = self.grid(size), self._predictor.described(size)
        if len(grid) == 1:
            return description
        description |= {"tile": list(grid.tile_size), "tile_overlap": self.overlap, "tiles": len(grid)}
        return {**description, "scale": self._scale(grid.tile_size), "whole_image": self.whole_image}

    def notes(self) -> list[str]:
        """Return the size and scale of the tiles; see `Predictor.notes`."""
        side, scale = self.tile, self._scale((self.tile, self.tile))
        note = (
            f"Images larger than {side} x {side} pixels are run in tiles of this size, resized by a factor of "
            f"{scale:g}; adjacent tiles share {self.overlap} pixels"
        )
        return [note, *self._predictor.notes()]

    def _scale(self, size: tuple[int, int]) -> float:
        """Return the factor by which tiles of this height and width are resized."""
        return round(self._predictor.input_size(size)[0] / size[0], 4)

    def __call__(self, image: ImageArray) -> Prediction:
        """Return the prediction for an image, (H, W, 3) uint8 RGB."""
        return self._predict(image, batch_size=1)

    def stream(self, images: Iterable[tuple[Key, ImageArray]], batch_size: int = 1) -> Iterator[tuple[Key, Prediction]]:
        """Yield (key, prediction) pairs in the order of the images; a batch has tiles of one image.

        Args:
            images: As for `Predictor.stream`.
            batch_size: Tiles per forward pass.
        """
        for key, image in images:
            yield key, self._predict(image, batch_size)

    def _predict(self, image: ImageArray, batch_size: int) -> Prediction:
        grid = self.grid(image.shape[:2])
        if len(grid) == 1:
            return self._predictor(image)
        stuff: list[TileStuff] = [TileStuff({}, {})] * len(grid)
        things: list[TileThing] = []
        rules: MaskPrediction | None = None
        crops = ((number, image[grid.tile(number).within(grid.whole)]) for number in range(len(grid)))
        for number, prediction in self._predictor.stream(crops, batch_size):
            rules = _checked(prediction)
            stuff[number] = TileStuff.of(rules)
            things += [TileThing(number, moved(piece, grid.tile(number))) for piece in things_of(rules)]
        assert rules is not None, "there is a tile"
        joined = join_things(things, grid)
        if self.whole_image:
            joined = with_large_things(joined, self._large_things(image))
        blended = blend_stuff(stuff, grid, rules.least_score, rules.candidates.threshold)
        return TiledPrediction([*joined, *blended], grid.size, rules)

    def _large_things(self, image: ImageArray) -> list[Piece]:
        """Return the things that do not fit into a tile, from the image at the size of the network's input."""
        size = (image.shape[0], image.shape[1])
        small = self._predictor.input_size(size)
        prediction = _checked(self._predictor.at_input_size(image))
        things = (resized(piece, small, size) for piece in things_of(prediction))
        return [piece for piece in things if piece is not None and max(piece.region.box.shape) > self.tile]


def _checked(prediction: Prediction) -> MaskPrediction:
    assert isinstance(prediction, MaskPrediction), "checked by `with_options`"
    return prediction
