"""Shapes with class names, as annotation tools write them, to a panoptic map; and their class table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.shapes import Patch, Size, union
from panformer_cli.prepare.overlap import Layer, OverlapRule, panoptic_of_layers
from panformer_cli.wording import truncated

VOID_LABELS = ("__ignore__", "_background_")
"""Labels that people draw where nothing is annotated, as labelme's examples have them."""


@dataclass(frozen=True)
class LabelledShape:
    """One shape of an image.

    label: the name of its class, or one of `VOID_LABELS`.
    name: how an error speaks of it: `polygon 3 (car)`.
    group: things of one label and group are one object; None is an object of its own.
    is_crowd: a group of objects drawn as one.
    """

    label: str
    patch: Patch
    name: str
    group: int | str | None = None
    is_crowd: bool = False


def panoptic_of_shapes(
    shapes: Iterable[LabelledShape], size: Size, categories: CategoryTable, rule: OverlapRule, where: str
) -> PanopticMap:
    """Lay the shapes over each other, the first at the bottom; what is uncovered, or drawn as void, is void (0).

    An object in several shapes is one mask, at the place of its first shape. A shape without a pixel is left out.
    rule, where: as in `panoptic_of_layers`.

    Raises:
        DataError: a label is not in the table, or shapes overlap under the rule `error`.
    """
    # Void covers what lies below it as a class would, so it is drawn as one and wiped out at the end.
    void = Category(max(category.id for category in categories.categories) + 1, "void", False)
    table = CategoryTable([*categories.categories, void])
    by_name = dict.fromkeys(VOID_LABELS, void) | {category.name: category for category in categories.categories}
    panoptic = panoptic_of_layers(_layers(shapes, by_name, where), size, table, rule, where)
    for segment in panoptic.segments:
        if segment.category_id == void.id:
            panoptic.ids[panoptic.ids == segment.id] = 0
    kept = tuple(segment for segment in panoptic.segments if segment.category_id != void.id)
    return PanopticMap(panoptic.ids, kept)


def _layers(shapes: Iterable[LabelledShape], by_name: Mapping[str, Category], where: str) -> list[Layer]:
    objects: dict[tuple[str, int | str], list[LabelledShape]] = {}
    for number, shape in enumerate(shapes):
        if shape.label not in by_name:
            raise DataError(
                f"{where}: {shape.name} has a label that is none of the classes {_named(by_name)}; correct it, or add "
                "it to the file that --classes names"
            )
        is_joined = shape.group is not None and by_name[shape.label].is_thing
        key = (f"group {shape.label}", shape.group) if is_joined and shape.group is not None else ("shape", number)
        objects.setdefault(key, []).append(shape)
    return [_layer(parts, by_name[parts[0].label]) for parts in objects.values()]


def _layer(parts: Sequence[LabelledShape], category: Category) -> Layer:
    mask, top, left = union([part.patch for part in parts])
    is_crowd = category.is_thing and any(part.is_crowd for part in parts)
    return Layer(category.id, mask, parts[0].name, top, left, is_crowd)


def table_of_names(names: Iterable[str], first_id: int = 1) -> CategoryTable:
    """Things of these names in their order, numbered from `first_id`; those of `VOID_LABELS` are left out."""
    kept = [name for name in names if name not in VOID_LABELS]
    return CategoryTable(Category(number, name, True) for number, name in enumerate(kept, first_id))


def with_stuff(categories: CategoryTable, stuff: Sequence[str]) -> CategoryTable:
    """The table with the classes of these names made stuff.

    Raises:
        DataError: there is no class of such a name.
    """
    names = [category.name for category in categories.categories]
    for name in stuff:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            guess = f"did you mean {close[0]}?" if close else f"expected one of the classes {_named(names)}"
            raise DataError(f"--stuff {name}: no class has this name; {guess}")
    return CategoryTable(
        replace(category, is_thing=category.is_thing and category.name not in stuff)
        for category in categories.categories
    )


def check_size(declared: Size, size: Size, where: str) -> None:
    """DataError unless the labels are for an image of this height and width."""
    if declared == size:
        return
    turned = (
        "; it may have been labelled as stored, not as its EXIF orientation turns it" if size[::-1] == declared else ""
    )
    raise DataError(
        f"{where} is for an image of {declared[1]}x{declared[0]} but the picture is shown as {size[1]}x{size[0]} "
        f"(width x height){turned}; expected equal sizes; put the picture there that was labelled"
    )


def _named(names: Iterable[str]) -> str:
    return truncated(", ".join(name for name in names if name not in VOID_LABELS))
