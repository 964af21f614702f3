"""The inner step of deformable attention, and the choice of who computes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


_chosen: SamplingName = "auto"


def deformable_sampling(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`DeformableSampling` by whom `set_sampling` chose.

    Raises:
        PanformerError: the one chosen is for another device.
    """
    return sampling_on(values.device.type)(values, shapes, locations, weights)


def set_sampling(name: SamplingName) -> None:
    """Chooses who samples, in the whole process, from the next call on.

    Raises:
        PanformerError: there is no such name, or that one cannot be used here.
    """
    global _chosen
    if name not in get_args(SamplingName):
        raise PanformerError(f"unknown sampling {name!r}; choose one of {', '.join(get_args(SamplingName))}")
    obstacle = _obstacle(name)
    if obstacle:
        raise PanformerError(f"sampling {name!r} cannot be used here, because {obstacle}; choose 'auto'")
    _chosen = name


@contextmanager
def sampling_by(name: SamplingName) -> Iterator[None]:
    """As `set_sampling`, for a while."""
    before = _chosen
    set_sampling(name)
    try:
        yield
    finally:
        set_sampling(before)


def sampling_on(device: str) -> DeformableSampling:
    """Who samples tensors on this type of device.

    Raises:
        PanformerError: the one chosen is for another device.
    """
    name = _fastest(device) if _chosen == "auto" else _chosen
    if name == "portable":
        return grid_sampling
    if name == "gather":
        return gather_sampling
    own_device = "cpu" if name == "cpu" else "cuda"
    if device != own_device:
        raise PanformerError(f"sampling {name!r} is for {own_device}, and the model is on {device}; choose 'auto'")
    if name == "cpu":
        from panformer_cli.models.layers.sampling.cpu import cpu_sampling

        return cpu_sampling
    from panformer_cli.models.layers.sampling.triton import triton_sampling

    return triton_sampling


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
