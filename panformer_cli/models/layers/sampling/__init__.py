"""The inner step of deformable attention: its implementations, and the choice between them."""

from __future__ import annotations

from importlib import import_module
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from panformer_cli.errors import PanformerError
from panformer_cli.models.layers.common import LevelShapes
from panformer_cli.models.layers.sampling.portable import gather_sampling, grid_sampling

SamplingName = Literal["auto", "portable", "gather", "cpu", "triton"]
"""portable: `grid_sample`. gather: plain indexing, for export. cpu: loops compiled by numba. triton: for CUDA.
auto: `cpu` or `triton`, as fits the tensors' device, where it can be had, otherwise `portable`."""


class DeformableSampling(Protocol):
    """The inner step of deformable attention: what every implementation has to fill."""

    def __call__(self, values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum of bilinear samples of every level, with gradients of values, locations and weights.

        values: (B, L, heads, D), the levels' cells one after the other, row by row; L = sum of H x W over `shapes`.
        locations: (B, Q, heads, levels, points, 2), x and y in 0..1 of each level (0, 0 is the outer corner of the
            first cell, not its centre). Outside of 0..1 the value is 0 (bilinear with zeros beyond the border).
        weights: (B, Q, heads, levels, points).
        Returns (B, Q, heads * D) in the dtype of the values; half precision is summed in float32. Locations and weights
        may be float32 where values are of half precision.
        """


def sampling_named(name: SamplingName) -> DeformableSampling:
    """Return the implementation of this name; `auto` chooses for every call by the device of the tensors.

    Raises:
        PanformerError: there is no such name, or the implementation cannot be used on this machine.
    """
    if name not in get_args(SamplingName):
        raise PanformerError(f"unknown sampling {name!r}; choose one of {', '.join(get_args(SamplingName))}")
    obstacle = _obstacle(name)
    if obstacle:
        raise PanformerError(f"sampling {name!r} cannot be used here, because {obstacle}; choose 'auto'")
    return fastest_sampling if name == "auto" else _implementation(name)


def fastest_sampling(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`DeformableSampling` by the fastest implementation for the device of the tensors."""
    return _implementation(_fastest(values.device.type))(values, shapes, locations, weights)


def check_sampling(name: SamplingName, device: str) -> None:
    """Raise PanformerError where the implementation is for another type of device than `device`."""
    own_device = {"cpu": "cpu", "triton": "cuda"}.get(name, device)
    if device != own_device:
        raise PanformerError(f"sampling {name!r} is for {own_device}, and the model is on {device}; choose 'auto'")


def _implementation(name: SamplingName) -> DeformableSampling:
    if name == "gather":
        return gather_sampling
    if name == "cpu":
        from panformer_cli.models.layers.sampling.cpu import cpu_sampling

        return cpu_sampling
    if name == "triton":
        from panformer_cli.models.layers.sampling.triton import triton_sampling

        return triton_sampling
    return grid_sampling


def _fastest(device: str) -> SamplingName:
    if device == "cpu" and not _obstacle("cpu"):
        return "cpu"
    if device == "cuda" and not _obstacle("triton"):
        return "triton"
    return "portable"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch.compile need not look into imports
def _obstacle(name: SamplingName) -> str:
    """Why an implementation cannot be used here; empty where it can. The first answer takes a while."""
    if name == "cpu":
        try:
            import_module("numba")
        except (ImportError, OSError) as error:  # OSError: a library that belongs to it cannot be loaded
            return f"numba cannot be imported ({error})"
    if name == "triton":
        from panformer_cli.models.layers.sampling.triton import obstacle

        return obstacle()
    return ""
