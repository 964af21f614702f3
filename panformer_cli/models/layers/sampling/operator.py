"""Shared code of the compiled implementations of deformable sampling: checks, and registration with PyTorch.

Instead of a list of pairs, the operators take `sides`: the height and width of every level, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def check_shapes(values: Tensor, locations: Tensor, weights: Tensor, sides: Sequence[int]) -> None:
    """Raise a ValueError unless the shapes match. The kernels do not check bounds."""
    cells = sum(height * width for height, width in zip(sides[::2], sides[1::2], strict=True))
    fits = locations.shape == (*weights.shape, 2) and weights.shape[3] == len(sides) // 2 and min(sides) > 0
    if not fits or values.shape[:3] != (weights.shape[0], cells, weights.shape[2]):
        actual = [tuple(tensor.shape) for tensor in (values, locations, weights)]
        raise ValueError(f"values, locations and weights of shapes {actual} do not match levels of sizes {sides}")


def empty_output(values: Tensor, locations: Tensor, weights: Tensor, sides: Sequence[int]) -> Tensor:
    """Return an uninitialized output, (B, Q, heads * D)."""
    return values.new_empty(values.shape[0], locations.shape[1], values.shape[2] * values.shape[3])


def empty_gradients(
    gradient: Tensor, values: Tensor, locations: Tensor, weights: Tensor, sides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return uninitialized gradients of values, locations and weights."""
    return values.new_empty(values.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def make_differentiable(forward: Any, backward: Any) -> None:
    """Register the operator `backward` as the gradient of `forward`, and the output shapes of both.

    Args:
        forward: a `torch.library.custom_op` of (values, locations, weights, sides).
        backward: a `torch.library.custom_op` of the output's gradient and the same arguments, which returns the
            gradients of values, locations and weights.
    """

    def remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Sequence[int]], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.sides = inputs[3]

    def differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        of_values, of_locations, of_weights = backward(gradient, *ctx.saved_tensors, ctx.sides)
        return of_values, of_locations, of_weights, None

    forward.register_fake(empty_output)
    backward.register_fake(empty_gradients)
    forward.register_autograd(differentiate, setup_context=remember)
