"""The CPU kernels of deformable sampling, compiled by numba on the first call.

The channels of a cell are contiguous, so all arithmetic is on rows of channels. A `Row` is a variable in vector
registers. A plain loop over channels takes 1.5 times as long: the compiler cannot know that the sum and the values do
not overlap, so it writes the sum to memory after every cell.

Names, for one head of one image:
    channels: D.
    samples: levels x points, the number of sampling locations of a query.
    locations: (2 * samples,), x and y of each sampling location in 0..1.
    weights: (samples,).
    levels: (3, samples), width, height and first cell of the level of each sample.
    cells: (4, samples) int32, the cells at the top left, top right, bottom left and bottom right of each sample.
    sides: (4, samples), the bilinear shares of the left and right column and of the top and bottom row; 0 outside.
    inside: (4, samples), 1 if that column or row exists, otherwise 0.
    shares: (4, samples), the weight of each cell in the sum.
"""

# mypy: ignore-errors
# The code that numba compiles looks like Python, but has numba's types.

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, register_model

from panformer_cli.compiled import compiled

OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}}
"""Threads run in parallel. Product and sum may be fused. Nothing else is reordered, and NaN stays NaN."""


class Row(types.Type):
    """numba type of `width` numbers in vector registers."""

    def __init__(self, scalar: types.Float, width: int) -> None:
        self.scalar, self.width = scalar, width
        super().__init__(name=f"Row({scalar}, {width})")


@register_model(Row)
class RowModel(models.PrimitiveModel):
    """LLVM representation of a `Row`."""

    def __init__(self, manager: Any, row: Row) -> None:
        super().__init__(manager, row, ir.VectorType(manager.lookup(row.scalar).get_value_type(), row.width))


@intrinsic(prefer_literal=True)
def load_row(_: Any, array: Any, start: Any, width: Any) -> Any:
    """Return `width` (a constant) numbers of a C-contiguous array from index `start`, without bounds checks."""
    row = Row(array.dtype, width.literal_value)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], values, row)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return row(array, types.intp, width), generate


@intrinsic
def store_row(_: Any, array: Any, start: Any, row: Any) -> Any:
    """Write a row to where `load_row` reads it."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], values, row)
        builder.store(values[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, row), generate


@intrinsic(prefer_literal=True)
def zero_row(_: Any, array: Any, width: Any) -> Any:
    """Return a row of `width` (a constant) zeros in the dtype of `array`."""
    row = Row(array.dtype, width.literal_value)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return ir.Constant(context.get_value_type(row), None)

    return row(array, width), generate


@intrinsic
def add_scaled(_: Any, total: Any, row: Any, scale: Any) -> Any:
    """Return total + row * scale."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        product = builder.fmul(values[1], _repeated(builder, values[2], row.width), flags=("contract",))
        return builder.fadd(values[0], product, flags=("contract",))

    return row(row, row, row.scalar), generate


