"""The GPU kernels of `sampling/triton.py`. Importing this module requires triton.

A program processes a few queries of one head of one image, one after the other. Neighboring queries read neighboring
cells, which are then still in the L1 cache. Query blocks are the fastest axis of the grid and images the slowest, so at
any time the GPU reads the values of few heads, and these stay in L2.

All samples of a query (levels x points, usually 16 rows) and all channels of a head (usually 32) form one tile. A row
of a tile is one cell: 128 bytes in float32, which 8 threads read with 16 bytes each. The locations are computed once
per thread, not once per channel, and the loads of all rows and corners are in flight at the same time. A tile uses one
or two warps, so there are few barriers.

Bilinear sampling is that of `grid_sample` (zero padding, align_corners=False), computed in float32, or in float64 if
the values are.
"""

# Triton's language looks like Python, but a type checker does not understand its types.
# mypy: ignore-errors

import triton
import triton.language as tl

# These integers change with the image size and the batch size. One compiled kernel must serve all of them.
CHANGING = ["length", "queries", "queries_per_program"]


@triton.jit
def level_of_samples(levels, sample, real, POINTS: tl.constexpr):
    """Return height, width and first cell of the level of each sample, from the table `levels` (levels, 3)."""
    row = levels + 3 * (sample // POINTS)
    height = tl.load(row, mask=real, other=0)
    width = tl.load(row + 1, mask=real, other=0)
    first_cell = tl.load(row + 2, mask=real, other=0)
    return height, width, first_cell


@triton.jit
def nearest_cells(locations, sample, real, height, width, NUMBER: tl.constexpr):
    """Return the cell at the top left of each sample, the distance to it, and which of the four cells exist."""
    x = tl.load(locations + 2 * sample, mask=real, other=0.0).to(NUMBER) * width - 0.5
    y = tl.load(locations + 2 * sample + 1, mask=real, other=0.0).to(NUMBER) * height - 0.5
    # False for NaN too. Locations far outside must not be converted to integers: these could overflow to inside.
    inside = real & (x >= -1) & (x < width) & (y >= -1) & (y < height)
    x = tl.where(inside, x, 0.0)
    y = tl.where(inside, y, 0.0)
    left = tl.floor(x)
    top = tl.floor(y)
    column = left.to(tl.int32)
    row = top.to(tl.int32)
    has_left = column >= 0
    has_right = column + 1 < width
    has_top = inside & (row >= 0)
    has_bottom = inside & (row + 1 < height)
    return column, row, x - left, y - top, has_left, has_right, has_top, has_bottom


@triton.jit(do_not_specialize=CHANGING)
def forward_kernel(
    values,
    locations,
    weights,
    levels,
    output,
    length,
    queries,
    queries_per_program,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """Fill `output`. ROWS and COLUMNS are LEVELS * POINTS and D, rounded up to powers of two."""
    NUMBER: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    SAMPLES: tl.constexpr = LEVELS * POINTS
    CELL: tl.constexpr = HEADS * D  # elements from a cell to the next one
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)  # a batch can have more than 2^31 elements, so offsets have 64 bits
    sample = tl.arange(0, ROWS)
    channel = tl.arange(0, COLUMNS)
    real = sample < SAMPLES
    real_channel = (channel < D)[None, :]
    height, width, first_cell = level_of_samples(levels, sample, real, POINTS)
    values += image * length * CELL + head * D
    first_query = tl.program_id(0) * queries_per_program
    for query in range(first_query, tl.minimum(first_query + queries_per_program, queries)):
        pair = (image * queries + query) * HEADS + head
        column, row, right, bottom, has_left, has_right, has_top, has_bottom = nearest_cells(
            locations + pair * (2 * SAMPLES), sample, real, height, width, NUMBER
        )
        upper = values + (first_cell + row * width + column).to(tl.int64)[:, None] * CELL + channel[None, :]
        lower = upper + (width * CELL)[:, None]
        top_left = tl.load(upper, (has_top & has_left)[:, None] & real_channel, 0.0)
        top_right = tl.load(upper + CELL, (has_top & has_right)[:, None] & real_channel, 0.0)
        bottom_left = tl.load(lower, (has_bottom & has_left)[:, None] & real_channel, 0.0)
        bottom_right = tl.load(lower + CELL, (has_bottom & has_right)[:, None] & real_channel, 0.0)

        weight = tl.load(weights + pair * SAMPLES + sample, real, 0.0).to(NUMBER)
        lower_weight = weight * bottom
        upper_weight = weight - lower_weight
        weighted = top_left.to(NUMBER) * (upper_weight * (1 - right))[:, None]
        weighted += top_right.to(NUMBER) * (upper_weight * right)[:, None]
        weighted += bottom_left.to(NUMBER) * (lower_weight * (1 - right))[:, None]
        weighted += bottom_right.to(NUMBER) * (lower_weight * right)[:, None]
        total = tl.sum(weighted, axis=0)
        tl.store(output + pair * D + channel, total.to(output.dtype.element_ty), channel < D)


@triton.jit(do_not_specialize=CHANGING)
def backward_kernel(
    gradient,
    values,
    locations,
    weights,
    levels,
    values_gradient,
    locations_gradient,
    weights_gradient,
    length,
    queries,
    queries_per_program,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """Fill the gradients of locations and weights, and add to that of the values; `gradient` is that of the output.

    Many samples read the same cell, so `values_gradient` (float32 or float64, initially zero) is summed with atomic
    additions. Their order, and with it the last bits, changes from run to run.
    """
    NUMBER: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    SAMPLES: tl.constexpr = LEVELS * POINTS
    CELL: tl.constexpr = HEADS * D
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    sample = tl.arange(0, ROWS)
    channel = tl.arange(0, COLUMNS)
    real = sample < SAMPLES
    real_channel = (channel < D)[None, :]
    height, width, first_cell = level_of_samples(levels, sample, real, POINTS)
    image_and_head = image * length * CELL + head * D
    first_query = tl.program_id(0) * queries_per_program
    for query in range(first_query, tl.minimum(first_query + queries_per_program, queries)):
        pair = (image * queries + query) * HEADS + head
        column, row, right, bottom, has_left, has_right, has_top, has_bottom = nearest_cells(
            locations + pair * (2 * SAMPLES), sample, real, height, width, NUMBER
        )
        cell = (first_cell + row * width + column).to(tl.int64)
        upper = image_and_head + cell[:, None] * CELL + channel[None, :]
        lower = upper + (width * CELL)[:, None]
        has_top_left = (has_top & has_left)[:, None] & real_channel
        has_top_right = (has_top & has_right)[:, None] & real_channel
        has_bottom_left = (has_bottom & has_left)[:, None] & real_channel
        has_bottom_right = (has_bottom & has_right)[:, None] & real_channel
        top_left = tl.load(values + upper, has_top_left, 0.0)
        top_right = tl.load(values + upper + CELL, has_top_right, 0.0)
        bottom_left = tl.load(values + lower, has_bottom_left, 0.0)
        bottom_right = tl.load(values + lower + CELL, has_bottom_right, 0.0)

        # The gradients of locations and weights depend on a corner only through its dot product with the output's
        # gradient: after these four products, there is one number per sample. The gradient is loaded as a vector, so
        # that triton gives it the layout of the tiles and not vice versa.
        total = tl.load(gradient + pair * D + channel, channel < D, 0.0).to(NUMBER)[None, :]
        top_left = tl.sum(top_left.to(NUMBER) * total, axis=1)
        top_right = tl.sum(top_right.to(NUMBER) * total, axis=1)
        bottom_left = tl.sum(bottom_left.to(NUMBER) * total, axis=1)
        bottom_right = tl.sum(bottom_right.to(NUMBER) * total, axis=1)
        top = top_left + right * (top_right - top_left)
        down = bottom_left + right * (bottom_right - bottom_left) - top
        across = (top_right - top_left) * (1 - bottom) + (bottom_right - bottom_left) * bottom
        weight = tl.load(weights + pair * SAMPLES + sample, real, 0.0).to(NUMBER)
        location = locations_gradient + pair * (2 * SAMPLES) + 2 * sample
        tl.store(weights_gradient + pair * SAMPLES + sample, top + bottom * down, real)
        tl.store(location, weight * width * across, real)
        tl.store(location + 1, weight * height * down, real)

        # The order of the additions does not matter ("relaxed"): only the next kernel reads the sums.
        lower_weight = weight * bottom
        upper_weight = weight - lower_weight
        upper += values_gradient
        lower += values_gradient
        tl.atomic_add(upper, (upper_weight * (1 - right))[:, None] * total, has_top_left, sem="relaxed")
        tl.atomic_add(upper + CELL, (upper_weight * right)[:, None] * total, has_top_right, sem="relaxed")
        tl.atomic_add(lower, (lower_weight * (1 - right))[:, None] * total, has_bottom_left, sem="relaxed")
        tl.atomic_add(lower + CELL, (lower_weight * right)[:, None] * total, has_bottom_right, sem="relaxed")
