"""Stuff of a tiled image: scores and masks of the tiles, blended with tapered windows (docs/model.md, "Tiles")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from panformer_cli.data.opencv import cv2
from panformer_cli.engine.combined.grid import Grid, Rectangle
from panformer_cli.engine.combined.pieces import Piece, Region
from panformer_cli.models.candidates import Floats, MaskPrediction


@dataclass(frozen=True)
class TileStuff:
    """The stuff of one tile, by label: score, and small mask as in `MaskCandidates`. Only scores above 0 are kept."""

    scores: dict[int, float]
    masks: dict[int, Floats]

    @classmethod
    def of(cls, prediction: MaskPrediction) -> TileStuff:
        """Return the stuff candidates of a tile's prediction."""
        stuff = prediction.candidates.stuff()
        scores = stuff.scores()
        kept = np.flatnonzero(scores > 0).tolist()
        labels = stuff.labels.tolist()
        return cls(
            {labels[index]: float(scores[index]) for index in kept},
            {labels[index]: stuff.masks[index].copy() for index in kept},
        )


def blend_stuff(tiles: Sequence[TileStuff], grid: Grid, least_score: float, threshold: float) -> Iterator[Piece]:
    """Yield the stuff of the image: for every cell of the grid, the pixels of each class.

    A pixel belongs to a class if its blended score is at least `least_score` and its blended mask, weighted by the
    scores, is above `threshold`. Where only one tile covers a pixel, this is the rule of a single image.

    Args:
        tiles: the stuff of each tile of the grid.
        grid: the tiles.
        least_score: of a segment.
        threshold: of a mask, above which a pixel is claimed.
    """
    for number in range(len(grid)):
        cell = grid.cell(number)
        shares = [(tiles[tile], grid.tile(tile), part) for tile, part in grid.covering(cell)]
        weights = [grid.weights_in(part, tile) for tile, part in grid.covering(cell)]
        best: dict[int, float] = {}
        for stuff, _, _ in shares:
            best |= {label: max(score, best.get(label, 0.0)) for label, score in stuff.scores.items()}
        for label in sorted(label for label, score in best.items() if score >= least_score):
            piece = _blended(label, cell, shares, weights, least_score, threshold)
            if piece is not None:
                yield piece


def _blended(
    label: int,
    cell: Rectangle,
    shares: Sequence[tuple[TileStuff, Rectangle, Rectangle]],
    weights: Sequence[Floats],
    least_score: float,
    threshold: float,
) -> Piece | None:
    """Return the pixels of a cell that belong to a class; None if there are none.

    Args:
        label: of the class.
        cell: the part of the image.
        shares: the tiles that cover pixels of the cell: their stuff, their rectangle, and the shared pixels.
        weights: blending weights of the shared pixels.
        least_score: as in `blend_stuff`.
        threshold: as in `blend_stuff`.
    """
    total, score, evidence = (np.zeros(cell.shape, np.float32) for _ in range(3))
    for (stuff, tile, part), weight in zip(shares, weights, strict=True):
        inside = part.within(cell)
        total[inside] += weight
        if label in stuff.scores:
            weighted = weight * np.float32(stuff.scores[label])
            height, width = tile.shape
            mask = cv2.resize(stuff.masks[label], (width, height), interpolation=cv2.INTER_LINEAR)
            score[inside] += weighted
            evidence[inside] += weighted * np.asarray(mask)[part.within(tile)]
    claimed = (evidence > threshold * score) & (score >= np.float32(least_score) * total)
    region = Region.of(claimed, cell.top, cell.left)
    if region is None:
        return None
    return Piece(label, float((score[claimed] / total[claimed]).mean(dtype=np.float64)), region)
