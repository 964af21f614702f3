"""Merge labeled shapes from annotation tools into a panoptic map, and build their category table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import PanopticMap
from panformer_cli.prepare.annotation_tools.shapes import Patch, Size, union
from panformer_cli.prepare.class_names import check_class_names
from panformer_cli.prepare.left_out import UNKNOWN_CLASS, AnnotationError, AnnotationLog
from panformer_cli.prepare.overlap import Layer, OverlapRule, panoptic_of_layers
from panformer_cli.wording import truncated

VOID_LABELS = ("__ignore__", "_background_")
"""Labels for regions without annotation, as in labelme's examples."""


@dataclass(frozen=True)
class LabeledShape:
    """One shape of an image.

    Attributes:
        label: Name or id of the class, or one of `VOID_LABELS`.
        patch: Mask of the shape.
        name: Name in error messages, such as `polygon 3 (car)`.
        group: Things with the same label and group are one object; None for a separate object.
        is_crowd: Whether it is a group of objects drawn as one.
    """

    label: str | int
    patch: Patch
    name: str
    group: int | str | None = None
    is_crowd: bool = False


def panoptic_of_shapes(
    shapes: Iterable[LabeledShape],
    size: Size,
    categories: CategoryTable,
    rule: OverlapRule,
    where: str,
    log: AnnotationLog,
) -> PanopticMap:
    """Merge shapes, the first at the bottom; uncovered pixels and void shapes are void (0).

    An object in several shapes is one mask, in the position of its first shape. Shapes without pixels are dropped.

    Args:
        shapes: Shapes in drawing order.
        size: Height and width of the map.
        categories: The category table.
        rule: Which shape keeps shared pixels.
        where: The image, for error messages.
        log: Receives the shapes left out.

    Raises:
        DataError: A label is not in the table, or shapes overlap and the rule is `error`.
    """
    # Void covers the shapes below it like a class does, so it is drawn as a class and erased at the end.
    void = Category(max(category.id for category in categories.categories) + 1, "void", False)
    table = CategoryTable([*categories.categories, void])
    by_label: dict[str | int, Category] = dict.fromkeys(VOID_LABELS, void)
    for category in categories.categories:
        by_label |= {category.name: category, category.id: category}
    panoptic = panoptic_of_layers(_layers(shapes, by_label, where, log), size, table, rule, where, log)
    for segment in panoptic.segments:
        if segment.category_id == void.id:
            panoptic.ids[panoptic.ids == segment.id] = 0
    kept = tuple(segment for segment in panoptic.segments if segment.category_id != void.id)
    return PanopticMap(panoptic.ids, kept)


def _layers(
    shapes: Iterable[LabeledShape], by_label: Mapping[str | int, Category], where: str, log: AnnotationLog
) -> list[Layer]:
    objects: dict[tuple[str, int | str], list[LabeledShape]] = {}
    for number, shape in enumerate(shapes):
        with log.annotation():
            objects.setdefault(_object_key(shape, number, by_label, where), []).append(shape)
    return [_layer(parts, by_label[parts[0].label]) for parts in objects.values()]


def _object_key(
    shape: LabeledShape, number: int, by_label: Mapping[str | int, Category], where: str
) -> tuple[str, int | str]:
    """Return what the shapes of one object have in common."""
    if shape.label not in by_label:
        problem = "is not one of" if str(shape.label).strip() else "is empty; expected one of"
        raise AnnotationError(
            f"{where}: the label of {shape.name} {problem} the classes {_listed_names(by_label)}; correct it, "
            "or add it to the --classes file",
            UNKNOWN_CLASS,
        )
    if shape.group is not None and by_label[shape.label].is_thing:
        return f"group {shape.label}", shape.group
    return "shape", number


def _layer(parts: Sequence[LabeledShape], category: Category) -> Layer:
    mask, top, left = union([part.patch for part in parts])
    is_crowd = category.is_thing and any(part.is_crowd for part in parts)
    return Layer(category.id, mask, parts[0].name, top, left, is_crowd)


def table_of_names(names: Iterable[str], first_id: int = 1) -> CategoryTable:
    """Return a table of things with these names, in order and numbered from `first_id`, without `VOID_LABELS`."""
    kept = [name for name in names if name not in VOID_LABELS]
    return CategoryTable(Category(number, name, True) for number, name in enumerate(kept, first_id))


def with_stuff(categories: CategoryTable, stuff: Sequence[str]) -> CategoryTable:
    """Return the table with the classes named in `stuff` marked as stuff.

    Raises:
        DataError: A class does not exist.
    """
    check_class_names(stuff, categories, "--stuff")
    return CategoryTable(
        replace(category, is_thing=category.is_thing and category.name not in stuff)
        for category in categories.categories
    )


def _listed_names(labels: Iterable[str | int]) -> str:
    names = (label for label in labels if isinstance(label, str) and label not in VOID_LABELS)
    return truncated(", ".join(names))
