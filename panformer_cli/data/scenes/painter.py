"""Paints one scene: textured ground, objects that occlude each other, and the exact annotation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.data.scenes.patterns import (
    OUTLINES,
    STUFF_IDS,
    TEXTURES,
    THING_IDS,
    Floats,
    Random,
    draw_texture,
    rgb,
    rotated_grid,
    scene_categories,
)
from panformer_cli.data.scenes.sprites import (
    Sprite,
    crowd_sprite,
    draw_hue,
    frame_sprite,
    object_sprite,
    scribble_sprite,
)
from panformer_cli.data.structures import ImageArray, PanopticMap

PLACING_ATTEMPTS = 6
CATEGORIES = scene_categories()


@dataclass
class Canvas:
    """The scene as painted so far.

    Attributes:
        image: (H, W, 3) float32, 0..255.
        owner: (H, W) int32, the region or object that each pixel belongs to; 0 is void.
        category_of: category id of each owner.
        full_area: pixels of each object without occlusion; stuff is not included.
        crowds: the owners that are crowds.
    """

    image: Floats
    owner: npt.NDArray[np.int32]
    category_of: dict[int, int] = field(default_factory=dict)
    full_area: dict[int, int] = field(default_factory=dict)
    crowds: set[int] = field(default_factory=set)

    def place(self, sprite: Sprite, category_id: int, options: SceneOptions, crowd: bool = False) -> bool:
        """Paint an object on top; return False without painting if too little of it or another would be visible."""
        new = max(self.category_of) + 1
        full_area = self.full_area | {new: int(sprite.mask.sum())}
        if not self._cover(sprite, new, full_area, options):
            return False
        self.category_of[new], self.full_area = category_id, full_area
        if crowd:
            self.crowds.add(new)
        return True

    def place_void(self, sprite: Sprite, options: SceneOptions) -> bool:
        """Paint a region without annotation on top; returns as `place`."""
        return self._cover(sprite, 0, self.full_area, options)

    def _cover(self, sprite: Sprite, new: int, full_area: dict[int, int], options: SceneOptions) -> bool:
        owner = self.owner.copy()
        sprite.stamp(owner, new)
        visible = np.bincount(owner.ravel(), minlength=max(full_area, default=0) + 1)
        for object_id, area in full_area.items():
            if visible[object_id] < max(options.min_visible_pixels, options.min_visible_share * area):
                return False
        self.owner = owner
        sprite.paint(self.image)
        return True


def paint_scene(random: Random, options: SceneOptions) -> tuple[ImageArray, PanopticMap]:
    """Return a scene and its annotation; all random choices come from `random`.

    Returns:
        The image, (height, width, 3) uint8 RGB, and its panoptic map with the category ids of `scene_categories`.
        Segment ids are colors close to the category's, as in COCO's files.
    """
    canvas = paint_ground(random, options)
    if random.random() < options.crowd_probability:
        _add_crowd(canvas, random, options)
    _add_objects(canvas, random, options)
    if random.random() < options.void_probability:
        _add_void(canvas, random, options)
    return add_light(canvas.image, random), _annotate(canvas, random, options)


def paint_ground(random: Random, options: SceneOptions) -> Canvas:
    """Paint the stuff: textures separated by wavy curves."""
    height, width = options.height, options.width
    count = int(random.integers(options.min_stuff, options.max_stuff + 1))
    names = [str(name) for name in random.permutation(list(TEXTURES))[:count]]
    canvas = Canvas(np.zeros((height, width, 3), np.float32), np.ones((height, width), np.int32))
    for owner, name in enumerate(names, start=1):
        if owner > 1:
            canvas.owner[_beyond_curve(random, height, width)] = owner
        canvas.category_of[owner] = STUFF_IDS[name]
    for owner, name in enumerate(names, start=1):
        mixture = draw_texture(name, random, height, width, min(height, width) * random.uniform(0.08, 0.16))
        dark, bright = _ground_colors(draw_hue(name, options.hue_spread, random), random)
        region = canvas.owner == owner
        canvas.image[region] = dark + mixture[region, None] * (bright - dark)
    return canvas


def _beyond_curve(random: Random, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return one side of a wavy curve across the image, (height, width) bool."""
    unit = min(height, width)
    x, y = rotated_grid(random, height, width)
    bend = (
        unit * random.uniform(0.03, 0.12) * np.sin(2 * np.pi * (y / (unit * random.uniform(0.4, 1)) + random.random()))
    )
    beyond: npt.NDArray[np.bool_] = x + bend > unit * random.uniform(-0.1, 0.3)
    return beyond


