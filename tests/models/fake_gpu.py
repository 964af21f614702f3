"""A simulated GPU: tensors with a shape, a dtype and the device `cuda`, but without data.

PyTorch's `FakeTensorMode` computes shapes, dtypes and devices for every operator, and raises an error if the tensors of
an operation are on different devices. Kernels and backward passes do not run; they need real hardware.
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
    """In this context new tensors are fake, `module.to(GPU)` works, and `cpu().numpy()` returns zeros.

    Real tensors can be used too: they become fake tensors on the same device. Build modules under
    `torch.device("meta")` before, so that they need no memory.
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
    """Like `torch.autocast("cuda", dtype)`, which disables itself without a GPU. float32 means no autocast."""
    torch.set_autocast_enabled("cuda", dtype != torch.float32)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


def _moved(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace all parameters and buffers by fake tensors. Other tensors stay on their device, as usual."""
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
class _HostTensor:
    """A CPU tensor that can only be read as an array, because in this mode every real tensor becomes fake."""

    shape: tuple[int, ...]
    dtype: str

    def numpy(self) -> npt.NDArray[Any]:
        return np.zeros(self.shape, self.dtype)


def _zeros_like(tensor: Tensor) -> _HostTensor:
    return _HostTensor(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _known_values(tensor: Any) -> list[int]:
    values: list[int] = tensor.known_values
    return values
