"""The precision of the network: fp32, bf16 or fp16."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Literal

import torch

from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.errors import PanformerError

Precision = Literal["fp32", "bf16", "fp16"]
PrecisionChoice = Literal["fp32", "bf16", "fp16", "fast"]
"""What a user can choose; `fast` is bf16 if the device supports it in hardware (docs/performance.md has the PQ)."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WORTH_IT = 1.3
"""`fast` chooses bf16 on a CPU only if a matrix product is this many times faster than in fp32."""


def resolve_precision(choice: PrecisionChoice, process: Process) -> Precision:
    """Return the precision that `choice` means on the device of `process`; all processes get the same.

    Raises:
        PanformerError: fp16 on a CPU, which emulates it in software.
    """
    check_device_supports(choice, process.device, "--precision fp16")
    agreed: Precision = process.gather(fast_precision(process.device) if choice == "fast" else choice)[0]
    return agreed


def check_device_supports(precision: PrecisionChoice, device: torch.device, option: str) -> None:
    """Raise PanformerError for fp16 on a CPU; `option` is how the user asked for it."""
    if precision == "fp16" and device.type == "cpu":
        raise PanformerError(f"{option} needs a GPU, since CPUs emulate it in software; use bf16 or fp32")


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which matrix products and convolutions on `device` use this precision."""
    context: AbstractContextManager[None] = torch.autocast(
        device.type, DTYPES[precision], enabled=precision != "fp32", cache_enabled=True
    )
    return context


def fast_precision(device: torch.device) -> Precision:
    """Return the fastest precision of the device. On a CPU this times matrix products, which takes about 10 ms."""
    if device.type == "cuda":
        # Older GPUs emulate bf16 slowly, which torch counts as support by default.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type != "cpu":
        return "fp32"
    return "bf16" if _product_seconds(torch.float32) > WORTH_IT * _product_seconds(torch.bfloat16) else "fp32"


@torch.inference_mode()
def _product_seconds(dtype: torch.dtype) -> float:
    """Return the best time of five matrix products of the size in a feed-forward layer."""
    tokens, weights = torch.ones(1024, 256, dtype=dtype), torch.ones(1024, 256, dtype=dtype)
    seconds = []
    for _ in range(6):  # the first one warms up
        began = time.perf_counter()
        torch.nn.functional.linear(tokens, weights)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
