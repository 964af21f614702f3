"""Import timm without torch's compiler, `torch._dynamo`: that takes half of the import, and predictions do not need it.

Two lines import the compiler: torchvision takes a function from it that `roi_align` calls, and models of timm decorate
functions with `torch.compiler.disable`. During the import both find a stand-in that imports the compiler when it is
called. The modules of this folder take `timm` from here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

_COMPILER = "torch._dynamo"


def _is_compile_supported(device: Any) -> Any:
    """Stand in for `torch._dynamo.utils.is_compile_supported`."""
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device)


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, **_: Any) -> Any:
    """Stand in for `torch.compiler.disable`, as torch's own modules do."""
    from torch._compile import _disable_dynamo

    disable: Any = _disable_dynamo
    return disable(function, recursive)


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Replace what torchvision and timm import from the compiler, unless it is imported already."""
    if _COMPILER in sys.modules:
        yield
        return
    package, utils = ModuleType(_COMPILER), ModuleType(f"{_COMPILER}.utils")
    package.__path__ = []
    vars(utils)["is_compile_supported"] = _is_compile_supported
    disable = torch.compiler.disable
    stand_ins = {module.__name__: module for module in (package, utils)}
    sys.modules.update(stand_ins)
    vars(torch.compiler)["disable"] = _disable
    try:
        yield
    finally:
        vars(torch.compiler)["disable"] = disable
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


with suppress(Exception), _without_compiler():  # another release may need more of the compiler
    import_module("torchvision")  # first, because timm does without parts of it that cannot be imported
    import_module("timm")
import timm  # noqa: E402

__all__ = ["timm"]
