"""From labels to categories, and instances, on masks that have the size of the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.models.hugging_face.architectures import ARCHITECTURES
from panformer_cli.models.hugging_face.labels import groups
from panformer_cli.models.hugging_face.prediction import QueryPrediction, Rules
from panformer_cli.models.hugging_face.query_masks import QueryMasks
from panformer_cli.models.hugging_face.settings import QueryMergingSettings
from panformer_cli.models.hugging_face.transformers_merging import post_process

TABLE = CategoryTable([Category(17, "cat", True), Category(3, "dog", True), Category(90, "sky", False)])
LABELS = (90, 17, -1, 90, 3)
"""Category ids of five labels: two are sky, and one has none. The categories' own labels are dog, cat, sky."""
SKY, CAT, OTHER, CLOUD, DOG = range(5)


def prediction(*found: tuple[int, float, slice], is_detr: bool = False) -> QueryPrediction:
    """Return queries with label, class score and columns of a mask of 4 x 10 pixels, whose probability is 0.9."""
    classes = torch.full((len(found), 6), -30.0)
    masks = torch.full((len(found), 4, 10), -4.0)
    for query, (label, score, columns) in enumerate(found):
        classes[query, label], classes[query, 5] = float(np.log(score / (1 - score))), 0.0
        masks[query, :, columns] = float(np.log(9))
    architecture = ARCHITECTURES["detr" if is_detr else "mask2former"]
    boxes = torch.tensor([[0.5, 0.5, 0.5, 1.0]]).expand(len(found), 4) if is_detr else None
    rules = Rules(architecture, LABELS, groups(LABELS, (), TABLE), TABLE)
    return QueryPrediction(QueryMasks(classes, masks, (4, 10), (4, 10), (4, 10), boxes), rules, QueryMergingSettings())


def test_stuff_is_merged_by_category_and_labels_without_a_category_become_void() -> None:
    found = prediction(
        (SKY, 0.9, slice(0, 2)), (CAT, 0.95, slice(2, 4)), (OTHER, 0.9, slice(4, 6)), (CLOUD, 0.99, slice(6, 9))
    )
    assert found.panoptic.ids[0].tolist() == [1, 1, 2, 2, 0, 0, 1, 1, 1, 0]
    assert [(segment.id, segment.category_id, segment.area) for segment in found.panoptic.segments] == [
        (1, 90, 20),
        (2, 17, 8),
    ]
    assert [segment.score for segment in found.panoptic.segments] == pytest.approx([0.9, 0.95]), "of the first query"
    assert found.panoptic.segments[0].bbox == (0, 0, 9, 4)


def test_a_label_without_a_category_competes_for_pixels() -> None:
    found = prediction((CAT, 0.85, slice(0, 10)), (OTHER, 0.99, slice(0, 2)))
    assert found.panoptic.ids[0].tolist() == [0, 0, *[1] * 8]


def test_instances_are_pairs_of_a_query_and_a_thing() -> None:
    found = prediction((CAT, 0.6, slice(0, 3)), (SKY, 0.9, slice(0, 10)), (DOG, 0.9, slice(2, 5)))
    found.masks.class_logits[0, DOG] = float(np.log(0.3 / 0.4))  # the first query is a cat (0.6 before) or a dog
    scores = found.masks.class_logits.softmax(-1)
    instances = found.instances(5)
    assert instances.image_id == 5
    assert np.array(instances.labels)[:3].tolist() == [0, 1, 0], (
        "dog and cat in the table's order: the dog's id is lower"
    )
    assert np.array(instances.scores)[:3].tolist() == pytest.approx(
        [0.9 * float(scores[2, DOG]), 0.9 * float(scores[0, CAT]), 0.9 * float(scores[0, DOG])], abs=1e-5
    )
    assert np.array(instances.boxes)[:3].tolist() == [[2, 0, 5, 4], [0, 0, 3, 4], [0, 0, 3, 4]]
    mask = coco_mask.decode(instances.masks[0])
    assert mask.sum() == 12 and mask[:, 2:5].all()


def test_empty_masks_are_no_instances() -> None:
    assert prediction((CAT, 0.9, slice(0, 0))).instances(1).masks == []
    assert prediction((CAT, 0.9, slice(0, 0)), is_detr=True).instances(1).masks == []


def test_detr_has_one_instance_per_query_with_the_predicted_box() -> None:
    found = prediction((CAT, 0.6, slice(0, 3)), (SKY, 0.9, slice(3, 10)), (DOG, 0.2, slice(2, 5)), is_detr=True)
    instances = found.instances(5)
    assert np.array(instances.labels).tolist() == [1, 0]
    assert np.array(instances.scores).tolist() == pytest.approx([0.6, 0.2], abs=1e-5), "the mask plays no part"
    assert np.array(instances.boxes).tolist() == [[2.5, 0, 7.5, 4]] * 2
    assert [coco_mask.area(mask) for mask in instances.masks] == [12, 12]


@pytest.mark.parametrize("longest", [64, 32])
def test_transformers_merges_an_image_that_does_not_fill_eomts_square(longest: int) -> None:
    """Its processor takes for granted that the long side of the image has the length of the square."""
    pytest.importorskip("transformers", reason="needs transformers (pip install 'panformer[hf]')")
    height, half = longest // 2, longest // 2
    masks = torch.full((2, 64, 64), -9.0)
    masks[0, :height, :half], masks[1, :height, half:longest] = 9.0, 9.0
    classes = torch.full((2, 4), -9.0)
    classes[0, 0], classes[1, 1] = 9.0, 9.0
    found = QueryMasks(classes, masks, (64, 64), (height, longest), (100, 200))
    ids, segments = post_process(found, ARCHITECTURES["eomt"], (0.8, 0.8), [])
    assert (ids[:, :100] == 1).all() and (ids[:, 100:] == 2).all()
    assert [(segment.id, segment.label) for segment in segments] == [(1, 0), (2, 1)]


def test_an_image_that_transformers_cannot_merge() -> None:
    """Its processor of EoMT rounds the short side to 0 pixels."""
    pytest.importorskip("transformers", reason="needs transformers (pip install 'panformer[hf]')")
    found = QueryMasks(torch.tensor([[9.0, -9.0]]), torch.full((1, 64, 64), 9.0), (64, 64), (1, 64), (1, 500))
    with pytest.raises(DataError, match="transformers cannot merge the masks of an image of 500 x 1 pixels .*; leave"):
        post_process(found, ARCHITECTURES["eomt"], None, [])
