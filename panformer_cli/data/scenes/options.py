"""Settings of generated scenes: number, size and content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from panformer_cli.data.scenes.patterns import TEXTURES
from panformer_cli.errors import PanformerError

LARGEST_SIDE = 8192
"""Maximum height and width, in pixels."""


@dataclass(frozen=True)
class SceneOptions:
    """Settings of the generated data set. Equal `SceneOptions` give equal files.

    Lengths are fractions of the image's short side, so a larger image is the same scene with more pixels.

    Raises:
        PanformerError: invalid settings; all of them are listed.
    """

    train_images: int = 4000
    val_images: int = 100
    height: int = 128
    """In pixels."""
    width: int = 128
    """In pixels."""
    seed: int = 0
    image_format: Literal["jpg", "png"] = "jpg"
    min_objects: int = 2
    """Objects tried per image; an object that would hide too much of another is left out."""
    max_objects: int = 6
    smallest_object: float = 0.12
    """Diameter as a fraction of the short side; most objects are much larger."""
    largest_object: float = 0.65
    min_visible_pixels: int = 60
    """Minimum visible pixels of an object in the final image."""
    min_visible_share: float = 0.35
    """Minimum visible fraction of an object in the final image."""
    min_stuff: int = 2
    """Textured regions per image, each of a different class."""
    max_stuff: int = 4
    hue_spread: float = 20.0
    """Standard deviation, in degrees, of the hue of an object or region around the mean of its class. The means are 60
    (things) and 72 (stuff) degrees apart: at 20 the color suggests the class, above 100 it carries no information."""
    void_probability: float = 0.35
    """Probability of a region without annotation."""
    crowd_probability: float = 0.15
    """Probability of a cluster of small objects annotated as one crowd."""
    min_crowd: int = 8
    """Objects per cluster."""
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
            f"{name} is {getattr(self, name)}: expected more than 0 and at most 1, a fraction of the image's short side"
            for name in ("smallest_object", "largest_object")
            if not 0 < getattr(self, name) <= 1
        ]
        if not self.hue_spread >= 0:
            problems.append(f"hue_spread is {self.hue_spread}: expected 0 or more degrees")
        return problems
