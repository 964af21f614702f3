"""Box AP and mask AP, compared with hand-worked examples and pycocotools."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.nn import functional

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.coco_categories import COCO as COCO_CATEGORIES
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.metrics.average_precision import AP_RANGES, METRICS, Metric
from panformer_cli.metrics.detection import DetectionQuality, InstancePrediction, encode_mask, match_instances
from panformer_cli.models.panoptic_segformer.postprocessing import Candidates, MergedPrediction
from panformer_cli.models.panoptic_segformer.settings import MergingSettings

DOG, CAT, SKY = 18, 3, 187
TABLE = CategoryTable([Category(DOG, "dog", True), Category(CAT, "cat", True), Category(SKY, "sky", False)])
Box = tuple[int, int, int, int]
"""x1, y1, x2, y2."""
SIZE = (150, 200)
SMALL_BOX: Box = (10, 20, 40, 40)  # 600 pixels
MEDIUM_BOX: Box = (50, 20, 150, 60)  # 4000 pixels
LARGE_BOX: Box = (60, 10, 160, 110)  # 10000 pixels


def filled(box: Box, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def truth_of(*objects: tuple[int, Box], crowd: tuple[int, ...] = (), size: tuple[int, int] = SIZE) -> PanopticMap:
    """Return filled boxes as segments 1, 2, ... of the given category ids; `crowd` contains segment ids."""
    ids = np.zeros(size, dtype=np.int32)
    rows = []
    for number, (category_id, box) in enumerate(objects, start=1):
        ids[filled(box, size)] = number
        width, height = box[2] - box[0], box[3] - box[1]
        rows.append(
            Segment(number, category_id, width * height, (box[0], box[1], width, height), is_crowd=number in crowd)
        )
    return PanopticMap(ids, tuple(rows))


def guess(
    *objects: tuple[int, Box, float], image_id: int | str = 1, size: tuple[int, int] = SIZE
) -> InstancePrediction:
    """Return filled boxes as predictions of the given category ids and scores."""
    return InstancePrediction(
        image_id=image_id,
        scores=np.array([score for _, _, score in objects], dtype=np.float32),
        labels=np.array([TABLE.label(category_id) for category_id, _, _ in objects], dtype=np.int64),
        boxes=np.array([box for _, box, _ in objects], dtype=np.float32).reshape(-1, 4),
        masks=[encode_mask(filled(box, size)) for _, box, _ in objects],
    )


def measure(*pairs: tuple[InstancePrediction, PanopticMap]) -> dict[str, dict[str, float | None]]:
    quality = DetectionQuality(TABLE)
    for prediction, truth in pairs:
        quality.update(prediction, truth)
    return quality.result()


def both(AP: float | None, **others: float | None) -> dict[str, Any]:
    """Return results that are equal for boxes and masks; those not given equal `AP`."""
    results = {name: {"AP": AP, **others}.get(name, AP) for name in AP_RANGES}
    expected = {name: None if value is None else pytest.approx(value, abs=1e-9) for name, value in results.items()}
    return {"bbox": expected, "segm": expected}


def test_perfect_predictions_give_100() -> None:
    truth = truth_of((DOG, SMALL_BOX), (CAT, MEDIUM_BOX), (SKY, (0, 140, 200, 150)))
    prediction = guess((CAT, MEDIUM_BOX, 0.9), (DOG, SMALL_BOX, 0.3))
    assert measure((prediction, truth)) == both(100, APl=None)


def test_a_wrong_prediction_between_two_correct_ones() -> None:
    truth = truth_of((DOG, SMALL_BOX), (DOG, MEDIUM_BOX))
    prediction = guess((DOG, SMALL_BOX, 0.9), (DOG, (160, 100, 190, 120), 0.8), (DOG, MEDIUM_BOX, 0.7))
    # precision 1 up to recall 0.5 (51 of the 101 recall points), then 2/3; the wrong one is small, so APm is 100
    expected = 100 * (51 + 50 * 2 / 3) / 101
    assert measure((prediction, truth)) == both(expected, APs=100, APm=100, APl=None)


def test_the_iou_determines_the_thresholds_at_which_a_match_counts() -> None:
    truth = truth_of((DOG, LARGE_BOX))
    prediction = guess((DOG, (60, 10, 160, 72), 0.9))  # IoU 0.62: correct at 0.50, 0.55 and 0.60 of ten thresholds
    assert measure((prediction, truth)) == both(30, AP50=100, AP75=0, APs=None, APm=None)


def test_boxes_and_masks_are_scored_separately() -> None:
    prediction = replace(guess((DOG, LARGE_BOX, 0.9)), masks=[encode_mask(filled((60, 10, 160, 82)))])
    result = measure((prediction, truth_of((DOG, LARGE_BOX))))
    assert result["bbox"]["AP"] == pytest.approx(100)
    assert result["segm"]["AP"] == pytest.approx(50)  # IoU 0.72


def test_boxes_areas_and_masks_of_the_ground_truth_come_from_the_annotation() -> None:
    truth = truth_of((DOG, LARGE_BOX))
    listed = replace(truth, segments=(replace(truth.segments[0], bbox=(0, 0, 20, 20), area=400),))
    result = measure((guess((DOG, LARGE_BOX, 0.9)), listed))
    assert result["bbox"]["AP"] == 0
    assert result["segm"]["APs"] == pytest.approx(100)
    assert result["segm"]["APl"] is None


def test_the_mean_is_over_categories_with_ground_truth() -> None:
    truth = truth_of((DOG, SMALL_BOX))
    assert measure((guess((DOG, SMALL_BOX, 0.5), (CAT, MEDIUM_BOX, 0.9)), truth))["bbox"]["AP"] == pytest.approx(100)
    truth = truth_of((DOG, SMALL_BOX), (CAT, MEDIUM_BOX))
    assert measure((guess((DOG, SMALL_BOX, 0.5)), truth))["segm"]["AP"] == pytest.approx(50)


def test_a_prediction_in_a_crowd_is_ignored() -> None:
    objects = ((DOG, SMALL_BOX), (DOG, LARGE_BOX))
    prediction = guess((DOG, (70, 20, 100, 50), 0.9), (DOG, SMALL_BOX, 0.8))
    assert measure((prediction, truth_of(*objects, crowd=(2,)))) == both(100, APm=None, APl=None)
    without = measure((prediction, truth_of(*objects)))["bbox"]["AP"]
    assert without == pytest.approx(100 * 51 * 0.5 / 101)


def test_stuff_is_ignored() -> None:
    truth = truth_of((SKY, LARGE_BOX))
    assert measure((guess(), truth)) == both(None)
    everything_stuff = DetectionQuality(CategoryTable([Category(SKY, "sky", False)]))
    everything_stuff.update(guess(), truth)
    assert everything_stuff.result() == both(None)


def test_no_prediction_gives_0_and_no_image_gives_none() -> None:
    assert measure((guess(), truth_of((DOG, SMALL_BOX)))) == both(0, APm=None, APl=None)
    assert measure() == both(None)
    assert DetectionQuality(TABLE).result(["segm"]) == {"segm": dict.fromkeys(AP_RANGES)}


def scattered(count: int, image_ids: list[int | str]) -> list[tuple[InstancePrediction, PanopticMap]]:
    """Return images of different sizes with equal scores, so that the order of the images could matter."""
    generator = np.random.default_rng(0)
    pairs = []
    for image_id in image_ids[:count]:
        size = (int(generator.integers(150, 170)), int(generator.integers(200, 220)))
        found, objects = [], []
        for left in (0, 60, 120):
            box = (left, 10, left + int(generator.integers(20, 55)), int(generator.integers(40, 140)))
            category_id = int(generator.choice([DOG, CAT]))
            objects.append((category_id, box))
            shifted = (box[0], box[1], box[2] + int(generator.integers(0, 30)), box[3])
            found.append((category_id, shifted, float(generator.choice([0.25, 0.5]))))
        pairs.append((guess(*found, image_id=image_id, size=size), truth_of(*objects, size=size)))
    return pairs


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("image_ids", [[*range(5, 17)], [f"town_{i}" for i in range(12)], [7, "b", 3, "a", 9, "c"]])
def test_merged_parts_give_identical_results(
    processes: int, image_ids: list[int | str], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = scattered(12, image_ids)
    whole = measure(*pairs)
    ap = whole["segm"]["AP"]
    assert ap is not None and 10 < ap < 90
    joined = DetectionQuality(TABLE)
    for rank in range(processes):
        part = DetectionQuality(TABLE)
        for prediction, truth in reversed(pairs[rank::processes]):
            part.update(prediction, truth)
        joined.merge(pickle.loads(pickle.dumps(part)))  # as they are sent between processes
    assert joined.result() == whole
    assert joined.result() == whole  # computing it again changes nothing
    assert capsys.readouterr() == ("", "")


# --- pycocotools on all images together, as in its documentation

Pair = tuple[InstancePrediction, PanopticMap]


def crowded(seed: int, instances: int = 30) -> Pair:
    """Return things of all sizes, some of them crowds, sky, and `instances` predictions, some with equal scores."""
    rng = np.random.default_rng(seed)
    boxes = [random_box(rng) for _ in range(int(rng.integers(0, 9)))]
    objects = [(int(rng.choice([DOG, CAT, SKY], p=[0.5, 0.3, 0.2])), box) for box in boxes]
    truth = truth_of(*objects, crowd=tuple(n for n in range(1, 9) if rng.random() < 0.2))
    truth = replace(truth, segments=tuple(s for s in truth.segments if (truth.ids == s.id).any()))
    guesses = []
    for _ in range(instances):
        near = boxes[int(rng.integers(len(boxes)))] if boxes and rng.random() < 0.7 else random_box(rng)
        left, top, right, bottom = (int(side) for side in np.array(near) + rng.integers(-6, 7, 4))
        box = (max(left, 0), max(top, 0), min(max(right, left + 1), SIZE[1]), min(max(bottom, top + 1), SIZE[0]))
        guesses.append((int(rng.choice([DOG, CAT])), box, float(rng.integers(1, 20)) / 20))
    return guess(*guesses, image_id=seed), truth


def random_box(rng: np.random.Generator) -> Box:
    width, height = int(rng.integers(5, 150)), int(rng.integers(5, 120))
    left, top = int(rng.integers(SIZE[1] - width)), int(rng.integers(SIZE[0] - height))
    return (left, top, left + width, top + height)


CROWDED = [*(crowded(seed) for seed in range(40)), crowded(40, instances=0), crowded(41, instances=400)]


def coco_rows(pairs: list[Pair], metric: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the JSON of ground truth and results, as written by users of pycocotools."""
    true: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for prediction, truth in pairs:
        for segment in truth.segments:
            if segment.category_id != SKY:
                row: dict[str, Any] = {
                    "id": len(true) + 1,
                    "image_id": prediction.image_id,
                    "category_id": segment.category_id,
                }
                row |= {"area": segment.area, "bbox": list(segment.bbox), "iscrowd": int(segment.is_crowd)}
                true.append({**row, "segmentation": encode_mask(truth.ids == segment.id)})
        columns = (np.asarray(column).tolist() for column in (prediction.labels, prediction.scores, prediction.boxes))
        for label, score, (left, top, right, bottom), mask in zip(*columns, prediction.masks, strict=True):
            row = {"image_id": prediction.image_id, "category_id": TABLE.by_label(label).id, "score": score}
            box = [left, top, right - left, bottom - top]
            results.append({**row, **({"bbox": box} if metric == "bbox" else {"segmentation": mask})})
    images = [{"id": prediction.image_id, "height": SIZE[0], "width": SIZE[1]} for prediction, _ in pairs]
    return {"info": {}, "images": images, "annotations": true, "categories": [{"id": CAT}, {"id": DOG}]}, results


