"""Labels become categories by COCO's ids, or by name."""

from __future__ import annotations

import pytest

from panformer_cli.data import ade20k_classes, cityscapes_labels
from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.errors import DataError
from panformer_cli.models.hugging_face.labels import COCO_THINGS, LabelNames, Labels, match_labels

COCO_NAMES = [category.name for category in COCO.categories]
PETS = CategoryTable(
    [Category(7, "cat", True), Category(3, "dog", True), Category(20, "Sky_blue", False), Category(21, "sea", False)]
)


def matched(
    names: list[str],
    table: CategoryTable | None = None,
    label_map: dict[str, int] | None = None,
    is_detr: bool = False,
    things: frozenset[int] | None = None,
) -> Labels:
    return match_labels(LabelNames(tuple(names), "net", is_detr, things), table, label_map)


@pytest.mark.parametrize("names", [COCO_NAMES, [f"LABEL_{label}" for label in range(133)]])
@pytest.mark.parametrize("table", [None, COCO])
def test_133_labels_are_those_of_coco(names: list[str], table: CategoryTable | None) -> None:
    labels = matched(names, table)
    assert labels.categories == COCO
    assert labels.category_ids == tuple(category.id for category in COCO.categories)
    assert labels.groups()[:80] == (None,) * 80
    assert labels.groups()[80:] == tuple(category.id for category in COCO.categories[80:])
    assert (labels.notes, labels.data_set) == ((), "COCO")


def test_names_decide_over_positions() -> None:
    swapped = [COCO_NAMES[1], COCO_NAMES[0], *COCO_NAMES[2:]]
    assert matched(swapped).category_ids[:3] == (2, 1, 3)
    assert matched(swapped, COCO).category_ids[:3] == (2, 1, 3)


def test_coco_in_another_language_is_still_coco() -> None:
    """The ids and the order of things and stuff are COCO's, so that labels are found without names."""
    table = CategoryTable(Category(row.id, f"mot {row.id}", row.is_thing) for row in COCO.categories)
    labels = matched(COCO_NAMES, table)
    assert labels.category_ids == tuple(category.id for category in COCO.categories)
    assert labels.categories == table


def test_detrs_labels_are_ids_not_names() -> None:
    """The config of the Hub names labels that are no panoptic categories, and position 25 is not a category."""
    names = [{0: "N/A", 12: "street sign", 26: "hat"}.get(label, f"LABEL_{label}") for label in range(250)]
    for table in (None, COCO):
        labels = matched(names, table, is_detr=True)
        assert labels.categories == COCO
        assert [label for label, number in enumerate(labels.category_ids) if number == label] == sorted(
            category.id for category in COCO.categories
        )
        assert {labels.category_ids[label] for label in (0, 12, 26, 91, 201, 249)} == {-1}
        assert labels.groups()[1] is None and labels.groups()[12] is None
        assert labels.groups()[200] == 200
        assert labels.groups()[91] is not None, "COCO-Stuff's hair: stuff without a category"
        assert len({labels.groups()[label] for label in (91, 94, 96, 200)}) == 4
        assert labels.notes == ()


def test_detrs_labels_for_other_data_are_found_by_cocos_names() -> None:
    labels = matched([f"LABEL_{label}" for label in range(250)], PETS, is_detr=True)
    assert [label for label, number in enumerate(labels.category_ids) if number >= 0] == [17, 18, 155]
    assert (labels.category_ids[17], labels.category_ids[18], labels.category_ids[155]) == (7, 3, 21)
    assert labels.groups()[155] == 21 and labels.groups()[200] is not None
    assert "1 of 4 categories" in labels.notes[0] and "Sky_blue" in labels.notes[0]


def test_a_model_of_things() -> None:
    labels = matched(COCO_NAMES[:80])
    assert labels.categories == COCO_THINGS
    assert "no stuff" in labels.notes[0]
    labels = matched(COCO_NAMES[:80], COCO)
    assert labels.category_ids == tuple(category.id for category in COCO.categories[:80])
    assert "53 of 133 categories" in labels.notes[0] and "rug-merged" in labels.notes[0]


@pytest.mark.parametrize(
    ("table", "data_set"), [(ade20k_classes.CATEGORIES, "ADE20K"), (cityscapes_labels.CATEGORIES, "Cityscapes")]
)
def test_other_known_data_sets(table: CategoryTable, data_set: str) -> None:
    """The labels of these models are in the order of the original ids, not things first."""
    rows = sorted(table.categories, key=lambda category: category.id)
    labels = matched([row.name.partition(",")[0].upper() for row in rows])
    assert labels.categories == table
    assert labels.category_ids == tuple(row.id for row in rows)
    assert labels.data_set == data_set
    assert labels.notes == ()


