"""A GPU without the hardware: tensors that have a shape, a dtype and the device `cuda`, but no data.

PyTorch's `FakeTensorMode` runs every operator on them as far as shapes, dtypes and devices go, and raises where the
tensors of one operation are on two devices. No kernel and no backward pass runs: these need real hardware.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

GPU = torch.device("cuda", 0)


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Inside, new tensors are fake, `module.to(GPU)` works, and `cpu().numpy()` gives zeros.

    Real tensors may be used too: they become fake tensors of the same device. Modules built under
    `torch.device("meta")`, before, cost no memory.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "to", _moved)
        patch.setattr(FakeTensor, "cpu", _zeros_like, raising=False)
        patch.setattr(FakeTensor, "tolist", _known_values)
        yield


def with_values(values: list[int]) -> Tensor:
    """Return fake int64 labels on the GPU whose `tolist()` is `values`."""
    labels = torch.zeros(len(values), dtype=torch.int64, device=GPU)
    labels.known_values = values  # type: ignore[attr-defined]
    return labels


@contextmanager
def autocast_on_gpu(dtype: torch.dtype) -> Iterator[None]:
    """As `torch.autocast("cuda", dtype)`, which disables itself on a machine without a GPU; float32: no autocast."""
    torch.set_autocast_enabled("cuda", dtype != torch.float32)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


def _moved(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace all parameters and buffers by fake tensors; what is neither stays on its device, as usual."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(_empty_like(parameter, device), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _empty_like(buffer, device)
    return module


def _empty_like(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


@dataclass(frozen=True)
class _Arrived:
    """A tensor on the CPU that is only read as an array, as inside the mode every real tensor becomes a fake one."""

    shape: tuple[int, ...]
    dtype: str

    def numpy(self) -> npt.NDArray[Any]:
        return np.zeros(self.shape, self.dtype)


def _zeros_like(tensor: Tensor) -> _Arrived:
    return _Arrived(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _known_values(tensor: Any) -> list[int]:
    values: list[int] = tensor.known_values
    return values
