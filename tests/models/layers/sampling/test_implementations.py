"""All implementations that run on a CPU, compared with the plain loop and with hand-computed values."""

from __future__ import annotations

import pytest
import torch

from panformer_cli.models.layers.common import LevelShapes
from panformer_cli.models.layers.sampling import DeformableSampling
from panformer_cli.models.layers.sampling.cpu import cpu_sampling
from panformer_cli.models.layers.sampling.portable import gather_sampling, grid_sampling
from tests.models.layers.sampling.plain_loop import gradients, plain_loop, random_case

implementations = pytest.mark.parametrize(
    "sampling",
    [
        pytest.param(grid_sampling, id="portable"),
        pytest.param(gather_sampling, id="gather"),
        pytest.param(cpu_sampling, id="cpu"),
    ],
)


@pytest.mark.slow
@implementations
@pytest.mark.parametrize(
    ("shapes", "reach"),
    [
        pytest.param([(5, 7), (3, 4), (1, 2), (1, 1)], 0.5, id="four levels of odd sizes"),
        pytest.param([(5, 7), (3, 4)], 1.5, id="many points outside"),
        pytest.param([(4, 9)], 0.6, id="one level"),
        pytest.param([(1, 1)], 0.6, id="one cell"),
    ],
)
def test_values_and_gradients_equal_a_plain_loop(
    sampling: DeformableSampling, shapes: LevelShapes, reach: float
) -> None:
    case = random_case(shapes, reach)
    ours, theirs = sampling(*case), plain_loop(*case)
    assert ours.shape == (2, 3, 8)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for mine, other in zip(gradients(ours, case), gradients(theirs, case), strict=True):
        assert other.abs().max() > 0.1
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@implementations
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)]
)
def test_single_and_half_precision_round_only_once(
    sampling: DeformableSampling, dtype: torch.dtype, tolerance: float
) -> None:
    case = random_case([(5, 7), (3, 4)]).to(dtype, torch.float32)
    exact = case.to(torch.float64, torch.float64)
    ours, theirs = sampling(*case), plain_loop(*exact)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=1e-5)
    for mine, other, tensor in zip(gradients(ours, case), gradients(theirs, exact), case.tensors, strict=True):
        assert mine.dtype == tensor.dtype
        scale = float(other.abs().max())
        torch.testing.assert_close(mine.double(), other, rtol=tolerance, atol=scale * tolerance)


@pytest.mark.slow
@implementations
def test_coordinates_start_at_the_outer_corner(sampling: DeformableSampling) -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).view(1, 6, 1, 1)  # two rows, three columns
    points = [(0.5 / 3, 0.25), (2.5 / 3, 0.75), (0.5, 0.5), (0.0, 0.0), (-0.2, 0.5), (3.0, 3.0)]
    locations = torch.tensor(points).view(1, 6, 1, 1, 1, 2)
    sampled = sampling(values, [(2, 3)], locations, torch.ones(1, 6, 1, 1, 1)).flatten()
    # Center of the first and last cell; between rows; a quarter of the corner cell; outside by more than half a cell.
    torch.testing.assert_close(sampled, torch.tensor([1.0, 6.0, 3.5, 0.25, 0.0, 0.0]), rtol=0, atol=1e-6)


@implementations
def test_no_queries_give_an_empty_output(sampling: DeformableSampling) -> None:
    values, shapes, locations, weights = random_case([(5, 7), (3, 4)])
    assert sampling(values, shapes, locations[:, :0], weights[:, :0]).shape == (2, 0, 8)


@pytest.mark.parametrize("sampling", [gather_sampling, cpu_sampling])
@pytest.mark.parametrize("coordinate", [float("nan"), float("inf"), float("-inf"), 1e30, -1e30])
def test_nan_and_huge_locations_count_as_outside(sampling: DeformableSampling, coordinate: float) -> None:
    case = random_case([(5, 7), (3, 4)])
    locations = case.locations.detach().clone()
    locations[:, 0, :, 0] = coordinate
    inside_only = case.weights.detach().clone()
    inside_only[:, 0, :, 0] = 0
    sampled = sampling(case.values, case.shapes, locations, case.weights)
    expected = plain_loop(case.values, case.shapes, case.locations, inside_only)
    torch.testing.assert_close(sampled, expected, rtol=1e-9, atol=1e-9)
