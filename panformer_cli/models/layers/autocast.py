"""Reduced precision: tokens that many matrix products read are converted once, and parts that stay in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def cast_for_autocast(tokens: Tensor) -> Tensor:
    """Return the tokens in autocast's precision; unchanged without autocast or with gradients.

    Otherwise autocast would convert them again for every matrix product. With gradients it has to, so that the
    gradients are summed in float32.
    """
    device = tokens.device.type
    if torch.is_grad_enabled() or not torch.is_autocast_enabled(device):
        return tokens
    return tokens.to(torch.get_autocast_dtype(device))


def in_float32(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast, for the device of `tensor`. The inputs must be float32."""
    device = tensor.device.type
    # Without autocast, exporters have no context to trace.
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
