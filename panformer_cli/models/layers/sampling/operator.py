"""What the compiled implementations of deformable sampling share: their checks, and how PyTorch sees them.

The operators take `sides`, height and width of every level one after the other, in place of a list of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def check_shapes(values: Tensor, locations: Tensor, weights: Tensor, sides: Sequence[int]) -> None:
    """Raises ValueError unless the shapes are those of `DeformableSampling`: the kernels look at no bounds."""
    cells = sum(height * width for height, width in zip(sides[::2], sides[1::2], strict=True))
    fits = locations.shape == (*weights.shape, 2) and weights.shape[3] == len(sides) // 2 and min(sides) > 0
    if not fits or values.shape[:3] != (weights.shape[0], cells, weights.shape[2]):
        given = [tuple(tensor.shape) for tensor in (values, locations, weights)]
        raise ValueError(f"values, locations and weights of shapes {given} do not fit levels of height, width {sides}")


def empty_output(values: Tensor, locations: Tensor, weights: Tensor, sides: Sequence[int]) -> Tensor:
    """(B, Q, heads * D), not filled."""
    return values.new_empty(values.shape[0], locations.shape[1], values.shape[2] * values.shape[3])


def empty_gradients(
    gradient: Tensor, values: Tensor, locations: Tensor, weights: Tensor, sides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of values, locations and weights, not filled."""
    return values.new_empty(values.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def make_differentiable(forward: Any, backward: Any) -> None:
    """Tell PyTorch that the operator `backward` gives the gradients of `forward`, and the shapes of both.

    forward: a `torch.library.custom_op` of (values, locations, weights, sides). backward: one of the output's gradient
        and the same, which returns the gradients of values, locations and weights.
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
