"""How many generated scenes, how large, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from panformer_cli.data.scenes.patterns import TEXTURES
from panformer_cli.errors import PanformerError

LARGEST_SIDE = 8192
"""Pixels."""


@dataclass(frozen=True)
class SceneOptions:
    """Settings of the generated data set. Two equal `SceneOptions` give equal files.

    Lengths are shares of the image's short side, so that a larger image is the same scene with more pixels.

    Raises:
        PanformerError: settings that cannot be drawn, all of them listed.
    """

    train_images: int = 4000
    val_images: int = 100
    height: int = 128
    """Pixels."""
    width: int = 128
    """Pixels."""
    seed: int = 0
    image_format: Literal["jpg", "png"] = "jpg"
    min_objects: int = 2
    """Objects that are tried in an image; one that would hide another too much is left out."""
    max_objects: int = 6
    smallest_object: float = 0.12
    """Diameter, share of the short side; most objects are well above it."""
    largest_object: float = 0.65
    min_visible_pixels: int = 60
    """No object shows fewer pixels, at the end, than this ..."""
    min_visible_share: float = 0.35
    """... or a smaller share of itself."""
    min_stuff: int = 2
    """Textured regions in an image, each of its own class."""
    max_stuff: int = 4
    hue_spread: float = 20.0
    """Standard deviation, degrees, of the hue of an object or region around the mean of its class. The means lie 60
    (things) and 72 (stuff) degrees apart: at 20 the colour leans on the class, above 100 it says nothing."""
    void_probability: float = 0.35
    """How often an image has a region that is not annotated."""
    crowd_probability: float = 0.15
    """How often an image has a cluster of small objects annotated as one crowd."""
    min_crowd: int = 8
    """Objects in such a cluster."""
    max_crowd: int = 14

    def __post_init__(self) -> None:
        problems = [*self._count_problems(), *self._range_problems(), *self._share_problems()]
        if problems:
            raise PanformerError("\n".join(problems))

    def _count_problems(self) -> list[str]:
        least = {"train_images": 1, "val_images": 1, "height": 32, "width": 32, "seed": 0, "min_visible_pixels": 1}
        least |= {"min_objects": 0, "min_stuff": 1, "min_crowd": 1}
        problems = [
            f"{name} is {getattr(self, name)}: expected {smallest} or more"
            for name, smallest in least.items()
            if getattr(self, name) < smallest
        ]
        problems += [
            f"{name} is {getattr(self, name)}: expected at most {LARGEST_SIDE}"
            for name in ("height", "width")
            if getattr(self, name) > LARGEST_SIDE
        ]
        if self.max_stuff > len(TEXTURES):
            problems.append(f"max_stuff is {self.max_stuff}: expected at most {len(TEXTURES)}, the number of textures")
        if self.image_format not in ("jpg", "png"):
            problems.append(f"image_format is {self.image_format!r}: expected jpg or png")
        return problems

    def _range_problems(self) -> list[str]:
        pairs = (
            ("min_objects", "max_objects"),
            ("smallest_object", "largest_object"),
            ("min_stuff", "max_stuff"),
            ("min_crowd", "max_crowd"),
        )
        return [
            f"{low} is {getattr(self, low)} and {high} is {getattr(self, high)}: expected {low} to be at most {high}"
            for low, high in pairs
            if getattr(self, low) > getattr(self, high)
        ]

    def _share_problems(self) -> list[str]:
        shares = ("min_visible_share", "void_probability", "crowd_probability")
        problems = [
            f"{name} is {getattr(self, name)}: expected 0 to 1" for name in shares if not 0 <= getattr(self, name) <= 1
        ]
        problems += [
            f"{name} is {getattr(self, name)}: expected more than 0 and at most 1, a share of the image's short side"
            for name in ("smallest_object", "largest_object")
            if not 0 < getattr(self, name) <= 1
        ]
        if not self.hue_spread >= 0:
            problems.append(f"hue_spread is {self.hue_spread}: expected 0 or more degrees")
        return problems
