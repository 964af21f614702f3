"""The Triton kernels, compared with `grid_sampling` in float64: in triton's interpreter, and on a GPU if there is one.

The interpreter is enabled when triton is imported, so these tests run this file as a script in a subprocess.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from panformer_cli.models.layers.common import LevelShapes
from panformer_cli.models.layers.sampling import DeformableSampling
from panformer_cli.models.layers.sampling import triton as ours
from panformer_cli.models.layers.sampling.operator import check_shapes
from panformer_cli.models.layers.sampling.portable import grid_sampling
from tests.conftest import REPOSITORY
from tests.helpers import made_once
from tests.test_imports import imported_at_load, parse

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs the package triton")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")

Inputs = tuple[Tensor, LevelShapes, Tensor, Tensor]
ODD: LevelShapes = [(5, 7), (3, 4), (1, 2), (1, 1)]
ENCODER: LevelShapes = [(100, 167), (50, 84), (25, 42), (13, 21)]
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-11, torch.float64: 1e-12}
"""Relative tolerance. In 16 bits it allows only for rounding the result (the interpreter truncates bfloat16, a GPU
rounds), because sums must be in float32."""


@dataclass(frozen=True)
class Case:
    """Random inputs. A location can be up to `beyond` cells outside its level."""

    shapes: LevelShapes
    dim: int = 32
    points: int = 4
    queries: int = 9
    heads: int = 2
    batch: int = 2
    beyond: int = 1
    values: torch.dtype = torch.float32
    weights: torch.dtype = torch.float32
    invalid: bool = False

    def inputs(self, device: str = "cpu") -> Inputs:
        generator = torch.Generator().manual_seed(7)
        length = sum(height * width for height, width in self.shapes)
        values = torch.randn(self.batch, length, self.heads, self.dim, generator=generator)
        shape = (self.batch, self.queries, self.heads, len(self.shapes), self.points)
        locations = torch.stack([self._coordinate(shape, side, generator) for side in (1, 0)], -1)
        if self.invalid:
            for number, coordinate in enumerate([math.nan, math.inf, -math.inf, 1e30, -1e30]):
                locations.view(-1)[3 * number :: 17] = coordinate
        weights = torch.randn(shape, generator=generator)
        leaves = (values.to(self.values), locations.to(self.weights), weights.to(self.weights))
        values, locations, weights = (leaf.to(device).requires_grad_() for leaf in leaves)
        return values, self.shapes, locations, weights

    def _coordinate(self, shape: tuple[int, ...], side: int, generator: torch.Generator) -> Tensor:
        """Return coordinates at least 0.05 cells from a cell's center, where the gradient of the location jumps."""
        size = torch.tensor([level[side] for level in self.shapes])[:, None]
        cell = (torch.rand(shape, generator=generator) * (size + 1 + 2 * self.beyond)).floor() - 1 - self.beyond
        return (cell + 0.55 + 0.9 * torch.rand(shape, generator=generator)) / size


CASES = {
    "four levels of odd sizes": Case(ODD),
    "many points outside": Case(ODD[:2], beyond=4),
    "NaN, infinite and very distant locations": Case(ODD[:2], invalid=True),
    "one level": Case([(4, 9)], queries=4),
    "20 channels, three levels of three points": Case(ODD[:3], dim=20, points=3, queries=4),
    "64 channels": Case(ODD[:2], dim=64, queries=3),
    "a level of one cell, one query, one point": Case([(1, 1)], dim=2, points=1, queries=1, heads=1, batch=1),
    "no queries": Case(ODD, queries=0),
    "bfloat16 values": Case(ODD, queries=3, values=torch.bfloat16),
    "float16 values": Case(ODD, queries=3, values=torch.float16),
    "float64": Case(ODD[:2], queries=3, values=torch.float64, weights=torch.float64),
    "float16 everywhere": Case(ODD[1:], dim=20, queries=3, values=torch.float16, weights=torch.float16),
}


def outcome(sampling: DeformableSampling, inputs: Inputs) -> list[Tensor]:
    """Return the output and the gradients of values, locations and weights, for a random gradient of the output."""
    values, _, locations, weights = inputs
    output = sampling(*inputs)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(8)).bfloat16().to(output)
    return [output.detach(), *torch.autograd.grad(output, (values, locations, weights), direction)]


