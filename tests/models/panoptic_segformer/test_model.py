"""The complete model: shapes, gradients, batches, and edge cases of images and data sets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from panformer_cli.data.structures import Batch, Targets
from panformer_cli.errors import PanformerError
from panformer_cli.models.base import LossCounts, count_segments
from panformer_cli.models.panoptic_segformer.mask_decoder import MaskOutput
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.models.panoptic_segformer.postprocessing import candidates_of, merge_masks
from panformer_cli.models.panoptic_segformer.query_selection import gather_queries, pad_queries, select_top
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
    things, stuff = count_segments(targets, model.categories.num_things)
    counts = LossCounts(things / len(targets), stuff / len(targets))
    batch = Batch(images, no_padding(images) if padding is None else padding, targets)
    losses: dict[str, Tensor] = model(batch, counts)
    return losses


def total_of(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_under_autocast_are_computed_in_float32(dtype: torch.dtype) -> None:
    """Logits of 200 and masks of 2000, whose sum over an image would be infinite in float16."""
    model = small_model().train()
    heads = [block.attention.mask_head for block in model.thing_mask_decoder.blocks]  # type: ignore[union-attr]
    for head in [*heads, model.thing_mask_decoder.tail.mask_head, model.stuff_mask_decoder.tail.mask_head]:
        torch.nn.init.constant_(head.output.bias, 2000.0)  # type: ignore[union-attr, arg-type]
    for branch in model.location_decoder.class_branches:
        torch.nn.init.constant_(branch.bias, 200.0)  # type: ignore[arg-type]
    images = images_of(1, SIZE)
    with torch.no_grad():
        expected = losses_of(model, images, [TWO_THINGS_AND_STUFF])
        with torch.autocast("cpu", dtype):
            losses = losses_of(model, images, [TWO_THINGS_AND_STUFF])
    for name, value in expected.items():
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], value, rtol=0.05, atol=0.01, msg=naming(name))


def decode(
    model: PanopticSegFormer, images: Tensor, chosen: list[list[int]], every_mask: bool, padding: Tensor | None = None
) -> tuple[MaskOutput, MaskOutput, Tensor]:
    """Return the masks of the chosen queries of each image, and of stuff."""
    memory = model.encode(images, no_padding(images) if padding is None else padding)
    indices = pad_queries([torch.tensor(queries) for queries in chosen])
    queries = gather_queries(model.location_decoder(memory).queries, indices)
    return model.decode_masks(memory, queries, every_mask)


@pytest.mark.slow
def test_training_returns_every_mask_and_inference_the_last() -> None:
    model, images = small_model().train(), images_of(2, SIZE)
    for every, expected in ((True, (2, 3)), (False, (1, 1))):
        things, stuff, stuff_logits = decode(model, images, [[4, 1], [2]], every)
        assert (len(things.masks), len(stuff.masks)) == expected  # one or two blocks, and the tail
        assert all(mask.shape == (2, 2, 8, 12) for mask in [*things.masks, *stuff.masks])
        assert stuff_logits.shape == (2, 2, 2)


def test_the_output_is_a_tuple_of_tensors() -> None:
    model, images = small_model(top_k=4).eval(), images_of(2, SIZE)
    with torch.no_grad():
        output = model.infer(images, no_padding(images))
    assert all(isinstance(tensor, Tensor) for tensor in output)
    assert output.labels.shape == output.scores.shape == (2, 4)
    assert output.boxes.shape == (2, 4, 4)
    assert output.masks.shape == (2, 4, 8, 12)
    assert output.stuff_scores.shape == (2, 2)
    assert output.stuff_masks.shape == (2, 2, 8, 12)


def test_queries_are_gathered_in_the_selected_order() -> None:
    queries = torch.arange(2 * 5 * 3.0).view(2, 5, 3)
    gathered = gather_queries(queries, pad_queries([torch.tensor([3, 0, 3]), torch.tensor([2])]))
    assert gathered.shape == (2, 3, 3)
    assert torch.equal(gathered[0], queries[0, [3, 0, 3]])
    assert torch.equal(gathered[1, :1], queries[1, [2]])


@pytest.mark.slow
def test_thing_masks_belong_to_the_selected_queries() -> None:
    model, images = small_model().eval(), images_of(1, SIZE)
    scramble(model)
    with torch.no_grad():
        both, one = (decode(model, images, [chosen], every_mask=False)[0].masks[-1] for chosen in ([5, 2], [2]))
    assert one.std() > 0
    assert not torch.allclose(both[:, 0], both[:, 1], atol=1e-3)
    torch.testing.assert_close(both[:, 1:], one, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
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


@pytest.mark.slow
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
    # Distributed training needs a gradient of every parameter.
    total_of(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
@pytest.mark.parametrize("size", [SIZE, (75, 101)], ids=str)
def test_a_batch_of_two_equals_two_batches_of_one(size: tuple[int, int]) -> None:
    model, images = small_model(top_k=4).eval(), images_of(2, size)
    scramble(model)
    with torch.no_grad():
        together = model.infer(images, no_padding(images))
        alone = [model.infer(images[[image]], no_padding(images[[image]])) for image in range(2)]
    for image, output in enumerate(alone):
        assert torch.equal(output.labels[0], together.labels[image])
        for name, one, two in zip(output._fields, output, together, strict=True):
            assert name == "labels" or one.abs().max() > 0, name
            torch.testing.assert_close(one[0], two[image], rtol=1e-3, atol=1e-4, msg=naming(name))
    assert not torch.allclose(together.stuff_scores[0], together.stuff_scores[1], rtol=1e-2, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("size", [SIZE, (75, 101)], ids=str)
def test_the_losses_of_a_batch_are_the_mean_over_its_images(size: tuple[int, int]) -> None:
    model, images = small_model().train(), images_of(2, size)
    scramble(model)
    targets = [TWO_THINGS_AND_STUFF, ONE_THING] if size == SIZE else [targets_of(size, (1, (9, 9, 60, 50))), NOTHING]
    if size != SIZE:
        targets[1] = targets_of(size)
    counts = LossCounts(1.5, 0.5)
    with torch.no_grad():
        together = model(Batch(images, no_padding(images), targets), counts)
        alone = [model(Batch(images[[n]], no_padding(images[[n]]), targets[n : n + 1]), counts) for n in range(2)]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2, rtol=1e-3, atol=1e-4, msg=naming(name))


@pytest.mark.slow
def test_a_padded_batch_trains_and_the_padding_mask_has_an_effect() -> None:
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
        marked, unmarked = (
            model.location_decoder(model.encode(images, mask)).queries for mask in (padding, no_padding(images))
        )
        things, _, _ = decode(model, images, [[0], [0]], every_mask=False, padding=padding)
    assert things.masks[-1].shape == (2, 1, 10, 14)
    assert not torch.allclose(marked[1], unmarked[1], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(8, 8), (75, 101), (33, 9), (1, 1)], ids=str)
def test_any_image_size_gives_masks_at_stride_8(size: tuple[int, int]) -> None:
    # Not 32 channels: torch raises an error for groups of a single value, as in a 1 x 1 map.
    model, images = small_model(embed_dim=64, top_k=3).eval(), images_of(1, size)
    with torch.no_grad():
        output = model.infer(images, no_padding(images))
    assert output.masks.shape == (1, 3, math.ceil(size[0] / 8), math.ceil(size[1] / 8))
    assert all(tensor.isfinite().all() for tensor in output)
    panoptic = model.postprocess(output, 0, size, MergingSettings(score_threshold=0.0)).panoptic
    assert panoptic.ids.shape == size


@pytest.mark.slow
@pytest.mark.parametrize(("things", "stuff"), [(1, 0), (0, 1), (0, 2), (1, 1)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_data_sets_with_only_things_or_only_stuff_train_and_predict(things: int, stuff: int) -> None:
    model, images = small_model(things=things, stuff=stuff).train(), images_of(2, SIZE)
    box = (10, 10, 60, 50)
    targets = [targets_of(SIZE, (0, box)), targets_of(SIZE)]
    losses = losses_of(model, images, targets)
    total_of(losses).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        output = model.eval().infer(images, no_padding(images))
    candidates = candidates_of(output, 1, SIZE, things)
    assert len(candidates.labels) == 7 * things + stuff
    candidates.class_scores[:] = 1.0
    panoptic = merge_masks(candidates, table(things, stuff), MergingSettings(score_threshold=0.0))
    assert {segment.category_id for segment in panoptic.segments} <= ({10} if things else set()) | {3, 4}


def test_more_mask_layers_than_there_are() -> None:
    model = small_model(thing_mask_layers=1, stuff_mask_layers=2)
    with pytest.raises(PanformerError, match="--mask-layers is 99, but .* have at most 3 layers; expected 1 to 3"):
        model.use_mask_layers(99)


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "thing_layer", "stuff_layer", "class_layer"), [
    (1, 0, 0, 0), (2, 1, 1, 1), (3, 2, 2, 1),
])  # fmt: skip
def test_mask_layers(layers: int, thing_layer: int, stuff_layer: int, class_layer: int) -> None:
    """Both decoders have two blocks and the tail: three layers with masks, and two with class scores of stuff."""
    model, whole = (small_model(thing_mask_layers=2, stuff_mask_layers=2).eval() for _ in range(2))
    scramble(model)
    scramble(whole)
    images = images_of(1, SIZE)
    model.use_mask_layers(layers)
    with torch.no_grad():
        output, plain = (one.infer(images, no_padding(images)) for one in (model, whole))
        memory, location = whole.forward_before_targets(images, no_padding(images))
        top = select_top(location.class_logits[-1], whole.top_k)
        things, stuff, logits = whole.decode_masks(
            memory, gather_queries(location.queries, top.queries), every_mask=True
        )
    torch.testing.assert_close(output.masks, things.masks[thing_layer], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.stuff_masks, stuff.masks[stuff_layer], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.stuff_scores, logits[class_layer].sigmoid(), rtol=1e-4, atol=1e-6)
    assert torch.equal(output.scores, plain.scores), "things get their classes before the mask decoder"
    if layers >= 3:
        assert all(torch.equal(one, other) for one, other in zip(output, plain, strict=True))
    assert model.parts()["thing_masks"] == model.thing_mask_decoder.layers()
