"""The compiled loops: at realistic sizes, with threads, and as a PyTorch operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from panformer_cli.models.layers.common import LevelShapes
from panformer_cli.models.layers.sampling import cpu
from panformer_cli.models.layers.sampling.cpu import cpu_sampling
from panformer_cli.models.layers.sampling.portable import grid_sampling
from tests.models.layers.sampling.plain_loop import Case, gradients, plain_loop, random_case

SHAPES: LevelShapes = [(13, 21), (7, 11), (4, 6), (2, 3)]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def large_case(queries: int) -> Case:
    """Return a case with 8 heads of 32 channels, as in the published models."""
    return random_case(SHAPES, reach=0.7, queries=queries, heads=8, channels=32).to(torch.float32, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("queries", [900, 40])
def test_a_large_case_equals_the_portable_implementation(queries: int) -> None:
    case = large_case(queries)
    ours, theirs = cpu_sampling(*case), grid_sampling(*case)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for mine, other in zip(gradients(ours, case), gradients(theirs, case), strict=True):
        scale = float(other.abs().max())
        # The slope jumps at cell centers, where rounding decides on the side: a few values may differ.
        assert ((mine - other).abs() > 1e-4 * scale).float().mean() < 1e-4


def test_the_large_cases_cover_both_memory_layouts_and_both_thread_modes() -> None:
    many, few = large_case(900), large_case(40)
    assert few.weights.numel() < cpu.FEW_SAMPLES < many.weights.numel()
    cells = [cpu.MANY_SAMPLES_PER_CELL * case.values.shape[:3].numel() for case in (many, few)]
    assert many.weights.numel() >= cells[0]
    assert few.weights.numel() < cells[1]


def test_results_do_not_depend_on_the_number_of_threads(threads: Callable[[int], None]) -> None:
    case = large_case(900)
    results = []
    for number in (1, 2, 3):
        threads(number)
        output = cpu_sampling(*case)
        results.append((output, *gradients(output, case)))
    for other in results[1:]:
        for mine, theirs in zip(results[0], other, strict=True):
            assert torch.equal(mine, theirs)


def test_it_uses_as_many_threads_as_pytorch(threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, number: int) -> None:
            super().__init__(number)
            pools.append(number)

    monkeypatch.setattr(cpu, "ThreadPoolExecutor", Pool)
    for number in (1, 3):
        threads(number)
        cpu_sampling(*large_case(900))
        cpu_sampling(*large_case(40))
    assert pools == [3]


def test_an_error_in_a_thread_is_raised() -> None:
    def work(number: int) -> None:
        raise ArithmeticError(f"part {number}")

    with pytest.raises(ArithmeticError, match="part 0"):
        cpu._run(work, [(0,), (1,)], threads=2)


@pytest.mark.slow
def test_inputs_can_have_any_strides() -> None:
    case = random_case([(5, 7), (3, 4)])
    strided = [tensor.detach().mT.contiguous().mT for tensor in case.tensors]
    assert not any(tensor.is_contiguous() for tensor in strided)
    values, locations, weights = strided
    torch.testing.assert_close(cpu_sampling(values, case.shapes, locations, weights), cpu_sampling(*case))
    output = cpu_sampling(*case)
    # The gradient of a sum is an expanded tensor with stride 0.
    torch.testing.assert_close(
        torch.autograd.grad(output.sum(), case.tensors),
        torch.autograd.grad(plain_loop(*case).sum(), case.tensors),
        rtol=1e-8,
        atol=1e-8,
    )


@pytest.mark.parametrize("differentiable", range(3))
def test_gradient_of_a_single_input(differentiable: int) -> None:
    case = random_case([(5, 7), (3, 4)])
    inputs = [tensor.detach().requires_grad_(number == differentiable) for number, tensor in enumerate(case.tensors)]
    output = cpu_sampling(inputs[0], case.shapes, inputs[1], inputs[2])
    (gradient,) = torch.autograd.grad(output.sum(), inputs[differentiable])
    (expected,) = torch.autograd.grad(plain_loop(*case).sum(), case.tensors[differentiable])
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_an_odd_number_of_channels() -> None:
    case = random_case([(5, 7), (3, 4)], channels=17)
    ours, theirs = cpu_sampling(*case), plain_loop(*case)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients(ours, case), gradients(theirs, case), rtol=1e-8, atol=1e-8)


def test_inference_mode_and_autocast() -> None:
    case = random_case([(5, 7), (3, 4)]).to(torch.bfloat16, torch.float32)
    expected = cpu_sampling(*case)
    with torch.inference_mode():
        assert torch.equal(cpu_sampling(*case), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cpu_sampling(*case), expected)


@pytest.mark.parametrize("wrong", ["cells", "heads", "levels", "images", "weights", "empty level"])
def test_shapes_that_do_not_match_are_refused(wrong: str) -> None:
    values, shapes, locations, weights = random_case([(5, 7), (3, 4)])
    changed: dict[str, tuple[Any, ...]] = {
        "cells": (values[:, 1:], shapes, locations, weights),
        "heads": (values[:, :, :1], shapes, locations, weights),
        "levels": (values[:, :35], shapes[:1], locations, weights),
        "images": (values[:1], shapes, locations, weights),
        "weights": (values, shapes, locations, weights[:, :2]),
        "empty level": (values, [(47, 1), (0, 5)], locations, weights),
    }
    with pytest.raises(ValueError, match="do not match levels of sizes"):
        cpu_sampling(*changed[wrong])


@pytest.mark.slow
@pytest.mark.parametrize("needs_gradient", [False, True])
def test_the_operators_pass_opcheck(needs_gradient: bool) -> None:
    case = random_case([(5, 7), (3, 4)]).to(torch.float32, torch.float32)
    tensors = [tensor.detach().requires_grad_(needs_gradient) for tensor in case.tensors]
    torch.library.opcheck(cpu._sampling, (*tensors, [5, 7, 3, 4]))
    gradient = torch.randn(2, 3, 8)
    torch.library.opcheck(cpu._backward, (gradient, *(tensor.detach() for tensor in tensors), [5, 7, 3, 4]))