def _ground_colors(hue: float, random: Random) -> tuple[Floats, Floats]:
    """Return two muted colors of about this hue (0..1), the darker one first."""
    value = random.uniform(0.35, 0.65)
    dark = rgb(hue, random.uniform(0.25, 0.5), value)
    bright = rgb(hue + random.normal(0, 0.03), random.uniform(0.2, 0.4), value + random.uniform(0.2, 0.35))
    return np.array(dark, np.float32), np.array(bright, np.float32)


def _add_objects(canvas: Canvas, random: Random, options: SceneOptions) -> None:
    """Add objects of one to four classes, so that an image often has several objects of one class."""
    classes = random.permutation(list(OUTLINES))[: random.integers(1, 5)]
    for _ in range(random.integers(options.min_objects, options.max_objects + 1)):
        name = str(random.choice(classes))
        for _ in range(PLACING_ATTEMPTS):
            sprite = object_sprite(
                name,
                diameter(random, options),
                somewhere(random, options),
                draw_hue(name, options.hue_spread, random),
                random,
            )
            if canvas.place(sprite, THING_IDS[name], options):
                break


def _add_crowd(canvas: Canvas, random: Random, options: SceneOptions) -> None:
    name = str(random.choice(list(OUTLINES)))
    count = int(random.integers(options.min_crowd, options.max_crowd + 1))
    size = min(options.height, options.width) * random.uniform(0.06, 0.1)
    hue = draw_hue(name, options.hue_spread, random)
    for _ in range(PLACING_ATTEMPTS):
        sprite = crowd_sprite(name, count, size, somewhere(random, options), hue, random)
        if canvas.place(sprite, THING_IDS[name], options, crowd=True):
            break


def _add_void(canvas: Canvas, random: Random, options: SceneOptions) -> None:
    draw = scribble_sprite if random.random() < 0.6 else frame_sprite
    for _ in range(PLACING_ATTEMPTS):
        if canvas.place_void(draw(options.height, options.width, random), options):
            break


def diameter(random: Random, options: SceneOptions) -> float:
    """Return a diameter in pixels, rarely close to the smallest or the largest."""
    share = options.smallest_object + (options.largest_object - options.smallest_object) * random.beta(2, 2.5)
    return float(share * min(options.height, options.width))


def somewhere(random: Random, options: SceneOptions) -> tuple[float, float]:
    """Return a position, x and y in pixels."""
    return random.uniform(0, options.width), random.uniform(0, options.height)


def add_light(image: Floats, random: Random) -> ImageArray:
    """Return the image lit from one side, with camera noise; (H, W, 3) uint8."""
    height, width, _ = image.shape
    across, _ = rotated_grid(random, height, width)
    brightness = 1 + np.float32(random.uniform(0.05, 0.4)) * across / max(height, width)
    noise = random.standard_normal(image.shape, np.float32) * np.float32(random.uniform(2, 8))
    lit: ImageArray = np.clip(np.rint(image * brightness[..., None] + noise), 0, 255).astype(np.uint8)
    return lit


def _annotate(canvas: Canvas, random: Random, options: SceneOptions) -> PanopticMap:
    """Return the panoptic map; small remains of stuff between objects become void."""
    visible = np.bincount(canvas.owner.ravel(), minlength=max(canvas.category_of) + 1)
    final_id = np.zeros(len(visible), np.int32)
    category_of_id: dict[int, int] = {}
    for owner, category_id in canvas.category_of.items():
        if visible[owner] >= options.min_visible_pixels:
            final_id[owner] = new_id(random, category_id, category_of_id)
            category_of_id[int(final_id[owner])] = category_id
    ids = final_id[canvas.owner]
    return PanopticMap(ids, segments_of(ids, category_of_id, [int(final_id[owner]) for owner in canvas.crowds]))


def new_id(random: Random, category_id: int, taken: dict[int, int]) -> int:
    """Return a segment id whose color in the PNG is close to the category's."""
    mean = np.array(CATEGORIES.by_id(category_id).color)
    while True:
        red, green, blue = np.clip(mean + random.integers(-45, 46, 3), 0, 255).tolist()
        segment_id: int = red + 256 * green + 256 * 256 * blue
        if segment_id and segment_id not in taken:
            return segment_id
