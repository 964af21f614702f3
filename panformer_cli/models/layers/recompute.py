"""Activation checkpointing: activations of a module are computed again in the backward pass instead of kept for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from panformer_cli.models.layers.dropout import DropoutTape, has_random_dropout


def recompute_in_backward(modules: Iterable[nn.Module]) -> None:
    """Let each of these modules keep only its inputs for the backward pass, in which its forward pass runs again.

    Outputs, gradients, random numbers, running statistics of BatchNorm and names of parameters stay the same. A module
    must not contain another one of `modules`, and must not change its inputs.
    """
    for module in modules:
        # An attribute instead of a wrapping module, so that the names of the parameters stay the same.
        module.__dict__["forward"] = _Recomputed(module, module.forward)


class _Recomputed:
    """The forward method of a module, checkpointed where gradients are computed.

    It is an object and not a closure, so that a deep copy of the module calls the copy's own method.
    """

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self.module, self.forward = module, forward

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*arguments, **named)
        options: dict[str, Any] = {}
        if not torch.compiler.is_compiling() and has_random_dropout(self.module):
            options = {"context_fn": self._contexts_with_tape}
        elif _counting_norms(self.module):
            options = {"context_fn": self._contexts}
        # Re-entrant checkpointing would fail under DDP, and frozen inputs would stop all gradients.
        return checkpoint(self.forward, *arguments, use_reentrant=False, preserve_rng_state=True, **options, **named)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return the contexts of the first run and of the second one."""
        return nullcontext(), _statistics_kept(self.module)

    def _contexts_with_tape(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return the same, without random numbers in the second run."""
        tape = DropoutTape()
        return tape.recorded(), _Again(self.module, tape)


class _Again(AbstractContextManager[None]):
    """The context of the second run of a module; a second backward pass enters it again."""

    def __init__(self, module: nn.Module, tape: DropoutTape) -> None:
        self._module, self._tape = module, tape
        self._open = ExitStack()

    def __enter__(self) -> None:
        self._open.enter_context(self._tape.replayed())
        self._open.enter_context(_statistics_kept(self._module))

    def __exit__(self, *details: Any) -> None:
        self._open.__exit__(*details)


def _counting_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the BatchNorms that update their running statistics in every forward pass."""
    norms = (part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm))
    return [norm for norm in norms if norm.training and norm.track_running_stats]


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Restore the running statistics of every BatchNorm at the end, so that the batch is not counted again."""
    buffers = [buffer for norm in _counting_norms(module) for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.data.copy_(value)
