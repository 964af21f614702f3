"""Repeat-factor sampling: factors worked out by hand, the rounding, and the order of an epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_annotation import PanopticAnnotation
from panformer_cli.data.coco.panoptic_json import read_annotation
from panformer_cli.data.epoch_order import EpochOrder, repeat_factors
from panformer_cli.data.loading import train_loader
from panformer_cli.errors import RecipeError
from panformer_cli.recipe import Recipe
from panformer_cli.settings import DataSettings, TrainSettings
from tests.data.coco.coco_files import write_coco

COMMON, RARE, UNUSED = 1, 2, 3
NAMES = {COMMON: "common", RARE: "rare", UNUSED: "unused"}


def annotation(tmp_path: Path, images: list[list[tuple[int, bool]]]) -> PanopticAnnotation:
    """Return an annotation of images with segments (category id, is_crowd)."""
    content: dict[str, Any] = {
        "categories": [{"id": number, "name": name, "isthing": 1} for number, name in NAMES.items()],
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(len(images))],
        "annotations": [
            {
                "image_id": number,
                "file_name": f"{number}.png",
                "segments_info": [
                    {"id": index + 1, "category_id": category, "iscrowd": int(crowd)}
                    for index, (category, crowd) in enumerate(segments)
                ],
            }
            for number, segments in enumerate(images)
        ],
    }
    path = tmp_path / "panoptic_train.json"
    path.write_text(json.dumps(content))
    return read_annotation(path)


def images_of(order: EpochOrder, epoch: int) -> list[int]:
    return [draw.image for step in order.step_draws(epoch) for draw in step]


def test_factors_of_ten_images_worked_out_by_hand(tmp_path: Path) -> None:
    """The rare class is in 1 of 10 images: sqrt(0.4 / 0.1) = 2. The common one is in 8 of 10, above the threshold."""
    common, rare, crowd = (COMMON, False), (RARE, False), (RARE, True)
    images = [[common, common, rare, rare], [common, crowd], *([common] for _ in range(6)), [], [crowd]]
    assert repeat_factors(annotation(tmp_path, images), 0.4).tolist() == [2.0] + 9 * [1.0]
    assert repeat_factors(annotation(tmp_path, images), 0.9) == pytest.approx([3.0] + 7 * [(0.9 / 0.8) ** 0.5] + [1, 1])


def test_images_without_segments_have_the_factor_one(tmp_path: Path) -> None:
    assert repeat_factors(annotation(tmp_path, [[], []]), 1.0).tolist() == [1.0, 1.0]


def test_every_image_is_used_as_often_as_its_factor_rounded_up_or_down() -> None:
    factors = np.array([1.0, 2.0, 1.25, 2.75, 1.0, 1.5])  # the sum is 9.5
    order = EpochOrder(6, batch_size=1, seed=3, factors=factors)
    assert order.steps == 9
    counts = np.array([np.bincount(images_of(order, epoch), minlength=6) for epoch in range(400)])
    assert (counts.sum(1) == 9).all()
    # Of ten images, one is cut off. So the minimum of an image can be one less.
    assert (counts <= np.ceil(factors)).all() and (counts >= np.floor(factors) - 1).all()
    # 9 of 9.5 images are used on average; the standard deviation of a mean is at most 0.03.
    assert np.abs(counts.mean(0) - factors * 9 / 9.5).max() < 0.12


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    factors = np.linspace(1, 3, 20)
    whole = [EpochOrder(20, 4, seed=0, factors=factors).step_draws(epoch) for epoch in range(3)]
    assert whole[0] != whole[1] != whole[2]
    again = EpochOrder(20, 4, seed=0, factors=factors)
    assert [again.step_draws(epoch) for epoch in (2, 1, 0)] == whole[::-1]
    assert again.step_draws(1, first_step=4) == whole[1][4:]
    assert EpochOrder(20, 4, seed=1, factors=factors).step_draws(0) != whole[0]
    assert all(len(epoch) == again.steps == 10 for epoch in whole)
    assert [draw.position for step in whole[1] for draw in step] == list(range(40))


def test_repetitions_are_not_next_to_each_other() -> None:
    """They are shuffled, so 4 uses of an image among 400 are rarely neighbors."""
    images = images_of(EpochOrder(100, 1, seed=0, factors=np.full(100, 4.0)), 0)
    assert len(images) == 400 and np.bincount(images).tolist() == 100 * [4]
    assert sum(one == two for one, two in zip(images, images[1:], strict=False)) < 20


def recipe(threshold: float, workers: int = 0) -> Recipe:
    data = DataSettings(train_short_sides=(32,), workers=workers, repeat_factor=threshold)
    return Recipe(data=data, train=TrainSettings(batch_size=4))


def with_a_rare_class(root: Path) -> CocoPanoptic:
    """Return ten images; only the first has a ball that is no crowd."""
    path = write_coco(root, images=10)
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][2]["iscrowd"] = 0
    path.write_text(json.dumps(content))
    return CocoPanoptic(root, "val")


@pytest.mark.slow
def test_processes_and_workers_share_one_order(tmp_path: Path) -> None:
    coco = with_a_rare_class(tmp_path)  # its factor is sqrt(0.9 / 0.1) = 3, so an epoch has 12 images
    alone = train_loader(coco, recipe(0.9))
    assert alone.steps_per_epoch == 3

    def ids(rank: int, world_size: int, first_step: int, workers: int = 0) -> list[list[int | str]]:
        loader = train_loader(coco, recipe(0.9, workers), rank, world_size)
        return [[image for batch in step for image in batch.image_ids] for step in loader.epoch(1, first_step)]

    expected = ids(0, 1, 0)
    assert sum(step.count(100) for step in expected) == 3 and len(expected) == 3
    assert ids(0, 1, 0, workers=2) == expected
    assert [one + two for one, two in zip(ids(0, 2, 1), ids(1, 2, 1), strict=True)] == expected[1:]


def test_without_a_threshold_every_image_is_used_once(tmp_path: Path) -> None:
    coco = with_a_rare_class(tmp_path)
    assert train_loader(coco, recipe(0.0)).steps_per_epoch == 2
    assert train_loader(coco, recipe(0.1)).steps_per_epoch == 2  # no class is in fewer images


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_thresholds_are_fractions(value: float) -> None:
    with pytest.raises(RecipeError, match=r"data.repeat_factor is .*: expected 0 to 1"):
        DataSettings(repeat_factor=value)
