"""The whole model: shapes, gradients, batches, and images and data sets at the edge."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from panformer_cli.models.panoptic_segformer.network import PanopticOutput, PanopticSegFormer, gather_queries
from torch import Tensor

from panformer_cli.data.structures import Targets
from panformer_cli.models.panoptic_segformer.criterion import PanopticCriterion, SegmentCounts, count_segments
from panformer_cli.models.panoptic_segformer.matcher import TrainingSelection
from panformer_cli.models.panoptic_segformer.postprocessing import InferenceSelection, candidates_of, merge_masks
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from tests.models.panoptic_segformer.small import (
    images_of,
    naming,
    no_padding,
    scramble,
    small_model,
    table,
    targets_of,
)

SIZE = (64, 96)
ONE_THING = targets_of(SIZE, (1, (10, 20, 50, 60)))
TWO_THINGS_AND_STUFF = targets_of(SIZE, (1, (10, 20, 50, 60)), (0, (60, 5, 90, 40)), (3, (0, 0, 96, 20)))
ONE_STUFF = targets_of(SIZE, (4, (0, 0, 96, 20)))
NOTHING = targets_of(SIZE)


def losses_of(
    model: PanopticSegFormer, images: Tensor, targets: list[Targets], padding: Tensor | None = None
) -> dict[str, Tensor]:
    num_things = model.location_decoder.class_branches[0].out_features
    assert isinstance(num_things, int)
    selection = TrainingSelection(targets, num_things)
    output = model(images, no_padding(images) if padding is None else padding, selection)
    things, stuff = count_segments(targets, num_things)
    counts = SegmentCounts(things / len(targets), stuff / len(targets))
    return PanopticCriterion(num_things)(output, targets, selection, counts)


def total_of(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def test_training_gives_every_mask_and_inference_the_last() -> None:
    model, images = small_model().train(), images_of(2, SIZE)
    chosen = [torch.tensor([4, 1]), torch.tensor([2])]
    for every, expected in ((True, (2, 3)), (False, (1, 1))):
        output = model.train(every)(images, no_padding(images), lambda _: chosen)
        assert (len(output.things.masks), len(output.stuff.masks)) == expected  # one block or two, and the tail
        assert all(mask.shape == (2, 2, 8, 12) for mask in [*output.things.masks, *output.stuff.masks])
        assert output.stuff_logits.shape == (2, 2, 2)
        assert output.location.class_logits.shape == (2, 2, 7, 3)
        assert output.canvas == SIZE
        assert output.selected is chosen


def test_queries_are_gathered_in_the_order_chosen() -> None:
    queries = torch.arange(2 * 5 * 3.0).view(2, 5, 3)
    gathered = gather_queries(queries, [torch.tensor([3, 0, 3]), torch.tensor([2])])
    assert gathered.shape == (2, 3, 3)
    assert torch.equal(gathered[0], queries[0, [3, 0, 3]])
    assert torch.equal(gathered[1, :1], queries[1, [2]])


def test_thing_masks_belong_to_the_chosen_queries() -> None:
    model, images = small_model().eval(), images_of(1, SIZE)
    scramble(model)
    with torch.no_grad():
        both = model(images, no_padding(images), lambda _: [torch.tensor([5, 2])]).things.masks[-1]
        one = model(images, no_padding(images), lambda _: [torch.tensor([2])]).things.masks[-1]
    assert one.std() > 0
    assert not torch.allclose(both[:, 0], both[:, 1], atol=1e-3)
    torch.testing.assert_close(both[:, 1:], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen_stages", [0, 2])
def test_the_gradient_reaches_every_trainable_parameter(frozen_stages: int) -> None:
    model = small_model(frozen_stages=frozen_stages, thing_mask_layers=2).train()
    scramble(model)
    total_of(losses_of(model, images_of(1, SIZE), [TWO_THINGS_AND_STUFF])).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
            assert parameter.grad.isfinite().all(), name
        else:
            assert parameter.grad is None, name
            assert name.startswith("backbone."), name


@pytest.mark.parametrize("targets", [NOTHING, ONE_THING, ONE_STUFF], ids=["nothing", "one thing", "one stuff"])
def test_images_with_few_objects_train(targets: Targets) -> None:
    model = small_model().train()
    losses = losses_of(model, images_of(1, SIZE), [targets])
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["location_class/1"] > 0
    assert losses["stuff_class/1"] > 0
    has_things = targets is ONE_THING
    for term in ("location_l1/0", "location_giou/1", "thing_mask/1"):
        assert bool(losses[term] > 0) == has_things
    assert bool(losses["stuff_mask/2"] > 0) == (targets is ONE_STUFF)
    # Processes that are trained together wait for a gradient of every parameter.
    total_of(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def tensors_of(output: PanopticOutput, image: int) -> Iterator[tuple[str, Tensor]]:
    yield "class_logits", output.location.class_logits[:, image]
    yield "boxes", output.location.boxes[:, image]
    yield "queries", output.location.queries[image]
    yield "stuff_logits", output.stuff_logits[:, image]
    for number, mask in enumerate(output.things.masks):
        yield f"things {number}", mask[image, : len(output.selected[image])]
    for number, mask in enumerate(output.stuff.masks):
        yield f"stuff {number}", mask[image]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [SIZE, (75, 101)], ids=str)
def test_a_batch_of_two_equals_two_batches_of_one(size: tuple[int, int], training: bool) -> None:
    model, images = small_model().train(training), images_of(2, size)
    scramble(model)
    things = [TWO_THINGS_AND_STUFF, ONE_THING]  # so one row of the batch is filled up

    def run(rows: slice) -> PanopticOutput:
        part = images[rows]
        select = TrainingSelection(things[rows], 3) if training else InferenceSelection(4)
        with torch.no_grad():
            output: PanopticOutput = model(part, no_padding(part), select)
        return output

    together = run(slice(0, 2))
    for image in range(2):
        alone = run(slice(image, image + 1))
        assert torch.equal(alone.selected[0], together.selected[image])
        assert len(alone.selected[0]) == ((2, 1)[image] if training else 4)
        for (name, one), (_, two) in zip(tensors_of(alone, 0), tensors_of(together, image), strict=True):
            assert one.abs().max() > 0, name
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4, msg=naming(name))
    first, second = (dict(tensors_of(together, image)) for image in range(2))
    assert not torch.allclose(first["stuff_logits"], second["stuff_logits"], atol=1e-2)


def test_a_padded_batch_trains_and_only_padding_differs() -> None:
    model = small_model().train()
    images, padding = images_of(2, (80, 112)), torch.ones(2, 80, 112, dtype=torch.bool)
    padding[0, :75, :112] = False
    padding[1, :80, :61] = False
    images = images.masked_fill(padding[:, None], 0.0)
    targets = [
        targets_of((75, 112), (0, (3, 3, 70, 60)), (3, (0, 0, 112, 9))),
        targets_of((80, 61), (2, (9, 9, 30, 80))),
    ]
    losses = losses_of(model, images, targets, padding)
    assert all(loss.isfinite() for loss in losses.values())
    total_of(losses).backward()
    with torch.no_grad():
        chosen = [torch.tensor([0]), torch.tensor([0])]
        marked = model(images, padding, lambda _: chosen)
        unmarked = model(images, no_padding(images), lambda _: chosen)
    assert marked.things.masks[-1].shape == (2, 1, 10, 14)
    assert not torch.allclose(marked.location.queries[1], unmarked.location.queries[1], atol=1e-3)


@pytest.mark.parametrize("size", [(8, 8), (75, 101), (33, 9), (1, 1)], ids=str)
def test_any_image_size_gives_masks_of_stride_8(size: tuple[int, int]) -> None:
    # Not 32 channels: torch refuses to normalise groups of a single value, which a 1 x 1 map of them would have.
    model, images = small_model(embed_dim=64).eval(), images_of(1, size)
    selection = InferenceSelection(3)
    with torch.no_grad():
        output = model(images, no_padding(images), selection)
    assert output.things.masks[-1].shape == (1, 3, math.ceil(size[0] / 8), math.ceil(size[1] / 8))
    assert all(tensor.isfinite().all() for _, tensor in tensors_of(output, 0))
    panoptic = merge_masks(
        candidates_of(output, selection, 0, size, 3), table(3, 2), MergingSettings(score_threshold=0.0)
    )
    assert panoptic.ids.shape == size


@pytest.mark.parametrize(("things", "stuff"), [(1, 0), (0, 1), (0, 2), (1, 1)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_data_sets_with_one_kind_of_class_train_and_predict(things: int, stuff: int) -> None:
    model, images = small_model(things=things, stuff=stuff).train(), images_of(2, SIZE)
    box = (10, 10, 60, 50)
    targets = [targets_of(SIZE, (0, box)), targets_of(SIZE)]
    losses = losses_of(model, images, targets)
    total_of(losses).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    selection = InferenceSelection(100)
    with torch.no_grad():
        output = model.eval()(images, no_padding(images), selection)
    candidates = candidates_of(output, selection, 1, SIZE, things)
    assert len(candidates.labels) == 7 * things + stuff
    candidates.class_scores[:] = 1.0
    panoptic = merge_masks(candidates, table(things, stuff), MergingSettings(score_threshold=0.0))
    assert {segment.category_id for segment in panoptic.segments} <= ({10} if things else set()) | {3, 4}
