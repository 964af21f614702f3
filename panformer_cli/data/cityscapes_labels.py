"""The labels of Cityscapes, as listed in `helpers/labels.py` of cityscapesScripts 2.3."""

from __future__ import annotations

from typing import NamedTuple

from panformer_cli.data.categories import Category, CategoryTable

IGNORED = 255
"""The trainId of labels that are not evaluated: void in a panoptic map."""

Color = tuple[int, int, int]


class Label(NamedTuple):
    """One label.

    Attributes:
        id: value in `*_labelIds.png` and, combined with an object's number, in `*_instanceIds.png`.
        name: as in cityscapesScripts.
        train_id: 0..18 for the classes that are evaluated, else `IGNORED`.
        is_thing: whether its objects are annotated as instances.
        color: RGB 0..255.
    """

    id: int
    name: str
    train_id: int
    is_thing: bool
    color: Color


_STUFF: tuple[tuple[int, str, int, Color], ...] = (
    (0, "unlabeled", IGNORED, (0, 0, 0)),
    (1, "ego vehicle", IGNORED, (0, 0, 0)),
    (2, "rectification border", IGNORED, (0, 0, 0)),
    (3, "out of roi", IGNORED, (0, 0, 0)),
    (4, "static", IGNORED, (0, 0, 0)),
    (5, "dynamic", IGNORED, (111, 74, 0)),
    (6, "ground", IGNORED, (81, 0, 81)),
    (7, "road", 0, (128, 64, 128)),
    (8, "sidewalk", 1, (244, 35, 232)),
    (9, "parking", IGNORED, (250, 170, 160)),
    (10, "rail track", IGNORED, (230, 150, 140)),
    (11, "building", 2, (70, 70, 70)),
    (12, "wall", 3, (102, 102, 156)),
    (13, "fence", 4, (190, 153, 153)),
    (14, "guard rail", IGNORED, (180, 165, 180)),
    (15, "bridge", IGNORED, (150, 100, 100)),
    (16, "tunnel", IGNORED, (150, 120, 90)),
    (17, "pole", 5, (153, 153, 153)),
    (18, "polegroup", IGNORED, (153, 153, 153)),
    (19, "traffic light", 6, (250, 170, 30)),
    (20, "traffic sign", 7, (220, 220, 0)),
    (21, "vegetation", 8, (107, 142, 35)),
    (22, "terrain", 9, (152, 251, 152)),
    (23, "sky", 10, (70, 130, 180)),
)

_THINGS: tuple[tuple[int, str, int, Color], ...] = (
    (24, "person", 11, (220, 20, 60)),
    (25, "rider", 12, (255, 0, 0)),
    (26, "car", 13, (0, 0, 142)),
    (27, "truck", 14, (0, 0, 70)),
    (28, "bus", 15, (0, 60, 100)),
    (29, "caravan", IGNORED, (0, 0, 90)),
    (30, "trailer", IGNORED, (0, 0, 110)),
    (31, "train", 16, (0, 80, 100)),
    (32, "motorcycle", 17, (0, 0, 230)),
    (33, "bicycle", 18, (119, 11, 32)),
)

LABELS = {
    number: Label(number, name, train_id, is_thing, color)
    for rows, is_thing in ((_STUFF, False), (_THINGS, True))
    for number, name, train_id, color in rows
}
"""By label id. The 35th label, `license plate`, has the id -1 and appears in no map."""

CATEGORIES = CategoryTable(
    Category(label.id, label.name, label.is_thing, label.color)
    for label in LABELS.values()
    if label.train_id != IGNORED
)
"""The 8 thing and 11 stuff classes that are evaluated, by label id."""
