"""Checkpointed parts: gradients, random numbers, names and copies as without checkpointing, and less memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from panformer_cli.models.layers.recompute import recompute_in_backward
from panformer_cli.models.layers.sampling import SamplingName
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.models.panoptic_segformer.settings import PanopticSegFormerSettings
from tests.models.panoptic_segformer.small import images_of, scramble, small_model
from tests.models.panoptic_segformer.test_model import (
    NOTHING,
    ONE_STUFF,
    SIZE,
    TWO_THINGS_AND_STUFF,
    losses_of,
    total_of,
)

PARTS = PanopticSegFormerSettings.parts


def model_with(*parts: str, **changes: object) -> PanopticSegFormer:
    model = small_model(**{"dropout": 0.5, "encoder_layers": 2, **changes}).train()  # type: ignore[arg-type]
    scramble(model)
    for part in parts:
        recompute_in_backward(model.parts()[part])
    return model


def gradients_of(model: PanopticSegFormer, images: int = 2) -> dict[str, Tensor | None]:
    """Return the gradients of two accumulated passes: with objects, and without any thing."""
    torch.manual_seed(5)
    for targets in (TWO_THINGS_AND_STUFF, ONE_STUFF, NOTHING):
        total_of(losses_of(model, images_of(images, SIZE), [targets] * images)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def kept_bytes(run: Callable[[], object], weights: nn.Module) -> int:
    """Return the size of everything that a forward pass keeps for the backward pass, except for weights."""
    sizes: dict[int, int] = {}

    def save(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        output = run()
    of_weights = {parameter.untyped_storage().data_ptr() for parameter in weights.parameters()}
    del output
    return sum(size for storage, size in sizes.items() if storage not in of_weights)


def test_the_settings_name_the_parts_of_the_model_which_do_not_overlap() -> None:
    parts = model_with().parts()
    assert sorted(parts) == sorted(PARTS)
    modules = [module for modules in parts.values() for module in modules]
    inside = [id(part) for module in modules for part in module.modules()]
    assert len(set(inside)) == len(inside)


@pytest.mark.parametrize(("parts", "frozen_stages"), [(PARTS, 5), *(((part,), 0) for part in PARTS)])
def test_gradients_are_the_same_bit_for_bit(parts: tuple[str, ...], frozen_stages: int) -> None:
    expected = gradients_of(model_with(frozen_stages=frozen_stages))
    actual = gradients_of(model_with(*parts, frozen_stages=frozen_stages))
    assert list(actual) == list(expected)  # names too
    for name, gradient in expected.items():
        other = actual[name]
        assert (gradient is None) == (other is None)
        assert gradient is None or other is None or torch.equal(gradient, other), name


def test_every_part_keeps_less() -> None:
    images = images_of(1, (128, 192))
    targets = [TWO_THINGS_AND_STUFF]
    models = {part: model_with(part, frozen_stages=0) for part in PARTS}
    whole = model_with(frozen_stages=0)
    expected = kept_bytes(lambda: losses_of(whole, images, targets), whole)
    for part, model in models.items():
        assert kept_bytes(partial(losses_of, model, images, targets), model) < expected, part


def test_batch_norm_counts_a_batch_once() -> None:
    models = model_with(frozen_batch_norm=False), model_with(*PARTS, frozen_batch_norm=False)
    for model in models:
        for _ in range(3):
            gradients_of(model)
    expected, actual = (dict(model.named_buffers()) for model in models)
    assert list(actual) == list(expected)
    counts = [int(value) for name, value in actual.items() if name.endswith("num_batches_tracked")]
    assert set(counts) == {9}
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


def test_a_copy_recomputes_with_its_own_weights() -> None:
    model = model_with(*PARTS)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    expected = model_with()
    expected.load_state_dict(other.state_dict())
    pairs = zip(gradients_of(other).values(), gradients_of(expected).values(), strict=True)
    assert all(one is None or two is None or torch.equal(one, two) for one, two in pairs)


def test_checkpointing_changes_nothing_without_gradients() -> None:
    images, padding = images_of(1, SIZE), torch.zeros(1, *SIZE, dtype=torch.bool)
    with torch.inference_mode():
        outputs = [model_with(*parts).eval().infer(images, padding) for parts in ((), PARTS)]
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("sampling", ["portable", "gather"])
def test_other_implementations_of_sampling_inside_checkpointed_parts(sampling: SamplingName) -> None:
    expected = gradients_of(model_with(sampling=sampling))
    actual = gradients_of(model_with("encoder", "location_decoder", sampling=sampling))
    pairs = zip(actual.values(), expected.values(), strict=True)
    assert all(one is None or two is None or torch.equal(one, two) for one, two in pairs)