def six_results(coco: Any, evaluation: Any, metric: Metric) -> list[float | None]:
    """Return the first six results in percent, by pycocotools or a library with its interface."""
    content, results = coco_rows(CROWDED, metric)
    truth = coco()
    truth.dataset = content
    truth.createIndex()
    measured = evaluation(truth, truth.loadRes(results), metric)
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
    return [100 * float(value) for value in measured.stats[:6]]


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_equals_pycocotools_on_all_images_together(metric: Metric) -> None:
    plain = six_results(COCO, COCOeval, metric)
    assert min(value or 0 for value in plain) > 0.1
    mixed = CROWDED[::2] + CROWDED[1::2]
    assert list(measure(*mixed)[metric].values()) == plain
    alone = DetectionQuality(TABLE, [metric])
    for pair in CROWDED:
        alone.update(*pair)
    assert list(alone.result()[metric].values()) == plain


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_equals_faster_coco_eval(metric: Metric) -> None:
    faster = pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval for comparison")
    theirs = six_results(faster.COCO, faster.COCOeval_faster, metric)
    assert list(measure(*CROWDED)[metric].values()) == pytest.approx(theirs, abs=1e-10)


def test_the_best_100_of_an_image_count() -> None:
    prediction, truth = CROWDED[-1]
    image = match_instances(prediction, truth, TABLE)
    assert np.bincount(image.labels).tolist() == [100, 100]
    labels, scores = np.asarray(prediction.labels), np.asarray(prediction.scores)
    for label in (0, 1):
        assert image.scores[image.labels == label].tolist() == sorted(scores[labels == label], reverse=True)[:100]


