"""The buffers that training changes."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Return the buffers of all BatchNorms that are not frozen. The model must be in training mode."""
    norms = (module for module in model.modules() if isinstance(module, _NormBase) and module.training)
    return [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
