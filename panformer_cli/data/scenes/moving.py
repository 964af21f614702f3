"""Generated scenes that move: objects cross on straight paths, and one can hide behind another for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.data.scenes.painter import CATEGORIES, Canvas, add_light, diameter, new_id, paint_ground, somewhere
from panformer_cli.data.scenes.patterns import OUTLINES, THING_IDS, Random
from panformer_cli.data.scenes.sprites import Sprite, draw_hue, object_sprite
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.errors import PanformerError

__all__ = ["CATEGORIES", "MovingOptions", "moving_scene"]

Owners = npt.NDArray[np.int32]
"""(frames, H, W) int32, the region or object that each pixel belongs to."""

ATTEMPTS = 20
SOLID = ("disc", "square")
"""Things without holes or notches, which can hide others."""


@dataclass(frozen=True)
class MovingOptions:
    """Settings of a moving scene.

    Attributes:
        scene: Size and content of a frame. Crowds and void regions are left out.
        frames: Number of frames, 2 or more.
        largest_step: Largest distance that an object moves from frame to frame, as a fraction of the short side.
        hidden_frames: Largest number of frames for which one object is completely hidden, 1 or more; 0 if every object
            is visible in every frame.
    """

    scene: SceneOptions = field(default_factory=SceneOptions)
    frames: int = 16
    largest_step: float = 0.03
    hidden_frames: int = 0


@dataclass(frozen=True)
class _Mover:
    """An object and its path.

    Attributes:
        sprite: Its image, at the position of the first frame.
        steps: (frames, 2) int, x and y of each frame relative to the first one, in pixels.
        category_id: Its class.
    """

    sprite: Sprite
    steps: npt.NDArray[np.int64]
    category_id: int

    def at(self, frame: int) -> Sprite:
        x, y = self.steps[frame].tolist()
        return replace(self.sprite, left=self.sprite.left + x, top=self.sprite.top + y)


def moving_scene(options: MovingOptions, seed: int) -> Iterator[tuple[ImageArray, PanopticMap]]:
    """Yield the frames of a scene and their annotations; they depend only on the arguments.

    An object has the same segment id in every frame. In every frame, as much of it is visible as `SceneOptions` asks
    for, except of the one that is hidden for a moment. Remains of less than `min_visible_pixels` are void.

    Returns:
        Images, (height, width, 3) uint8 RGB, and panoptic maps with the category ids of `scene_categories`.

    Raises:
        PanformerError: No scene with a hidden object was found: the objects are too large or too slow.
    """
    random = np.random.default_rng([options.scene.seed, seed])
    for _ in range(ATTEMPTS):
        ground = paint_ground(random, options.scene)
        scene = _MovingScene(ground, options)
        scene.add_objects(random)
        if not options.hidden_frames or scene.add_hiding(random):
            break
    else:
        raise PanformerError(
            f"no object can be hidden for 1 to {options.hidden_frames} of {options.frames} frames in these scenes; "
            "expected objects that move further; increase frames, largest_step or hidden_frames"
        )
    yield from scene.painted(random)


class _MovingScene:
    """The ground and the objects on it, later ones on top of earlier ones."""

    def __init__(self, ground: Canvas, options: MovingOptions) -> None:
        self._ground = ground
        self._options = options
        self._movers: list[_Mover] = []
        self._owners: Owners = np.repeat(ground.owner[None], options.frames, axis=0)

    def add_objects(self, random: Random) -> None:
        """Add the objects that stay visible in every frame."""
        scene = self._options.scene
        classes = random.permutation(list(OUTLINES))[: random.integers(1, 5)]
        for _ in range(random.integers(scene.min_objects, scene.max_objects + 1)):
            name = str(random.choice(classes))
            for _ in range(ATTEMPTS):
                mover = self._mover(name, diameter(random, scene), somewhere(random, scene), random)
                if self._add(mover):
                    break

    def add_hiding(self, random: Random) -> bool:
        """Add an object on top that hides another one for a moment; return whether a position for it was found."""
        frames = self._options.frames
        for _ in range(ATTEMPTS if self._movers else 0):
            hidden = int(random.integers(len(self._movers)))
            target = self._movers[hidden].at(frames // 2)
            rows, columns = np.nonzero(target.mask)
            center = (target.left + float(columns.mean()), target.top + float(rows.mean()))
            size = 2 * float(np.hypot(rows - rows.mean(), columns - columns.mean()).max())
            mover = self._mover(str(random.choice(SOLID)), 1.5 * size, center, random, frames // 2)
            if self._add(mover, hidden):
                return True
        return False

    def painted(self, random: Random) -> Iterator[tuple[ImageArray, PanopticMap]]:
        """Yield the images and annotations of the frames."""
        category_of = {**self._ground.category_of}
        category_of |= {self._owner(number): mover.category_id for number, mover in enumerate(self._movers)}
        id_of = np.zeros(max(category_of) + 1, np.int32)
        categories: dict[int, int] = {}
        for owner, category_id in category_of.items():
            id_of[owner] = new_id(random, category_id, categories)
            categories[int(id_of[owner])] = category_id
        light = int(random.integers(2**32))  # the same light in every frame
        for frame, owner_map in enumerate(self._owners):
            image = self._ground.image.copy()
            for mover in self._movers:
                mover.at(frame).paint(image)
            visible = np.bincount(owner_map.ravel(), minlength=len(id_of))
            ids = np.where(visible >= self._options.scene.min_visible_pixels, id_of, 0)[owner_map].astype(np.int32)
            yield add_light(image, np.random.default_rng(light)), PanopticMap(ids, segments_of(ids, categories))

    def _mover(self, name: str, diameter: float, center: tuple[float, float], random: Random, frame: int = 0) -> _Mover:
        """Return an object that is at `center` in a frame, and moves straight between the borders of the image."""
        scene = self._options.scene
        sides = np.array([scene.width, scene.height], np.float64)
        angle, share = random.uniform(0, 2 * np.pi), random.uniform(0.3, 1)
        step = share * self._options.largest_step * sides.min() * np.array([np.cos(angle), np.sin(angle)])
        straight = np.array(center) + np.outer(np.arange(self._options.frames) - frame, step)
        turned = np.abs((straight + sides) % (2 * sides) - sides)  # reflected at both borders
        steps = np.rint(turned - turned[0]).astype(np.int64)
        start = (float(turned[0, 0]), float(turned[0, 1]))
        sprite = object_sprite(name, diameter, start, draw_hue(name, scene.hue_spread, random), random)
        return _Mover(sprite, steps, THING_IDS[name])

    def _add(self, mover: _Mover, hidden: int | None = None) -> bool:
        """Add an object on top; return False if it, or another object but number `hidden`, would be hidden too much."""
        owners = self._owners.copy()
        new = self._owner(len(self._movers))
        for frame, owner_map in enumerate(owners):
            mover.at(frame).stamp(owner_map, new)
        scene = self._options.scene
        pixels = np.stack([np.bincount(owner_map.ravel(), minlength=new + 1) for owner_map in owners])
        for number, other in enumerate([*self._movers, mover]):
            visible = pixels[:, self._owner(number)]
            least = max(scene.min_visible_pixels, scene.min_visible_share * int(other.sprite.mask.sum()))
            covered = np.flatnonzero(visible < scene.min_visible_pixels)
            if number == hidden:
                if not self._is_moment(covered):
                    return False
            elif visible.min() < least:
                return False
        self._owners = owners
        self._movers.append(mover)
        return True

    def _is_moment(self, frames: npt.NDArray[np.intp]) -> bool:
        """Return whether these are 1 to `hidden_frames` consecutive frames, neither the first nor the last one."""
        count = len(frames)
        inside = count > 0 and frames[0] > 0 and frames[-1] < self._options.frames - 1
        return bool(inside and count <= self._options.hidden_frames and frames[-1] - frames[0] == count - 1)

    def _owner(self, number: int) -> int:
        return max(self._ground.category_of) + 1 + number
