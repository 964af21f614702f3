"""The precision of the network."""

from __future__ import annotations

import pytest
import torch

from panformer_cli.engine import precision
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.precision import Precision, autocast, fast_precision, resolve_precision
from panformer_cli.errors import PanformerError

CPU = torch.device("cpu")
ALONE = Process(0, 1, CPU)


@pytest.mark.parametrize(
    ("choice", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_sets_the_precision_of_products(choice: Precision, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(4, 4)
    with autocast(choice, CPU):
        assert layer(torch.ones(2, 4)).dtype == dtype
    assert layer(torch.ones(2, 4)).dtype == layer.weight.dtype == torch.float32


def test_fp16_on_a_cpu_is_rejected() -> None:
    with pytest.raises(PanformerError, match="fp16 needs a GPU, .*use bf16 or fp32"):
        resolve_precision("fp16", ALONE)


@pytest.mark.parametrize(("seconds", "expected"), [((1.0, 0.4), "bf16"), ((1.0, 0.9), "fp32"), ((1.0, 20.0), "fp32")])
def test_fast_is_bf16_where_it_is_faster(
    seconds: tuple[float, float], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = dict(zip((torch.float32, torch.bfloat16), seconds, strict=True))
    monkeypatch.setattr(precision, "_product_seconds", times.__getitem__)
    assert fast_precision(CPU) == resolve_precision("fast", ALONE) == expected


@pytest.mark.parametrize(("in_hardware", "expected"), [(True, "bf16"), (False, "fp16")])
def test_fast_on_a_gpu_is_not_an_emulated_precision(
    in_hardware: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return in_hardware or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert fast_precision(torch.device("cuda")) == expected


def test_a_product_is_timed_in_the_requested_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    linear = torch.nn.functional.linear

    def spy(tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        seen.add((tokens.dtype, weights.dtype))
        return linear(tokens, weights)

    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    assert 0 < precision._product_seconds(torch.bfloat16) < float("inf")
    assert seen == {(torch.bfloat16, torch.bfloat16)}


def test_all_processes_use_the_precision_of_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Process, "gather", lambda self, value: ["bf16", value])
    assert resolve_precision("fp32", Process(1, 2, CPU)) == "bf16"