def expected(inputs: Inputs) -> list[Tensor]:
    """Return the outcome of the portable sampling in float64, with invalid locations moved outside."""
    values, shapes, locations, weights = inputs
    locations = torch.where(locations.isfinite() & (locations.abs() < 1e6), locations, 5.0)
    values, locations, weights = (leaf.detach().double().requires_grad_() for leaf in (values, locations, weights))
    return outcome(grid_sampling, (values, shapes, locations, weights))


def assert_outcome(actual: list[Tensor], inputs: Inputs, tolerance: float = 1e-5) -> None:
    values, _, locations, weights = inputs
    for mine, other, like in zip(actual, expected(inputs), (values, values, locations, weights), strict=True):
        assert mine.dtype == like.dtype
        largest = other.abs().max().item() if other.numel() else 0.0
        atol = (1e-12 if values.dtype == torch.float64 else tolerance) * max(largest, 1.0)
        torch.testing.assert_close(mine.double(), other, rtol=ROUNDING[mine.dtype], atol=atol)


def interpret(file: Path) -> None:
    """Write the outcome of every case to `file`, and run the checks that need the interpreter."""
    ours.ENOUGH_PROGRAMS = 4  # several queries per program, as on a large image
    outcomes = {name: outcome(ours.triton_sampling, case.inputs()) for name, case in CASES.items()}
    compiled = torch.compile(ours.triton_sampling, fullgraph=True, dynamic=True, backend="aot_eager")
    for shapes in (ODD[:2], ODD[1:3]):
        outcomes[f"compiled {shapes}"] = outcome(compiled, Case(shapes, dim=4, queries=3).inputs())
    values, shapes, locations, weights = Case(ODD[:2], dim=4, queries=3).inputs()
    torch.library.opcheck(ours._sampling, (values, locations, weights, [side for shape in shapes for side in shape]))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        outcomes["inference"] = [ours.triton_sampling(values, shapes, locations, weights)]
    torch.save(outcomes, file)


@pytest.fixture(scope="module")
def interpreted(request: pytest.FixtureRequest) -> dict[str, list[Tensor]]:
    """Return the outcomes in the interpreter, by name of the case."""
    outcomes: dict[str, list[Tensor]] = torch.load(made_once(request, "interpreted.pt", in_interpreter))
    return outcomes