def test_the_data_kept_per_image_is_small() -> None:
    image = match_instances(*CROWDED[-1], TABLE)
    columns: list[np.ndarray] = [image.labels, image.scores, image.truth_labels, image.truth_counts]
    columns += image.flags.values()
    assert sum(column.nbytes for column in columns) < 40 * len(image.scores)


def test_masks_can_be_strings_or_bytes() -> None:
    prediction, truth = guess((DOG, SMALL_BOX, 0.5)), truth_of((DOG, SMALL_BOX))
    mask = prediction.masks[0]
    assert isinstance(mask["counts"], str)
    as_bytes = replace(prediction, masks=[{**mask, "counts": mask["counts"].encode()}])
    assert measure((as_bytes, truth)) == measure((prediction, truth))


def test_all_thing_queries_are_instances_with_any_score() -> None:
    rng = np.random.default_rng(0)
    things, stuff, size = 100, 3, (33, 47)
    masks = rng.uniform(0, 1, (things + stuff, 5, 6)).astype(np.float32)
    masks[7] = 0.3  # below 0.5 everywhere: an empty mask
    labels = np.concatenate([rng.integers(0, 80, things), np.arange(80, 80 + stuff)])
    class_scores = rng.uniform(0.01, 1, things + stuff).astype(np.float32)
    corners = np.sort(rng.uniform(0, 33, (things, 2, 2)), axis=1).reshape(things, 4).astype(np.float32)
    candidates = Candidates(labels, class_scores, masks, corners, size)
    found = MergedPrediction(candidates, COCO_CATEGORIES, MergingSettings()).instances("a")
    assert (found.image_id, found.labels) == ("a", labels[:things].tolist())
    np.testing.assert_array_equal(found.boxes, corners)
    large = functional.interpolate(torch.from_numpy(masks)[None], size, mode="bilinear")[0, :things].double().numpy()
    binary = large > 0.5
    quality = (large * binary).sum((1, 2)) / (binary.sum((1, 2)) + 1)
    assert found.scores == pytest.approx((class_scores[:things] * quality**2).tolist(), abs=1e-3)
    assert (np.asarray(found.scores) < 0.25).sum() > 20 and np.asarray(found.scores)[7] == 0
    areas = [coco_mask.area(mask) for mask in found.masks]
    assert areas == pytest.approx(binary.sum((1, 2)).tolist(), abs=2)  # pixels at 0.5 may be rounded either way
    assert {tuple(mask["size"]) for mask in found.masks} == {size}