def test_the_longer_names_of_ade20k_are_recognized_by_order() -> None:
    """The list of the scene parsing challenge has other first synonyms, such as `windowpane, window`."""
    rows = sorted(ade20k_classes.CATEGORIES.categories, key=lambda category: category.id)
    names = [f"some {row.name.split(',')[0]}, {row.name.split(',')[-1]}" for row in rows]
    names[109] = "swimming pool, natatorium"  # the other list has only "pool"
    for table in (None, ade20k_classes.CATEGORIES):
        assert matched(names, table).category_ids == tuple(row.id for row in rows)
    assert matched([*names[1:], names[0]]).data_set == "", "in any other order they are not guessed"
    assert matched([names[1], names[0], *names[2:]]).data_set == ""


def test_names_are_compared_without_case_and_separators() -> None:
    labels = matched(["Dog; hound", "sky-BLUE", "lamp", "CAT, kitten", "dog"], PETS)
    assert labels.category_ids == (3, 20, -1, 7, 3)
    assert labels.groups() == (None, 20, None, None, None)
    assert any("1 of 4 categories" in note and note.endswith("sea") for note in labels.notes)
    assert any("1 label without" in note and note.endswith("lamp") for note in labels.notes)


def test_a_name_that_two_categories_have_is_not_guessed() -> None:
    table = CategoryTable([Category(1, "sky", True), Category(2, "sky", False), Category(3, "cat", True)])
    assert matched(["sky", "cat"], table).category_ids == (-1, 3)


def test_several_labels_of_one_stuff_category_are_merged() -> None:
    labels = matched(["sea", "Sea, ocean", "cat"], PETS)
    assert labels.category_ids == (21, 21, 7)
    assert labels.groups() == (21, 21, None)


def test_unknown_names_without_a_table() -> None:
    labels = matched(["bolt", "nut"])
    assert [(row.id, row.name, row.is_thing) for row in labels.categories.categories] == [
        (1, "bolt", True),
        (2, "nut", True),
    ]
    assert "all are treated as things" in labels.notes[0]
    labels = matched(["belt", "nut"], things=frozenset({1}))
    assert [row.is_thing for row in labels.categories.categories] == [True, False]
    assert labels.category_ids == (1, 2), "label + 1, though things come first in the table"
    assert labels.groups() == (1, None)
    assert labels.notes == ()


def test_no_common_name_is_an_error_with_examples() -> None:
    with pytest.raises(DataError, match="no label is a category") as caught:
        matched(["bolt", "nut", "screw", "washer"], PETS)
    for name in ("bolt", "nut", "screw", "and 1 more", "cat", "dog"):
        assert name in str(caught.value)


def test_a_label_map_decides() -> None:
    labels = matched(["bolt", "cat", "sea"], PETS, {"0": 7, "Sea": 20})
    assert labels.category_ids == (7, -1, 20)
    assert labels.groups() == (None, None, 20)
    assert matched(COCO_NAMES, None, {"person": 1}).category_ids == (1, *(-1,) * 132)


def test_label_maps_take_the_names_of_a_known_data_set() -> None:
    """Networks with COCO's labels but without their names are described by COCO's names in messages, too."""
    unnamed = [f"LABEL_{label}" for label in range(133)]
    assert matched(unnamed, PETS, {"Person": 7, "LABEL_1": 3}).category_ids[:3] == (7, 3, -1)
    assert matched(COCO_NAMES, PETS, {"wall_brick": 20}).category_ids[COCO_NAMES.index("wall-brick")] == 20
    detr = matched([f"LABEL_{label}" for label in range(250)], PETS, {"person": 7, "2": 3}, is_detr=True)
    assert detr.category_ids[:4] == (-1, 7, 3, -1)


def test_a_label_map_without_categories_uses_those_of_the_model() -> None:
    with pytest.raises(DataError, match=r"category id 20, which the model does not have; .* table \(--categories\)"):
        matched(["bolt", "cat"], None, {"bolt": 20})


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ({"0": 5}, "category id 5, which the data does not have; expected one of 3, 7, 20, and 1 more"),
        ({"\u0661": 7}, "is no label of net"),
        ({"9": 7}, "'9' is no label"),
        ({"bird": 7}, "'bird' is no label"),
        ({"0": 7, "bolt": 3}, "label 0 has the category ids 7 and 3"),
        ({}, "it is empty"),
    ],
)
def test_bad_label_maps(label_map: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        matched(["bolt", "cat"], PETS, label_map)
