"""What a training step needs at least, to refuse before a run what cannot fit.

The model runs on the meta device, where tensors have a size but no memory, so this takes seconds whatever the size of
the images. Only what exists for certain is counted: the weights, their average, AdamW's moments, the gradients if they
exist during a forward pass, and what the part of the model before its targets keeps for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.training.memory.device_memory import device_memory
from panformer_cli.engine.training.memory.parts import use_parts
from panformer_cli.engine.training.memory.plan import MemoryPlan
from panformer_cli.engine.training.memory.probe import GB, LiveTensors
from panformer_cli.engine.training.memory.worst_case import usual_size
from panformer_cli.errors import RecipeError
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.build import build_model
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import TrainSettings

BYTES_PER_PIXEL = 20_000
"""More than a step of the largest published model needs, without its weights. Images for which this is less than half
of the memory are not checked, which saves the time."""


@dataclass(frozen=True)
class LeastMemory:
    """Lower bounds of a step, in bytes.

    Attributes:
        weights: Weights and what the optimizer keeps for each of them.
        activations: What the forward pass keeps for the backward pass.
    """

    weights: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.activations


def check_fits(recipe: Recipe, process: Process, limit: float | None = None) -> None:
    """Check that a new run does not need more memory than there is for certain. Only rank 0 has to call this.

    Args:
        recipe: All settings.
        process: This process.
        limit: Bytes that `--fit-memory` allows; the settings that it can change are then those that need the least.

    Raises:
        RecipeError: A step at the largest of `data.train_short_sides` cannot fit.
        PanformerError: The training split cannot be opened.
    """
    memory = min((known for known in (device_memory(process), limit) if known is not None), default=None)
    data, train = recipe.data, recipe.train
    largest = train.images_per_forward * max(data.train_short_sides) * data.long_side
    if memory is None or largest * BYTES_PER_PIXEL < memory / 2:
        return
    split = CocoPanoptic(Path(data.root), data.train_split, data.skip_bad_images)
    size = usual_size(split, data)
    if size is None:
        return
    smallest = MemoryPlan(1, "bf16" if limit is not None else train.precision, recipe.model.parts)
    # On a GPU, a run whose memory runs out in its first epoch changes these settings itself.
    adapts = limit is not None or process.device.type != "cpu"
    plan = smallest if adapts else MemoryPlan.of(train)
    try:
        needed = least_memory(recipe, plan, split.categories, size, process.world_size)
    except (NotImplementedError, RuntimeError):  # some backbones cannot run on the meta device
        return
    if needed.total > memory:
        raise RecipeError(_does_not_fit(recipe, plan, size, needed, memory, limit))


def least_memory(
    recipe: Recipe, plan: MemoryPlan, categories: CategoryTable, size: tuple[int, int], processes: int = 1
) -> LeastMemory:
    """Return what an optimizer step needs at least.

    Args:
        recipe: All settings.
        plan: Those that change the memory; parts in `train.compile` count as checkpointed, too.
        categories: Categories of the data set.
        size: Height and width of the images in pixels.
        processes: Number of processes.
    """
    model, settings = _model_without_memory(recipe, plan, categories), recipe.train
    trained = _bytes(weight for weight in model.parameters() if weight.requires_grad)
    copies = 2  # AdamW's moments
    # Gradients exist during a forward pass if it is not the first one of its step. Another plan can have fewer passes.
    copies += settings.images_per_forward < settings.batch_size // processes and plan == MemoryPlan.of(settings)
    copies += processes > 1  # DistributedDataParallel has a copy of all gradients
    weights = _bytes(model.state_dict().values()) * (1 if settings.ema_decay is None else 2) + copies * trained
    kept = _bytes_kept(model, plan.images_per_forward, size)
    # Under autocast, half of the bytes is less than what is kept, because some operations stay in float32.
    return LeastMemory(weights, kept if plan.precision == "fp32" else kept / 2)


def _model_without_memory(recipe: Recipe, plan: MemoryPlan, categories: CategoryTable) -> PanopticModel:
    """Return the model of a recipe in training mode on the meta device; random states do not change."""
    device = torch.device("meta")
    with device:
        model = build_model(recipe.model, recipe.inference, categories, pretrained=False, sampling="gather")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # on a CPU it keeps next to nothing, on the meta device as much as its input
    settings: TrainSettings = plan.applied(recipe.train)
    parts = dict.fromkeys((*settings.checkpoint, *settings.compile))
    model.freeze(settings.freeze)
    use_parts(model, replace(settings, checkpoint=tuple(parts), compile=()), device, SilentReporter())
    return model.train()


def _bytes_kept(model: PanopticModel, images: int, size: tuple[int, int]) -> int:
    """Return the bytes that are in use after the part of a forward pass that does not depend on targets."""
    live = LiveTensors(math.inf)
    with live, _FusedAttention():
        batch = torch.empty(images, 3, *size, device="meta")
        padding_mask = torch.empty(images, *size, dtype=torch.bool, device="meta")
        output = model.forward_before_targets(batch, padding_mask)
        kept = live.now
        del output
    return kept


class _FusedAttention(TorchFunctionMode):
    """Keep of attention what its fused kernels keep. On the meta device torch would keep every attention weight."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, or replace attention."""
        if func is F.scaled_dot_product_attention and len(args) >= 3:
            return _KeptAttention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _KeptAttention(torch.autograd.Function):
    """Attention without values, which keeps queries, keys, values and its output."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        output = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, output)
        return output


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _does_not_fit(
    recipe: Recipe, plan: MemoryPlan, size: tuple[int, int], needed: LeastMemory, memory: float, limit: float | None
) -> str:
    """Return the message that names what is needed, what there is, and the settings that would help."""
    train = recipe.train
    advice = ["smaller images (data.train_short_sides, data.long_side)"]
    if plan.images_per_forward > 1:
        advice.append("train.images_per_forward=1")
    if missing := [part for part in recipe.model.parts if part not in plan.checkpoint]:
        advice.append(f"train.checkpoint=[{', '.join((*train.checkpoint, *missing))}]")
    if plan.precision == "fp32":
        advice.append("train.precision=bf16")
    advice.append("a smaller model" if limit is not None else "--fit-memory")
    height, width = size
    images = f"{plan.images_per_forward} images" if plan.images_per_forward > 1 else "one image"
    even = "even with all parts checkpointed " if not missing else ""
    where = "--fit-memory allows" if memory == limit else "a process can use"
    return (
        f"a training step needs at least {needed.total / GB:.1f} GB of memory {even}for {images} of {width} x {height} "
        f"pixels (weights and optimizer {needed.weights / GB:.1f} GB, activations {needed.activations / GB:.1f} GB), "
        f"but {where} {memory / GB:.1f} GB; use {', '.join(advice[:-1])} or {advice[-1]}"
    )