PREDICTION = guess((DOG, SMALL_BOX, 0.5))


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (replace(PREDICTION, scores=np.zeros(2)), r"have lengths \[2, 1, 1, 1\]"),
        (replace(PREDICTION, labels=np.array([2])), r"labels \[2\]; expected things, 0 to 1"),
        (replace(PREDICTION, labels=np.array([-1])), r"labels \[-1\]"),
        (guess((DOG, SMALL_BOX, 0.5), size=(60, 70)), r"differs in size from the ground truth, \[150, 200\]"),
    ],
)
def test_invalid_predictions(prediction: InstancePrediction, message: str) -> None:
    quality = DetectionQuality(TABLE)
    with pytest.raises(DataError, match=rf"^image 1: .*{message}"):
        quality.update(prediction, truth_of((DOG, SMALL_BOX)))
    assert quality.result() == DetectionQuality(TABLE).result()


def test_an_unknown_category_is_an_error() -> None:
    with pytest.raises(DataError, match=r"image 1: categories \[99\] are unknown"):
        DetectionQuality(TABLE).update(PREDICTION, truth_of((99, SMALL_BOX)))


def test_an_image_can_be_added_only_once() -> None:
    first, second = DetectionQuality(TABLE), DetectionQuality(TABLE)
    first.update(PREDICTION, truth_of((DOG, SMALL_BOX)))
    second.update(PREDICTION, truth_of((DOG, SMALL_BOX)))
    with pytest.raises(DataError, match="image 1 was already added"):
        first.update(PREDICTION, truth_of((DOG, SMALL_BOX)))
    with pytest.raises(DataError, match=r"images 1 are in two parts"):
        first.merge(second)
    with pytest.raises(DataError, match="different category tables"):
        first.merge(DetectionQuality(CategoryTable(TABLE.categories[:1])))


def test_real_ground_truth_predicts_itself(shared: Path) -> None:
    coco_panoptic = pytest.importorskip("panformer_cli.data.coco.coco_panoptic")
    data = coco_panoptic.CocoPanoptic(shared / "data" / "coco_mini", "val2017")
    quality = DetectionQuality(data.categories)
    for number in range(len(data)):
        truth = data.annotation(number)
        things = [s for s in truth.segments if data.categories.by_id(s.category_id).is_thing and not s.is_crowd]
        corners = [(s.bbox[0], s.bbox[1], s.bbox[0] + s.bbox[2], s.bbox[1] + s.bbox[3]) for s in things]
        labels = [data.categories.label(s.category_id) for s in things]
        masks = [encode_mask(truth.ids == s.id) for s in things]
        quality.update(InstancePrediction(number, [1.0] * len(things), labels, corners, masks), truth)
    for results in quality.result().values():
        assert results == {name: pytest.approx(100) for name in AP_RANGES}
