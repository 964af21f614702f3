"""Number formats of the network's matrix products."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Literal

import torch

from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.errors import PanformerError

Precision = Literal["fp32", "bf16", "fp16"]
PrecisionChoice = Literal["fp32", "bf16", "fp16", "fast"]
"""What a person may ask for; `fast` is bf16 where the device has it in hardware (docs/performance.md has the PQ)."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WORTH_IT = 1.3
"""bf16 has to be this many times as fast as fp32 in a matrix product to be the fast precision."""


def resolve_precision(choice: PrecisionChoice, process: Process) -> Precision:
    """The precision that `choice` means on the device of `process`; one for all processes.

    Raises:
        PanformerError: fp16 on a CPU, where it is computed in software.
    """
    if choice == "fp16" and process.device.type == "cpu":
        raise PanformerError("--precision fp16 needs a GPU: CPUs compute it in software; use bf16 or fp32")
    agreed: Precision = process.gather(fast_precision(process.device) if choice == "fast" else choice)[0]
    return agreed


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Inside, matrix products and convolutions on `device` are of this precision; weights stay as they are."""
    context: AbstractContextManager[None] = torch.autocast(
        device.type, DTYPES[precision], enabled=precision != "fp32", cache_enabled=True
    )
    return context


def fast_precision(device: torch.device) -> Precision:
    """bf16 where the device computes it in hardware, otherwise fp32. On a CPU a matrix product is timed, some 10 ms."""
    if device.type == "cuda":
        # Older GPUs emulate it, slowly, and torch counts that as support unless asked not to.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type != "cpu":
        return "fp32"
    return "bf16" if _product_seconds(torch.float32) > WORTH_IT * _product_seconds(torch.bfloat16) else "fp32"


@torch.inference_mode()
def _product_seconds(dtype: torch.dtype) -> float:
    """The best of five products of the size of a feed-forward's."""
    tokens, weights = torch.ones(1024, 256, dtype=dtype), torch.ones(1024, 256, dtype=dtype)
    seconds = []
    for _ in range(6):  # the first one warms up
        began = time.perf_counter()
        torch.nn.functional.linear(tokens, weights)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
