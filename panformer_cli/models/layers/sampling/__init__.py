"""Implementations of the inner step of deformable attention, and the choice between them."""

from __future__ import annotations

from importlib import import_module
from typing import Literal, Protocol, get_args

from torch import Tensor

from panformer_cli.errors import PanformerError
from panformer_cli.models.layers.common import LevelShapes
from panformer_cli.models.layers.sampling.portable import gather_sampling, grid_sampling

SamplingName = Literal["auto", "portable", "gather", "cpu", "triton"]
"""portable: `grid_sample`. gather: plain indexing, for export. cpu: loops compiled by numba. triton: for CUDA.
auto: `cpu` or `triton`, depending on the device of the tensors, if available; otherwise `portable`."""


class DeformableSampling(Protocol):
    """The interface of an implementation of the inner step of deformable attention."""

    def __call__(self, values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of bilinear samples from all levels, differentiable in all three tensors.

        Args:
            values: (B, L, heads, D), the cells of the levels concatenated, row by row; L = sum of H x W over `shapes`.
            shapes: height and width of each level.
            locations: (B, Q, heads, levels, points, 2), x and y in 0..1 of each level. (0, 0) is the outer corner of
                the first cell, not its center. Cells outside the level are zero. float32 is allowed with values in half
                precision.
            weights: (B, Q, heads, levels, points), in the dtype of `locations`.

        Returns:
            (B, Q, heads * D) in the dtype of the values. Half precision is summed in float32.
        """


def sampling_named(name: SamplingName) -> DeformableSampling:
    """Return the implementation with this name. `auto` chooses by the device of the tensors in every call.

    Raises:
        PanformerError: the name is unknown, or the implementation cannot be used on this machine.
    """
    if name not in get_args(SamplingName):
        raise PanformerError(f"unknown sampling {name!r}; expected one of {', '.join(get_args(SamplingName))}")
    obstacle = _obstacle(name)
    if obstacle:
        raise PanformerError(f"sampling {name!r} cannot be used on this machine: {obstacle}; use 'auto'")
    return fastest_sampling if name == "auto" else _implementation(name)


def fastest_sampling(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Run the fastest `DeformableSampling` for the device of the tensors."""
    return _implementation(_fastest(values.device.type))(values, shapes, locations, weights)


def fastest_name(device: str) -> SamplingName:
    """Return the name of the implementation that `auto` runs on this type of device, such as `cpu` or `cuda`."""
    return _fastest(device)


def obstacle(name: SamplingName) -> str:
    """Return why an implementation cannot be used on this machine; empty if it can. The first call is slow."""
    return _obstacle(name)


def check_sampling(name: SamplingName, device: str) -> None:
    """Raise a PanformerError if the implementation does not support this type of device."""
    own_device = {"cpu": "cpu", "triton": "cuda"}.get(name, device)
    if device != own_device:
        raise PanformerError(f"sampling {name!r} requires {own_device}, but the model is on {device}; use 'auto'")


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
    if device == "mps":  # its grid_sample has no backward pass in some versions of torch
        return "gather"
    return "portable"


def _obstacle(name: SamplingName) -> str:
    """Return why an implementation cannot be used on this machine; empty if it can. The first call is slow."""
    if name == "cpu":
        try:
            import_module("numba")
        except (ImportError, OSError) as error:  # OSError: one of its shared libraries cannot be loaded
            return f"numba cannot be imported ({error})"
    if name == "triton":
        from panformer_cli.models.layers.sampling.triton import obstacle

        return obstacle()
    return ""


# torch.compile must not trace imports. `torch.compiler.assume_constant_result` sets this attribute too, but it also
# imports torch's compiler, which takes a second of every command.
_obstacle._dynamo_marked_constant = True  # type: ignore[attr-defined]
