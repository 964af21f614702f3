"""What the settings change in single parts of a model: activation checkpointing and compilation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from panformer_cli.engine.distributed.allocator import return_freed_memory
from panformer_cli.errors import RecipeError
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.layers.recompute import recompute_in_backward
from panformer_cli.reporting import Reporter
from panformer_cli.settings import TrainSettings

MANY_COMPILATIONS = 8
"""Compilations of one module from which on the sizes of the images are the likely reason. torch's own limit is the
same; it runs further sizes without compilation."""

Backend = Callable[[Any, Any], Any]
"""A backend of `torch.compile`: from a graph and example inputs to a function."""


def use_parts(model: PanopticModel, settings: TrainSettings, device: torch.device, reporter: Reporter) -> None:
    """Checkpoint and compile the parts that the settings name. Parameters keep their names.

    Raises:
        RecipeError: Parts should be compiled, but `torch.compile` cannot work here.
    """
    for name in settings.checkpoint:
        recompute_in_backward(model.parts()[name])
    if settings.checkpoint and device.type == "cpu":
        return_memory_between_stages(model)
    if settings.compile:
        if obstacle := compile_obstacle(device.type):
            raise RecipeError(f"train.compile is {list(settings.compile)}, but {obstacle}; set it to []")
        from torch._dynamo import lookup_backend  # takes a second

        compile_parts(model, settings.compile, lookup_backend("inductor"), reporter)


def return_memory_between_stages(model: PanopticModel) -> list[Any]:
    """Let the process return freed memory whenever training has run a stage, forward or backward.

    A CPU process keeps freed memory for its next tensors, but stages need tensors of different sizes. So with
    checkpointing, most of its peak would be holes between tensors (docs/performance.md). This takes more time.

    Returns:
        Handles of the hooks; `remove()` ends this.
    """

    def forward_ended(*_: Any) -> None:
        if torch.is_grad_enabled():
            return_freed_memory()

    handles = []
    for stage in model.stages().values():
        handles.append(stage.register_forward_hook(forward_ended))
        trained = [parameter for parameter in stage.parameters() if parameter.requires_grad]
        for parameter in trained[:1]:  # usually the last one that gets its gradient
            handles.append(parameter.register_post_accumulate_grad_hook(lambda _: return_freed_memory()))
    return handles


def compile_obstacle(device: str) -> str:
    """Return why `torch.compile` cannot work on this type of device; empty if it probably can."""
    if device == "cuda":
        return "" if find_spec("triton") else "the package triton is not installed"
    if device != "cpu":
        return f"torch.compile is not supported on {device}"
    compilers = filter(None, (os.environ.get("CXX"), "g++", "clang++", "cl"))
    return "" if any(map(shutil.which, compilers)) else "torch.compile needs a C++ compiler, such as g++, on a CPU"


def compile_parts(model: PanopticModel, names: tuple[str, ...], backend: Backend, reporter: Reporter) -> None:
    """Let the modules of these parts compile themselves in their first forward pass, for images of all sizes.

    Each module is compiled in place, so that its parameters keep their names. If a part is compiled again and again,
    this is reported once.
    """
    parts = model.parts()
    for name in names:
        counting = _Counting(name, backend, len({type(module) for module in parts[name]}), reporter)
        for module in parts[name]:
            module.compile(backend=counting, dynamic=True)


class _Counting:
    """A backend that counts the compilations of a part."""

    def __init__(self, part: str, backend: Backend, kinds: int, reporter: Reporter) -> None:
        self._part, self._backend, self._reporter = part, backend, reporter
        self._count, self._limit = 0, MANY_COMPILATIONS * kinds

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self._count += 1
        if self._count == self._limit:
            self._reporter.warn(
                f"train.compile: {self._part} was compiled {self._count} times, probably because the sizes of images "
                "vary; further sizes may run uncompiled, slower than before; use fewer sizes (data.train_short_sides, "
                f"data.crop_probability), or remove {self._part} from train.compile"
            )
        return self._backend(graph, inputs)
