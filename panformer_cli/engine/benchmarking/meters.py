"""Meters: time and FLOPs of a model's parts, peak memory, and the matrix rate of the machine."""

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
"""Return a reading that never decreases: seconds, or floating-point operations."""

SAMPLING_FLOPS = 10
"""FLOPs per sampled channel: four corners and the attention weight, a multiplication and an addition each."""

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Spread:
    """Median, minimum and quartiles of a measurement over several passes."""

    median: float
    least: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return cls(median, min(values), lower, upper)


class Edges(NamedTuple):
    """A meter's readings at a module's first start and last end, and the sum over all its calls."""

    begin: float
    end: float
    total: float


@contextmanager
def metered(modules: Mapping[str, nn.Module], read: Meter) -> Iterator[dict[str, Edges]]:
    """Call `read` at the start and end of each module; the yielded dict is filled while they run."""
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
    """Return a clock in seconds; for a GPU, it synchronizes the device first."""
    if device.type == "cpu":
        return time.perf_counter

    def read() -> float:
        torch.mps.synchronize() if device.type == "mps" else torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def _convolution_flops(
    images: Sequence[int], kernel: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    """Return the FLOPs of oneDNN's convolution from its shapes."""
    return int(conv_flop_count(list(images), list(kernel), list(out_shape), transposed=False))


_ALSO_COUNTED = {torch.ops.aten.mkldnn_convolution: _convolution_flops}
"""Operators that torch's counter does not know; token linears use this one (`models.layers.token_linear`)."""


@contextmanager
def flop_meter(model: nn.Module) -> Iterator[Meter]:
    """Yield a meter of the floating-point operations so far; a multiplication and an addition count as two.

    torch's `FlopCounterMode` counts matrix products, convolutions and attention. The sampling of deformable attention
    is counted by its formula, `SAMPLING_FLOPS` for each of (B, Q, C, levels, points). Norms, activations, softmax and
    resizing are not counted.
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
        model.requires_grad_(False)  # in inference mode the counter fails on parameters that require gradients
        with FlopCounterMode(display=False, custom_mapping=_ALSO_COUNTED) as counter:
            yield lambda: float(counter.get_total_flops() + sampling)
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trained:
            parameter.requires_grad_(True)


class PeakMemory:
    """Peak memory since `reset`: tensors on a GPU, or the whole process on the CPU.

    Attributes:
        kind: What the peak memory includes, in words.
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
        """Reset the peak, if the system supports it."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._forget_peak()

    def mib(self) -> float | None:
        """Return the peak in MiB; None if the system does not report it."""
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
    """Return rows, inputs and outputs of the product in `matrix_rate`: as an encoder linear, but larger on a GPU."""
    return (8192, 4096, 4096) if device.type == "cuda" else (4096, 256, 1024)


def matrix_rate(device: torch.device, dtype: torch.dtype, repeat: int = 5) -> float:
    """Return the machine's peak rate in FLOP/s: the best of `repeat` runs of each implementation of a product."""
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
    """Return implementations of a product of random matrices; the result is (rows, outputs).

    On the CPU, torch uses different libraries for linears and convolutions, and either may be twice as fast as the
    other. With channels last, a 1x1 convolution is the same product.
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
    """Return the model name of a GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()
