"""Batches at inference: images of one input size form a batch, waiting is bounded, and results do not change."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from panformer_cli.data.images import read_image
from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.checkpoints.checkpoint import load_model, read_checkpoint
from panformer_cli.engine.inference import WAITING_BATCHES, Predictor
from panformer_cli.engine.runs import RunFolder
from panformer_cli.models.base import Prediction
from panformer_cli.models.panoptic_segformer.postprocessing import MergedPrediction
from panformer_cli.recipe_io import load_recipe
from tests.golden.release import filled_model

Batches = list[tuple[int, int, int]]

PORTRAIT, LANDSCAPE, SQUARE = (64, 40), (40, 64), (50, 50)
SIZES = [SQUARE, LANDSCAPE, LANDSCAPE, PORTRAIT, (128, 80), SQUARE, LANDSCAPE, (33, 64), (25, 25), LANDSCAPE, (80, 128)]
"""Heights and widths; their input sizes in `predictor` are 64 x 40, 40 x 64, 64 x 64 and 33 x 64 pixels."""


def noise(size: tuple[int, int], seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def predictor(trained: RunFolder) -> Predictor:
    """Return a small model whose inputs have a long side of 64 pixels."""
    checkpoint = read_checkpoint(trained.best)
    return Predictor(load_model(checkpoint), checkpoint.recipe, torch.device("cpu"))


@pytest.fixture
def batches(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Batches:
    return batches_of(predictor, monkeypatch)


def batches_of(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Batches:
    """Return a list that collects number of images, height and width of every batch."""
    seen: Batches = []
    infer = predictor.model.infer

    def seeing(images: Tensor, padding_mask: Tensor) -> tuple[Any, ...]:
        assert not padding_mask.any(), "padding changes the results"
        assert padding_mask.shape == (len(images), *images.shape[-2:])
        seen.append((len(images), images.shape[-2], images.shape[-1]))
        return infer(images, padding_mask)

    monkeypatch.setattr(predictor.model, "infer", seeing)
    return seen


def assert_same(one: Prediction, other: Prediction) -> None:
    """Equal segments; float sums over a batch of another size may differ in their last digits.

    A mask value at the threshold may then fall on the other side: a pixel changes hands, and a score moves by about
    the inverse of the mask's area.
    """
    assert one.panoptic.ids.shape == other.panoptic.ids.shape
    equal = one.panoptic.ids == other.panoptic.ids
    assert equal.mean() >= 0.9999
    rows = [[(s.id, s.category_id) for s in prediction.panoptic.segments] for prediction in (one, other)]
    assert rows[0] == rows[1]
    scores = [[s.score for s in prediction.panoptic.segments] for prediction in (one, other)]
    assert scores[0] == pytest.approx(scores[1], rel=0, abs=1e-5 if equal.all() else 1e-4)
    assert isinstance(one, MergedPrediction) and isinstance(other, MergedPrediction)
    chosen = [np.sort(prediction.candidates.class_scores) for prediction in (one, other)]
    torch.testing.assert_close(chosen[0], chosen[1], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_eight_real_images_in_batches_give_the_single_image_results(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full R-50 with artificial weights, which predict several segments in each of these images."""
    coco = shared / "data" / "coco_mini"
    recipe = load_recipe("r50", ["data.short_side=192", "data.long_side=320"])
    predictor = Predictor(filled_model("r50", train=False), recipe, torch.device("cpu"))
    batches = batches_of(predictor, monkeypatch)
    names = {
        "val2017": (139, 285, 39769, 142238),
        "train2017": (9, 185639, 247360, 313434),
    }
    images = [read_image(coco / "images" / split / f"{number:012d}.jpg") for split in names for number in names[split]]
    together = predictor.predict_all(images)
    assert sorted(batches) == [(1, 210, 192), (2, 192, 256), (2, 288, 192), (3, 192, 288)]
    for image, prediction in zip(images, together, strict=True):
        assert prediction.panoptic.ids.shape == image.shape[:2]
        assert len(prediction.panoptic.segments) >= 3, "without segments nothing was tested"
        assert_same(prediction, predictor(image))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_mixed_sizes_give_the_single_image_results(batch_size: int, predictor: Predictor, batches: Batches) -> None:
    images = [noise(size, seed) for seed, size in enumerate(SIZES)]
    alone = [predictor(image) for image in images]
    assert any(prediction.panoptic.segments for prediction in alone)
    batches.clear()
    found = list(predictor.stream(((f"image {n}", image) for n, image in enumerate(images)), batch_size))
    assert sorted(key for key, _ in found) == sorted(f"image {n}" for n in range(len(images)))
    for key, prediction in found:
        assert_same(prediction, alone[int(key.split()[1])])
    # By hand from SIZES: five times 40 x 64, three times 64 x 64, twice 64 x 40, once 33 x 64.
    expected = {
        1: [(1, 33, 64)] + 5 * [(1, 40, 64)] + 2 * [(1, 64, 40)] + 3 * [(1, 64, 64)],
        3: [(1, 33, 64), (2, 40, 64), (2, 64, 40), (3, 40, 64), (3, 64, 64)],
        8: [(1, 33, 64), (2, 64, 40), (3, 64, 64), (5, 40, 64)],
    }
    assert sorted(batches) == sorted(expected[batch_size])


