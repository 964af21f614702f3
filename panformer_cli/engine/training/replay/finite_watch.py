"""Finds the first module of a model whose output, or the gradient of its output, is not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn


@dataclass
class FiniteWatch:
    """What was seen while a model ran.

    Attributes:
        output: Name of the first module with an output that is not finite; None if all are finite.
        inputs_are_finite: Whether the inputs of that module are.
        gradient: Name of the module with the first gradient, in the order of the backward pass, that is not finite at
            its output; None if all are finite.
    """

    output: str | None = None
    inputs_are_finite: bool = True
    gradient: str | None = None

    def see_output(self, name: str, module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        """Look at the output of a module; a forward hook."""
        del module
        outputs = list(floats_in(output))
        if self.output is None and not all_finite(outputs):
            self.output, self.inputs_are_finite = name, all_finite(floats_in((inputs, named)))
        for tensor in outputs:
            if tensor.requires_grad:
                tensor.register_hook(partial(self.see_gradient, name))

    def see_gradient(self, name: str, gradient: Tensor) -> None:
        """Look at the gradient of an output; a hook of the tensor."""
        if self.gradient is None and not bool(gradient.isfinite().all()):
            self.gradient = name


@contextmanager
def watching(model: nn.Module) -> Iterator[FiniteWatch]:
    """Yield a watch over all modules of a model. A module inside another one comes before it."""
    watch = FiniteWatch()
    hooks = [
        module.register_forward_hook(partial(watch.see_output, name), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def floats_in(value: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors in containers and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from floats_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from floats_in(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from floats_in(getattr(value, field.name))


def all_finite(tensors: Any) -> bool:
    """Return whether all of these tensors are finite."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
