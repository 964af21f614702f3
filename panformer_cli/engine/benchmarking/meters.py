"""Clocks and counters: the time and the arithmetic of a model's parts, the memory, and what the machine can do."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from panformer_cli.models.layers.deformable_attention import DeformableAttention

Meter = Callable[[], float]
"""A reading that only grows: seconds, or floating-point operations."""

SAMPLING_FLOPS = 10
"""Of one sampled channel: four corners and the attention weight, a multiplication and an addition each."""

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Spread:
    """How a figure is spread over several passes."""

    median: float
    least: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return cls(median, min(values), lower, upper)


class Edges(NamedTuple):
    """What a meter read when a module began first and ended last, and the sum over all its calls."""

    begin: float
    end: float
    total: float


@contextmanager
def metered(modules: Mapping[str, nn.Module], read: Meter) -> Iterator[dict[str, Edges]]:
    """Inside, `read` is called where each of the modules begins and ends; the result is filled as they run."""
    edges: dict[str, Edges] = {}
    begun: dict[str, float] = {}

    def begin(name: str) -> None:
        begun[name] = read()

    def end(name: str) -> None:
        now = read()
        before = edges.get(name, Edges(begun[name], now, 0.0))
        edges[name] = Edges(before.begin, now, before.total + now - begun[name])

    handles = [
        handle
        for name, module in modules.items()
        for handle in (
            module.register_forward_pre_hook(lambda *_, name=name: begin(name)),
            module.register_forward_hook(lambda *_, name=name: end(name)),
        )
    ]
    try:
        yield edges
    finally:
        for handle in handles:
            handle.remove()


def clock_of(device: torch.device) -> Meter:
    """Seconds; on a GPU, when all that was asked of it is done."""
    if device.type != "cuda":
        return time.perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def _convolution_flops(
    images: Sequence[int], kernel: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    """Of oneDNN's convolution, from shapes alone."""
    return int(conv_flop_count(list(images), list(kernel), list(out_shape), transposed=False))


_ALSO_COUNTED = {torch.ops.aten.mkldnn_convolution: _convolution_flops}
"""What torch's counter does not know; linears of tokens run through it (`models.layers.token_linear`)."""


@contextmanager
def flop_meter(model: nn.Module) -> Iterator[Meter]:
    """Inside, the result tells the floating-point operations so far; a multiplication and an addition are two.

    Counted are matrix products, convolutions and attention by torch's `FlopCounterMode`, and the sampling of
    deformable attention by its formula, `SAMPLING_FLOPS` for each of (B, Q, C, levels, points). Norms, activations,
    softmax and resizing are not.
    """
    sampling = 0

    def add_sampling(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal sampling
        assert isinstance(module, DeformableAttention)
        sampling += SAMPLING_FLOPS * output.numel() * module.levels * module.points

    attentions = [module for module in model.modules() if isinstance(module, DeformableAttention)]
    handles = [attention.register_forward_hook(add_sampling) for attention in attentions]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.requires_grad_(False)  # without gradients the counter cannot follow a parameter that wants one
        with FlopCounterMode(display=False, custom_mapping=_ALSO_COUNTED) as counter:
            yield lambda: float(counter.get_total_flops() + sampling)
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trained:
            parameter.requires_grad_(True)


class PeakMemory:
    """The most memory in use since `reset`: of the GPU, tensors only; on the CPU the whole process.

    Attributes:
        kind: which memory that is, in words.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            self.kind = "of tensors on the GPU"
        elif self._forget_peak():
            self.kind = "of the process, weights and libraries included"
        else:
            self.kind = "of the process since its start, weights and libraries included"

    def reset(self) -> None:
        """Begin anew, where the system allows it."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._forget_peak()

    def mib(self) -> float | None:
        """In MiB; None where the system does not tell."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        with suppress(OSError, StopIteration):
            lines = _STATUS.read_text(encoding="ascii").splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**10
        if sys.platform == "win32":
            return None
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

    def _forget_peak(self) -> bool:
        try:
            _CLEAR_REFS.write_text("5", encoding="ascii")  # man proc: resets the peak of the resident memory
        except OSError:
            return False
        return True


def matrix_shape(device: torch.device) -> tuple[int, int, int]:
    """Rows, inputs and outputs of the product that `matrix_rate` times: as an encoder's linear; on a GPU larger."""
    return (8192, 4096, 4096) if device.type == "cuda" else (4096, 256, 1024)


def matrix_rate(device: torch.device, dtype: torch.dtype, repeat: int = 5) -> float:
    """What the machine can do, in operations a second: the best of `repeat` times each way to compute a product."""
    rows, inputs, outputs = matrix_shape(device)
    read = clock_of(device)
    seconds = []
    with torch.inference_mode():
        for product in matrix_products(device, dtype):
            product()  # warms up
            for _ in range(repeat):
                begin = read()
                product()
                seconds.append(read() - begin)
    return 2 * rows * inputs * outputs / min(seconds)


def matrix_products(device: torch.device, dtype: torch.dtype) -> list[Callable[[], Tensor]]:
    """The ways to compute one product of random matrices, each (rows, outputs).

    On the CPU, torch has one library for linears and another for convolutions, and either may be twice as fast as the
    other; with channels last, a 1 x 1 convolution is the same product.
    """
    rows, inputs, outputs = matrix_shape(device)
    x = torch.randn(rows, inputs, device=device, dtype=dtype)
    weight = torch.randn(outputs, inputs, device=device, dtype=dtype)
    image = x.view(1, 64, -1, inputs).permute(0, 3, 1, 2)
    kernel = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)

    def linear() -> Tensor:
        return nn.functional.linear(x, weight)

    def convolution() -> Tensor:
        return nn.functional.conv2d(image, kernel)[0].permute(1, 2, 0).flatten(0, 1)

    return [linear, convolution] if device.type == "cpu" else [linear]


def device_name(device: torch.device) -> str:
    """As its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()