@pytest.mark.slow
def test_all_at_once_keeps_the_order(predictor: Predictor, batches: Batches) -> None:
    images = [noise(size, seed) for seed, size in enumerate(SIZES)]
    predictions = predictor.predict_all(images)
    assert sorted(batches) == [(1, 33, 64), (2, 64, 40), (3, 64, 64), (5, 40, 64)]
    assert [prediction.panoptic.ids.shape for prediction in predictions] == SIZES
    for image, prediction in zip(images, predictions, strict=True):
        assert_same(prediction, predictor(image))
    assert predictor.predict_all([]) == []


def test_instances_of_a_batch_are_those_of_each_image(predictor: Predictor) -> None:
    images = [noise(SQUARE, 1), noise((100, 100), 2)]
    for image, together in zip(images, predictor.predict_all(images), strict=True):
        one, other = (prediction.instances(1) for prediction in (predictor(image), together))
        assert one.labels == other.labels
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
        assert one.boxes == pytest.approx(other.boxes, abs=1e-3)
        assert {tuple(mask["size"]) for mask in other.masks} == {image.shape[:2]}


def keys_of(predictor: Predictor, sizes: Sequence[tuple[int, int]], batch_size: int) -> list[int]:
    """Return the order of the results."""
    return [key for key, _ in predictor.stream(((n, noise(size)) for n, size in enumerate(sizes)), batch_size)]


@pytest.mark.slow
def test_a_result_comes_when_its_batch_is_full(predictor: Predictor) -> None:
    assert keys_of(predictor, [SQUARE, LANDSCAPE, PORTRAIT], 1) == [0, 1, 2]
    assert keys_of(predictor, [SQUARE, LANDSCAPE, SQUARE, LANDSCAPE, PORTRAIT], 2) == [0, 2, 1, 3, 4]
    assert keys_of(predictor, [SQUARE, LANDSCAPE, SQUARE, LANDSCAPE, PORTRAIT], 3) == [0, 2, 1, 3, 4]


def test_with_batch_size_1_no_image_is_read_ahead(predictor: Predictor) -> None:
    read: list[int] = []

    def images() -> Iterator[tuple[int, ImageArray]]:
        for number in range(3):
            read.append(number)
            yield number, noise(SQUARE)

    for number, (key, _) in enumerate(predictor.stream(images())):
        assert key == number
        assert read == list(range(number + 1))


def many_sizes(number: int) -> list[tuple[int, int]]:
    """Return sizes that all have different input sizes."""
    return [(64, 32 + step) for step in range(number)]


@pytest.mark.slow
def test_at_the_limit_the_size_that_waited_longest_runs(predictor: Predictor, batches: Batches) -> None:
    sizes = many_sizes(16)
    assert len(sizes) == WAITING_BATCHES * 2
    order = keys_of(predictor, [*sizes[:-1], sizes[1], sizes[-1], (64, 64)], 2)
    # 0 .. 14 wait; 15 completes the batch of 1; 16 is the 15th and 17 the 16th that waits, so 0 must run.
    assert order[:3] == [1, 15, 0]
    assert sorted(order) == list(range(18))
    assert [size for size in batches if size[0] > 1] == [(2, 64, 33)]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_images_in_memory_are_bounded(batch_size: int, predictor: Predictor) -> None:
    """Counts all live arrays, wherever they are referenced."""
    given: list[weakref.ref[ImageArray]] = []
    sizes = [*many_sizes(30), *([SQUARE, LANDSCAPE] * 5)]

    def images() -> Iterator[tuple[int, ImageArray]]:
        for number, size in enumerate(sizes):
            image = noise(size)
            given.append(weakref.ref(image))
            yield number, image
            del image

    alive, found = [], []
    for key, _ in predictor.stream(images(), batch_size):
        alive.append(sum(reference() is not None for reference in given))
        found.append(key)
    assert sorted(found) == list(range(len(sizes))), "a result was lost at the end"
    assert max(alive) == (WAITING_BATCHES * batch_size if batch_size > 1 else 1)
    assert all(reference() is None for reference in given)


def test_the_model_decides_its_input(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family with an input of its own: half the size, on a canvas of 48 x 64 whose rest is padding."""
    seen: list[tuple[Tensor, Tensor]] = []

    def prepare_image(image: ImageArray, data: object) -> Tensor:
        del data
        canvas = torch.zeros(3, 48, 64)
        canvas[:, : image.shape[0] // 2, : image.shape[1] // 2] = torch.from_numpy(image[::2, ::2]).permute(2, 0, 1)
        return canvas

    monkeypatch.setattr(predictor.model, "input_size", lambda size, data: (size[0] // 2, size[1] // 2))
    monkeypatch.setattr(predictor.model, "prepare_image", prepare_image)
    monkeypatch.setattr(predictor.model, "infer", lambda images, padding_mask: seen.append((images, padding_mask)))
    monkeypatch.setattr(predictor.model, "postprocess", lambda output, number, size, settings: size)
    images = [noise((40, 64), 1), noise((80, 20), 2), noise((40, 64), 3)]
    assert predictor.input_size((40, 64)) == (20, 32)
    found: list[Any] = [*predictor.predict_all(images)]
    assert found == [(40, 64), (80, 20), (40, 64)]
    assert [len(batch) for batch, _ in seen] == [2, 1]
    batch, padding_mask = seen[0]
    assert torch.equal(batch[1, :, :20, :32], torch.from_numpy(images[2][::2, ::2]).permute(2, 0, 1).float())
    assert not padding_mask[:, :20, :32].any()
    assert padding_mask[:, 20:].all() and padding_mask[:, :, 32:].all()
