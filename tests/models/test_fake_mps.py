"""Models on Apple's GPUs (`mps`), without one: no tensor on the device has 64-bit floats, which `mps` lacks.

Indexing a fake tensor on `mps` needs a torch with `mps`, so the models run on a fake `cuda` device (see `fake_gpu`),
with the sampling that `mps` uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.structures import Batch, Targets
from panformer_cli.models.base import LossCounts
from panformer_cli.models.build import build_model
from panformer_cli.models.layers.sampling import check_sampling
from panformer_cli.recipe_io import load_recipe
from tests.models.fake_gpu import GPU, fake_gpu, with_values

MPS = torch.device("mps", 0)
CANVAS = (128, 160)


class NoDoubles(TorchDispatchMode):
    """Fail at the first float64 tensor on the device, as `mps` does."""

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type != "cpu":
                assert tensor.dtype not in (torch.float64, torch.complex128), f"{function} returned {tensor.dtype}"
        return result


def no_doubles() -> AbstractContextManager[object]:
    context: AbstractContextManager[object] = NoDoubles()  # type: ignore[no-untyped-call]
    return context


def batch() -> Batch:
    labels = [0, 3, COCO.num_things]
    masks = torch.zeros(len(labels), *CANVAS, dtype=torch.bool, device=GPU)
    targets = Targets(with_values(labels), torch.zeros(len(labels), 4, device=GPU), masks)
    return Batch(
        torch.zeros(1, 3, *CANVAS, device=GPU), torch.zeros(1, *CANVAS, dtype=torch.bool, device=GPU), [targets]
    )


@pytest.mark.slow
def test_losses_and_inference_need_no_doubles() -> None:
    layers = ("location_layers=2", "encoder_layers=1", "thing_mask_layers=1", "stuff_mask_layers=1")
    recipe = load_recipe("tiny", [f"model.{setting}" for setting in layers])
    with torch.device("meta"):
        model = build_model(recipe.model, recipe.inference, COCO, pretrained=False, sampling="gather")
    with fake_gpu(), no_doubles():
        model.to(GPU).train()
        losses = model(batch(), LossCounts(1.0, 1.0))
        assert {loss.device for loss in losses.values()} == {GPU}
        with torch.inference_mode():
            images = batch()
            output = model.eval().infer(images.images, images.padding_mask)
        assert {tensor.device for tensor in output} == {GPU}


@pytest.mark.parametrize("wrong", [lambda x: x.double(), lambda x: torch.zeros(2, dtype=torch.float64, device=GPU)])
def test_doubles_on_the_device_are_found(wrong: Callable[[Tensor], Tensor]) -> None:
    with fake_gpu(), no_doubles(), pytest.raises(AssertionError, match="returned torch.float64"):
        wrong(torch.zeros(2, device=GPU))


def test_sampling_on_mps_needs_no_grid_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """`grid_sample` has no backward pass there in all versions of torch."""
    from panformer_cli.models.layers import sampling

    chosen: list[str] = []
    monkeypatch.setattr(sampling, "_implementation", lambda name: lambda *_: chosen.append(name))
    with fake_gpu():
        sampling.fastest_sampling(torch.zeros(1, device=MPS), [], torch.zeros(1), torch.zeros(1))
    assert chosen == ["gather"]
    check_sampling("gather", "mps")
