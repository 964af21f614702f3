"""How images are run through the network: whole or in tiles, in how many views, with how many mask layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from panformer_cli.errors import PanformerError

SMALLEST_TILE = 64
"""Side of a tile in pixels; below it, tiles have almost no context."""
SCALES = (0.75, 1.25)
"""The scales that `--tta scales` adds."""
SCALE_RANGE = (0.25, 4.0)


@dataclass(frozen=True)
class View:
    """A version of an image that the network sees.

    Attributes:
        scale: factor on the sides of the network's input.
        flipped: whether left and right are exchanged.
    """

    scale: float = 1.0
    flipped: bool = False

    def __str__(self) -> str:
        return f"scale {self.scale:g}{', flipped' if self.flipped else ''}"


@dataclass(frozen=True)
class InferenceOptions:
    """What `--tile`, `--tile-overlap`, `--tile-whole-image`, `--tta` and `--mask-layers` choose.

    Attributes:
        tile: side of a tile in pixels of the image; None for whole images.
        tile_overlap: width in pixels of the strip that adjacent tiles share; None for an eighth of the tile.
        tile_whole_image: also run the whole image, to find things that are larger than a tile.
        views: versions of an image whose masks are averaged; the first one is the image itself.
        mask_layers: number of layers of each mask decoder; None for all.

    Raises:
        PanformerError: the options contradict each other, or one is out of range.
    """

    tile: int | None = None
    tile_overlap: int | None = None
    tile_whole_image: bool = False
    views: tuple[View, ...] = (View(),)
    mask_layers: int | None = None

    def __post_init__(self) -> None:
        if self.tile is None:
            if self.tile_overlap is not None or self.tile_whole_image:
                name = "--tile-whole-image" if self.tile_whole_image else "--tile-overlap"
                raise PanformerError(f"{name} needs --tile N, the side of a tile in pixels: use both or neither")
            return
        if self.tile < SMALLEST_TILE:
            raise PanformerError(f"--tile is {self.tile}: expected {SMALLEST_TILE} pixels or more")
        if not 0 < self.overlap <= self.tile // 2:
            raise PanformerError(
                f"--tile-overlap is {self.tile_overlap}: expected 1 to {self.tile // 2} pixels, at most half of --tile"
            )

    @property
    def overlap(self) -> int:
        """The width of the shared strips in pixels; 0 without tiles."""
        if self.tile is None:
            return 0
        return self.tile // 8 if self.tile_overlap is None else self.tile_overlap

    def to_json(self) -> dict[str, Any]:
        """Return the options that differ from the defaults."""
        content: dict[str, Any] = {}
        if self.tile is not None:
            content |= {"tile": self.tile, "tile_overlap": self.overlap, "tile_whole_image": self.tile_whole_image}
        if len(self.views) > 1:
            content["views"] = [str(view) for view in self.views]
        if self.mask_layers is not None:
            content["mask_layers"] = self.mask_layers
        return content

    def to_settings(self) -> dict[str, Any]:
        """Return `to_json` under the key `inference`, for settings that results depend on; {} for the defaults."""
        content = self.to_json()
        return {"inference": content} if content else {}


DEFAULT = InferenceOptions()
"""Whole images, one view, all layers."""


def parse_views(text: str) -> tuple[View, ...]:
    """Return the views of `--tta`: every scale, in both directions with `flip`.

    Args:
        text: words separated by commas: `flip`, `scales` for `SCALES`, or scales such as 0.75. Scale 1 is always there.

    >>> [str(view) for view in parse_views("flip,1.25")]
    ['scale 1', 'scale 1, flipped', 'scale 1.25', 'scale 1.25, flipped']

    Raises:
        PanformerError: a word is unknown, repeated or out of range.
    """
    scales, flips = [1.0], [False]
    for word in (word.strip() for word in text.split(",")):
        new = SCALES if word == "scales" else () if word == "flip" else (_scale(word, text),)
        if set(new) & set(scales[1:]) or (word == "flip" and True in flips):
            raise PanformerError(f"--tta is {text!r}: {word} is there twice; name every view once")
        scales += [scale for scale in new if scale != 1.0]
        flips += [True] if word == "flip" else []
    return tuple(View(scale, flipped) for scale in scales for flipped in flips)


def _scale(word: str, text: str) -> float:
    low, high = SCALE_RANGE
    try:
        scale = float(word)
    except ValueError:
        scale = float("nan")
    if not low <= scale <= high:
        raise PanformerError(
            f"--tta is {text!r}: expected words separated by commas: flip, scales, or factors from {low} to {high:g} "
            "such as flip,0.75,1.25"
        )
    return scale