@intrinsic
def dot(_: Any, row: Any, other: Any) -> Any:
    """Return the sum of row * other over the channels, always in the same order."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        product = builder.fmul(*values)
        scalar = product.type.element
        name = f"llvm.vector.reduce.fadd.v{row.width}f{row.scalar.bitwidth}"
        reduce = builder.module.declare_intrinsic(name, (), ir.FunctionType(scalar, [scalar, product.type]))
        return builder.call(reduce, [ir.Constant(scalar, 0.0), product], fastmath=("reassoc",))

    return row.scalar(row, row), generate


def _pointer(context: Any, builder: Any, array: Any, values: Any, row: Row) -> Any:
    """Return a pointer to the row that starts at index values[1] of the array values[0]."""
    assert array.layout == "C", "rows are contiguous only in C-contiguous arrays"
    data = context.make_array(array)(context, builder, values[0]).data
    return builder.bitcast(builder.gep(data, [values[1]]), context.get_value_type(row).as_pointer())


def _repeated(builder: Any, scalar: Any, width: int) -> Any:
    undefined = ir.Constant(ir.VectorType(scalar.type, width), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), width), None))


@njit(**OPTIONS, inline="always")
def find_rows(values, head, channels):
    """Return the block with the values of a head, the index of its first value, and the step to its next cell."""
    beside = values.shape[2] // channels
    return values[head // beside], head % beside * channels, values.shape[2]


@njit(**OPTIONS, inline="always")
def neighbors(location, size, zero, one):
    """Return shares, existence and indices of the columns (or rows) before and after a location in cells.

    Comparisons with NaN are false: a NaN location has no neighbors. No index is ever out of range: a column that does
    not exist gets the index of the other one, or 0. Its share is 0.
    """
    before = np.floor(location)
    after = before + one
    share = location - before
    has_before = (before >= zero) & (before < size)
    has_after = (after >= zero) & (after < size)
    index = before if has_before else zero
    return (
        one - share if has_before else zero,
        share if has_after else zero,
        one if has_before else zero,
        one if has_after else zero,
        np.int32(index),
        np.int32(after if has_after else index),
    )


@njit(**OPTIONS, inline="always")
def find_corners(samples, locations, levels, cells, sides, inside):
    """Fill cells, sides and inside. The compiler vectorizes this loop because `samples` is a constant."""
    number = locations.dtype.type
    zero, half, one = number(0), number(0.5), number(1)
    for k in range(samples):
        width, height = levels[0, k], levels[1, k]
        x, y = locations[2 * k] * width - half, locations[2 * k + 1] * height - half
        sides[0, k], sides[1, k], inside[0, k], inside[1, k], left, right = neighbors(x, width, zero, one)
        sides[2, k], sides[3, k], inside[2, k], inside[3, k], top, bottom = neighbors(y, height, zero, one)
        first_of_top = np.int32(levels[2, k]) + top * np.int32(width)
        first_of_bottom = np.int32(levels[2, k]) + bottom * np.int32(width)
        cells[0, k], cells[1, k] = first_of_top + left, first_of_top + right
        cells[2, k], cells[3, k] = first_of_bottom + left, first_of_bottom + right


@njit(**OPTIONS, inline="always")
def find_shares(samples, weights, sides, shares):
    """Fill shares: the weight times the shares of the column and the row."""
    for k in range(samples):
        shares[0, k] = weights[k] * (sides[0, k] * sides[2, k])
        shares[1, k] = weights[k] * (sides[1, k] * sides[2, k])
        shares[2, k] = weights[k] * (sides[0, k] * sides[3, k])
        shares[3, k] = weights[k] * (sides[1, k] * sides[3, k])


@njit(**OPTIONS, inline="always")
def find_slopes(samples, weights, levels, sides, inside, dots, gradients):
    """Fill the gradients of the locations (2 * samples,) and of the weights (samples,).

    Args:
        dots: (4, samples), dot products of the output's gradient and the values of each cell.
    """
    of_locations, of_weights = gradients
    for k in range(samples):
        left, right, top, bottom = sides[0, k], sides[1, k], sides[2, k], sides[3, k]
        of_weights[k] = top * (left * dots[0, k] + right * dots[1, k])
        of_weights[k] += bottom * (left * dots[2, k] + right * dots[3, k])
        to_right = top * (inside[1, k] * dots[1, k] - inside[0, k] * dots[0, k])
        to_right += bottom * (inside[1, k] * dots[3, k] - inside[0, k] * dots[2, k])
        to_bottom = left * (inside[3, k] * dots[2, k] - inside[2, k] * dots[0, k])
        to_bottom += right * (inside[3, k] * dots[3, k] - inside[2, k] * dots[1, k])
        of_locations[2 * k] = weights[k] * levels[0, k] * to_right
        of_locations[2 * k + 1] = weights[k] * levels[1, k] * to_bottom


@cache
def forward_kernel(channels: int, samples: int) -> Callable[..., None]:
    """Return a function that fills the output of the queries `first` to `last` of one head of one image.

    Its arguments, all of one dtype, float32 or float64: values (B, L, heads * D) or (B * heads, L, D); locations
    (B, Q, heads, 2 * samples); weights (B, Q, heads, samples); output (B, Q, heads * D); head, 0 to B * heads - 1.
    """

    def forward(values, locations, weights, levels, output, head, first, last):
        image, column = head // weights.shape[2], head % weights.shape[2]
        cells = np.empty((4, samples), np.int32)
        shares = np.empty((4, samples), weights.dtype)
        sides, inside = np.empty_like(shares), np.empty_like(shares)
        block, start, step = find_rows(values, head, channels)
        one = weights.dtype.type(1)
        for query in range(first, last):
            find_corners(samples, locations[image, query, column], levels, cells, sides, inside)
            find_shares(samples, weights[image, query, column], sides, shares)
            left = right = zero_row(block, channels)  # two independent sums, to hide latency
            for k in range(samples):
                for row in range(0, 4, 2):
                    left_cell, right_cell = start + cells[row, k] * step, start + cells[row + 1, k] * step
                    left = add_scaled(left, load_row(block, left_cell, channels), shares[row, k])
                    right = add_scaled(right, load_row(block, right_cell, channels), shares[row + 1, k])
            store_row(output[image, query], column * channels, add_scaled(left, right, one))

    return compiled(**OPTIONS)(forward)


@cache
def backward_kernel(channels: int, samples: int) -> Callable[..., None]:
    """Return a function for all queries of one head of one image: it adds to one gradient and fills the other two.

    Its arguments: gradient of the output, (B, Q, heads * D); gradients of values (added to), locations and weights, in
    their shapes; the others as in `forward_kernel`. Heads share no gradient, so they can run in parallel, and the order
    of each sum is fixed.
    """

    def backward(gradient, values, locations, weights, levels, gradients, head):
        image, column = head // weights.shape[2], head % weights.shape[2]
        cells = np.empty((4, samples), np.int32)
        shares = np.empty((4, samples), weights.dtype)
        sides, inside, dots = np.empty_like(shares), np.empty_like(shares), np.empty_like(shares)
        block, start, step = find_rows(values, head, channels)
        of_block = find_rows(gradients[0], head, channels)[0]
        for query in range(weights.shape[1]):
            own_weights = weights[image, query, column]
            find_corners(samples, locations[image, query, column], levels, cells, sides, inside)
            find_shares(samples, own_weights, sides, shares)
            direction = load_row(gradient[image, query], column * channels, channels)
            for k in range(samples):
                for corner in range(4):
                    cell = start + cells[corner, k] * step
                    dots[corner, k] = dot(direction, load_row(block, cell, channels))
                    summed = add_scaled(load_row(of_block, cell, channels), direction, shares[corner, k])
                    store_row(of_block, cell, summed)
            own_gradients = gradients[1][image, query, column], gradients[2][image, query, column]
            find_slopes(samples, own_weights, levels, sides, inside, dots, own_gradients)

    return compiled(**OPTIONS)(backward)
