"""Choice of the sampling implementation: by device, by name, and with missing dependencies."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from panformer_cli.errors import PanformerError
from panformer_cli.models.layers import sampling
from panformer_cli.models.layers.deformable_attention import DeformableAttention
from panformer_cli.models.layers.sampling import SamplingName, check_sampling, sampling_named, triton
from panformer_cli.models.layers.sampling.cpu import cpu_sampling
from panformer_cli.models.layers.sampling.portable import gather_sampling, grid_sampling
from tests.models.layers.sampling.plain_loop import plain_loop, random_case


@pytest.fixture(params=["installed", "missing"])
def numba(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "missing":
        monkeypatch.setitem(sys.modules, "numba", None)  # Python refuses to import it
    return str(request.param)


@pytest.fixture(params=["", "torch finds no GPU"])
def triton_obstacle(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(triton, "obstacle", lambda: request.param)
    return str(request.param)


def automatic(device: str) -> object:
    """The implementation that `auto` chooses for tensors on a device."""
    return sampling._implementation(sampling._fastest(device))


def test_auto_uses_compiled_loops_on_a_cpu_with_numba(numba: str) -> None:
    assert automatic("cpu") is (cpu_sampling if numba == "installed" else grid_sampling)


def test_auto_uses_triton_on_cuda_if_available(triton_obstacle: str) -> None:
    assert automatic("cuda") is (grid_sampling if triton_obstacle else triton.triton_sampling)


def test_auto_uses_gather_on_apples_gpus_and_portable_elsewhere() -> None:
    assert automatic("mps") is gather_sampling
    assert automatic("meta") is grid_sampling


def test_cpu_requires_numba(numba: str) -> None:
    if numba == "installed":
        assert sampling_named("cpu") is cpu_sampling
        return
    with pytest.raises(PanformerError, match=r"'cpu' cannot be used on this machine: numba .* \(.*\); use 'auto'"):
        sampling_named("cpu")


def test_triton_requires_a_gpu(triton_obstacle: str) -> None:
    if not triton_obstacle:
        assert sampling_named("triton") is triton.triton_sampling
        return
    with pytest.raises(PanformerError, match="'triton' cannot be used on this machine: torch finds no GPU; use 'auto'"):
        sampling_named("triton")


@pytest.mark.parametrize(("name", "device"), [("cpu", "cuda"), ("triton", "cpu")])
def test_an_implementation_for_another_device_is_refused(name: Any, device: str) -> None:
    with pytest.raises(PanformerError, match=f"'{name}' requires .*, but the model is on {device}"):
        check_sampling(name, device)


@pytest.mark.parametrize(("name", "device"), [("auto", "mps"), ("gather", "cuda"), ("cpu", "cpu"), ("triton", "cuda")])
def test_an_implementation_for_this_device_is_accepted(name: Any, device: str) -> None:
    check_sampling(name, device)


def test_an_unknown_name_is_refused_with_the_known_names() -> None:
    name: Any = "fastest"
    with pytest.raises(PanformerError, match="unknown sampling 'fastest'; expected one of auto, portable, gather, cpu"):
        sampling_named(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auto", "portable", "gather", "cpu"])
def test_every_implementation_equals_the_plain_loop(name: SamplingName) -> None:
    case = random_case([(5, 7), (3, 4)])
    torch.testing.assert_close(sampling_named(name)(*case), plain_loop(*case), rtol=1e-9, atol=1e-9)


def test_each_attention_has_its_own_implementation() -> None:
    """Two models in one process can use different implementations."""
    first, second = (
        DeformableAttention(8, heads=2, levels=1, points=3, sampling=sampling_named(name)) for name in ("gather", "cpu")
    )
    assert first.sampling is gather_sampling
    assert second.sampling is cpu_sampling


def test_attention_runs_on_the_meta_device() -> None:
    with torch.device("meta"):
        attention = DeformableAttention(8, heads=2, levels=1, points=3)
        arguments = torch.empty(1, 4, 8), torch.empty(1, 4, 1, 2), torch.empty(1, 6, 8)
        attended = attention(*arguments, [(2, 3)], torch.zeros(1, 6, dtype=torch.bool))
    assert attended.shape == (1, 4, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auto", "gather"])
def test_torch_compile_and_export_use_the_implementation(name: SamplingName) -> None:
    values, shapes, locations, weights = random_case([(5, 7), (3, 4)])
    chosen = sampling_named(name)

    class Sampling(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return chosen(tensors[0], shapes, *tensors[1:])

    tensors = values.detach(), locations.detach(), weights.detach()
    expected = plain_loop(values, shapes, locations, weights)
    compiled = torch.compile(Sampling(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), expected, rtol=1e-9, atol=1e-9)
    exported = torch.export.export(Sampling(), tensors)
    operators = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert ("panformer.deformable_sampling.default" in operators) == (name == "auto")
    assert not any("grid_sampler" in operator for operator in operators)
    torch.testing.assert_close(exported.module()(*tensors), expected, rtol=1e-9, atol=1e-9)


def test_the_compiler_does_not_trace_the_search_for_obstacles() -> None:
    def marked() -> None: ...

    assert vars(torch.compiler.assume_constant_result(marked)) == vars(sampling._obstacle)
