"""Images from other libraries as (H, W, 3) uint8 RGB: NumPy arrays, PyTorch tensors and Pillow's images."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from panformer_cli.data.images import from_pillow
from panformer_cli.data.structures import ImageArray
from panformer_cli.errors import DataError

ColorOrder = Literal["rgb", "bgr"]
"""Order of the channels of arrays and tensors. Files and Pillow's images know their own."""

_CHANNELS = (1, 3, 4)
"""Gray; red, green and blue; the same with alpha, which is ignored."""


def check_color(color: str) -> None:
    """Raise DataError unless `color` is a `ColorOrder`."""
    if color not in get_args(ColorOrder):
        raise DataError(f"color is {color!r}; expected 'rgb', or 'bgr' for arrays from OpenCV")


def is_array(value: object) -> bool:
    """Return whether a value is an array, a tensor or an image of Pillow, or can become an array."""
    return isinstance(value, (np.ndarray, torch.Tensor, Image.Image)) or hasattr(value, "__array__")


def image_of(value: Any, where: str = "the image", color: ColorOrder = "rgb") -> ImageArray:
    """Return an image as a new array, (H, W, 3) uint8 RGB, C-contiguous. The input is not changed.

    Args:
        value: One of
            - a `PIL.Image.Image` of any mode with at most 8 bits, or 16 bits of gray. Its EXIF orientation is applied.
            - a uint8 array, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), with any strides.
            - a uint8 tensor on any device, (C, H, W) as in torchvision, (H, W) or (H, W, C).
            Gray is repeated to three channels, and alpha is ignored.
        where: Name of the image in errors.
        color: Order of the channels of arrays and tensors.

    Raises:
        DataError: Another dtype, such as floats in 0..1, or another shape.

    Examples:
        >>> image_of(np.full((2, 3), 7, np.uint8)).shape
        (2, 3, 3)
        >>> image_of(np.uint8([[[1, 2, 3]]]), color="bgr").tolist()
        [[[3, 2, 1]]]
    """
    check_color(color)
    if isinstance(value, Image.Image):
        return from_pillow(value, where)
    if isinstance(value, torch.Tensor):
        array = _channels_last(_array_of(value, where))
    else:
        array = np.asarray(value)
        if array.dtype != np.uint8:
            raise _wrong_dtype(
                array, str(array.dtype), where, ("(array * 255).round().astype(np.uint8)", "array.astype(np.uint8)")
            )
    _check_shape(array, where)
    return _as_rgb(array, color)


def _array_of(tensor: torch.Tensor, where: str) -> npt.NDArray[np.uint8]:
    plain = tensor.detach().cpu()
    if plain.dtype == torch.uint8:
        return plain.numpy()
    values = plain.double() if plain.is_floating_point() else plain  # NumPy has no bfloat16
    conversions = ("(tensor * 255).round().to(torch.uint8)", "tensor.to(torch.uint8)")
    raise _wrong_dtype(values.numpy(), str(plain.dtype).removeprefix("torch."), where, conversions)


def _channels_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a tensor's (C, H, W) as (H, W, C); other shapes as they are."""
    return np.moveaxis(array, 0, -1) if array.ndim == 3 and array.shape[0] in _CHANNELS else array


def _as_rgb(array: npt.NDArray[Any], color: ColorOrder) -> ImageArray:
    if array.ndim == 2 or array.shape[2] == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    channels = array[..., :3] if color == "rgb" else array[..., 2::-1]
    return np.array(channels, np.uint8, order="C")  # a copy: the result must not change with the caller's array


def _wrong_dtype(array: npt.NDArray[Any], dtype: str, where: str, conversions: tuple[str, str]) -> DataError:
    """Return the error for values that are not uint8: their dtype and range, and how to convert them.

    Args:
        array: The values.
        dtype: Their dtype, in the words of their package.
        where: Name of the image.
        conversions: Code that converts values in 0..1, and code for values in 0..255.
    """
    expected = "expected uint8 with values from 0 to 255"
    if not array.size or array.dtype.kind not in "iufb":
        return DataError(f"{where} has the dtype {dtype}; {expected}")
    least, most = float(array.min()), float(array.max())
    advice = "the range of the values is not clear, so convert them to 0..255 first"
    if least >= 0 and most <= 255:
        is_share = array.dtype.kind in "fb" and most <= 1
        advice = f"if the range is {'0..1' if is_share else '0..255'}, use `{conversions[0 if is_share else 1]}`"
    return DataError(f"{where} has the dtype {dtype} with values from {least:g} to {most:g}; {expected}; {advice}")


def _check_shape(array: npt.NDArray[Any], where: str) -> None:
    shape = array.shape
    if 0 in shape:
        raise DataError(f"{where} has the shape {shape}, without a pixel; expected (H, W, 3)")
    if array.ndim == 2 or (array.ndim == 3 and shape[2] in _CHANNELS):
        return
    advice = "expected (H, W, 3)"
    if array.ndim == 4:
        advice += ", one image; pass a batch as a list, `list(batch)`"
    elif array.ndim == 3 and shape[0] in _CHANNELS:
        advice += "; move the channels to the end with `array.transpose(1, 2, 0)`"
    raise DataError(f"{where} has the shape {shape}; {advice}")