def in_interpreter(file: Path) -> None:
    """Run `interpret` in a process with triton's interpreter."""
    command = [sys.executable, "-W", "ignore", "-m", __name__, str(file)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_the_portable_implementation(
    interpreted: dict[str, list[Tensor]], name: str
) -> None:
    assert_outcome(interpreted[name], CASES[name].inputs())


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("shapes", [ODD[:2], ODD[1:3]], ids=str)
def test_one_compiled_graph_for_all_sizes_gives_the_same_results(
    interpreted: dict[str, list[Tensor]], shapes: LevelShapes
) -> None:
    assert_outcome(interpreted[f"compiled {shapes}"], Case(shapes, dim=4, queries=3).inputs())


@needs_triton
@pytest.mark.slow
def test_inference_mode_and_autocast_change_nothing(interpreted: dict[str, list[Tensor]]) -> None:
    sampled = expected(Case(ODD[:2], dim=4, queries=3).inputs())[0]
    torch.testing.assert_close(interpreted["inference"][0].double(), sampled, rtol=1e-5, atol=1e-5)


def test_the_expected_gradient_of_invalid_locations_is_zero() -> None:
    inputs = CASES["NaN, infinite and very distant locations"].inputs()
    invalid = ~(inputs[2].isfinite() & (inputs[2].abs() < 1e6))
    assert invalid.any() and not invalid.all()
    assert not expected(inputs)[2][invalid].any()


def test_a_missing_triton_or_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ours.obstacle.cache_clear()
    monkeypatch.setattr(ours, "find_spec", lambda name: object())
    assert ours.obstacle() == "torch finds no GPU"
    ours.obstacle.cache_clear()
    monkeypatch.setattr(ours, "find_spec", lambda name: None)
    assert ours.obstacle() == "the package triton is not installed"
    assert not ours.available()
    ours.obstacle.cache_clear()


def test_shapes_that_do_not_match_are_refused() -> None:
    values, shapes, locations, weights = Case(ODD).inputs()
    with pytest.raises(ValueError, match="do not match levels"):
        check_shapes(values[:, 1:], locations, weights, [side for shape in shapes for side in shape])
    with pytest.raises(ValueError, match="do not match levels"):
        check_shapes(values, locations[:, 1:], weights, [side for shape in shapes for side in shape])
    check_shapes(values, locations, weights, [side for shape in shapes for side in shape])


def test_its_file_can_be_imported_without_triton() -> None:
    names = set(imported_at_load(parse(Path(ours.__file__))))
    assert not {name for name in names if "triton" in name}


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", ["forward_kernel", "backward_kernel"])
def test_the_kernels_compile_for_gpus_and_read_16_bytes_at_a_time(
    name: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton: Any = pytest.importorskip("triton", minversion="3.3")
    backends: Any = pytest.importorskip("triton.backends.compiler")
    from panformer_cli.models.layers.sampling import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel: Any = getattr(triton_kernels, name)
    constants = {"HEADS": 8, "D": 32, "LEVELS": 4, "POINTS": 4, "ROWS": 16, "COLUMNS": 32, "DOUBLE": False}
    tensors = kernel.arg_names[: kernel.arg_names.index("length")]
    signature = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(tensors, "*fp32") | {"levels": "*i32"}
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = {(number,): [["tt.divisibility", 16]] for number in range(len(tensors))}
    source = triton.compiler.ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": 1 if name == "forward_kernel" else 2, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=backends.GPUTarget("cuda", capability, 32), options=options)
    assert "ld.global.v4.b32" in compiled.asm["ptx"]
    assert len(compiled.asm["cubin"]) > 1000


def on_gpu(case: Case) -> Inputs:
    return case.inputs("cuda")


@pytest.mark.gpu
@needs_gpu
def test_it_is_available_on_a_gpu() -> None:
    assert ours.obstacle() == ""


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_equals_the_portable_implementation(name: str) -> None:
    inputs = on_gpu(CASES[name])
    assert_outcome(outcome(ours.triton_sampling, inputs), inputs)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_equals_the_portable_implementation_at_the_size_of_the_encoder(dtype: torch.dtype) -> None:
    inputs = on_gpu(Case(ENCODER, queries=22223, heads=8, values=dtype))
    assert_outcome(outcome(ours.triton_sampling, inputs), inputs, tolerance=3e-5)


@pytest.mark.gpu
@needs_gpu
def test_torch_compile_without_graph_breaks_on_a_gpu() -> None:
    compiled = torch.compile(ours.triton_sampling, fullgraph=True, dynamic=True)
    for shapes in (ODD, ENCODER[2:] + ODD[:2]):
        inputs = on_gpu(Case(shapes))
        assert_outcome(outcome(compiled, inputs), inputs)


@pytest.mark.gpu
@needs_gpu
def test_autocast_and_inference_mode_change_nothing_on_a_gpu() -> None:
    inputs = on_gpu(Case(ODD))
    plain = ours.triton_sampling(*inputs)
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        torch.testing.assert_close(ours.triton_sampling(*inputs), plain, rtol=0, atol=0)


@pytest.mark.gpu
@needs_gpu
def test_a_batch_can_have_more_than_2_31_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    values, shapes, locations, weights = on_gpu(Case([(512, 512)], heads=8, batch=1, values=torch.bfloat16))
    alone = outcome(ours.triton_sampling, (values, shapes, locations, weights))
    many, locations, weights = (
        torch.cat([torch.zeros_like(leaf).expand(32, *leaf.shape[1:]), leaf]).detach().requires_grad_()
        for leaf in (values, locations, weights)
    )
    assert many[:-1].numel() >= 2**31
    last = outcome(lambda *inputs: ours.triton_sampling(*inputs)[-1:], (many, shapes, locations, weights))
    for mine, other in zip(last, alone, strict=True):
        torch.testing.assert_close(mine[-1:], other, rtol=2.0**-7, atol=1e-4)


if __name__ == "__main__":
    interpret(Path(sys.argv[1]))
