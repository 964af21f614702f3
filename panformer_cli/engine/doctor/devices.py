"""The processors that models can run on, and the implementations of deformable attention for each."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panformer_cli.engine.doctor.finding import Finding, examined

if TYPE_CHECKING:
    from panformer_cli.models.layers.sampling import SamplingName

_SECONDS = 10.0
"""How long another program may take to answer."""
_GIB = 2**30


def devices() -> Iterator[Finding]:
    """Examine the CPU, GPUs of NVIDIA and Apple, and which device is used by default."""
    yield from examined("Devices", "CPU", _cpu)
    yield from examined("Devices", "CUDA", _cuda)
    yield from examined("Devices", "MPS", _mps)
    yield from examined("Devices", "default", _default)


def kernels() -> Iterator[Finding]:
    """Examine which implementations of deformable attention can be used here, and which one `auto` picks."""
    import torch

    from panformer_cli.models.layers.sampling import fastest_name

    device = default_device()
    picked = fastest_name(device.type)
    yield Finding("Kernels", "--sampling auto", "ok", f"uses {picked}, since the default device is {device.type}")
    yield _kernel("cpu", "loops compiled by numba, for the CPU", "numba", is_usual=True)
    yield _kernel("triton", "Triton kernels, for CUDA", "triton", is_usual=torch.cuda.is_available())
    yield Finding("Kernels", "portable", "ok", "PyTorch's grid_sample, for any device")


def _kernel(name: SamplingName, what: str, package: str, is_usual: bool) -> Finding:
    """Return whether an implementation can be used; `is_usual` is whether this machine should have it."""
    from panformer_cli.models.layers.sampling import obstacle

    reason = obstacle(name)
    if not reason:
        return Finding("Kernels", name, "ok", what)
    if not is_usual:
        return Finding("Kernels", name, "missing", reason)
    return Finding("Kernels", name, "warning", reason, f"pip install --force-reinstall {package}")


def default_device() -> Any:
    """Return the torch device that commands use if they get no option."""
    from panformer_cli.engine.distributed.runtime import ProcessOptions, device_of

    return device_of(ProcessOptions())


def _cpu() -> Iterator[Finding]:
    from panformer_cli.data.parallel import available_cores

    memory = _memory()
    parts = [_cpu_name(), f"{available_cores()} of {os.cpu_count()} cores usable"]
    yield Finding("Devices", "CPU", "ok", ", ".join([*parts, *([memory] if memory else [])]))


def _cpu_name() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / _GIB:.1f} GiB of memory"
    except (AttributeError, ValueError, OSError):  # not on this system
        return ""


def _cuda() -> Iterator[Finding]:
    import torch

    driver = _nvidia_driver()
    if not torch.cuda.is_available():
        if driver is None:
            built = (
                f"this PyTorch is built for CUDA {torch.version.cuda}"
                if torch.version.cuda
                else "this is the CPU build of PyTorch"
            )
            yield Finding("Devices", "CUDA", "missing", f"no GPU of NVIDIA found; {built}")
        elif torch.version.cuda is None:
            found = f"driver {driver} is installed, but this PyTorch was built without CUDA"
            yield Finding("Devices", "CUDA", "warning", found, "pip install --force-reinstall torch torchvision")
        else:
            found = f"PyTorch, built for CUDA {torch.version.cuda}, cannot use the GPU with driver {driver}"
            advice = "install a newer driver, or a PyTorch for an older CUDA: https://pytorch.org/get-started/locally"
            yield Finding("Devices", "CUDA", "warning", found, advice)
        return
    yield Finding("Devices", "CUDA", "ok", f"{torch.version.cuda}, driver {driver or 'unknown'}")
    for index in range(torch.cuda.device_count()):
        yield from examined("Devices", f"cuda:{index}", partial(_gpu, index))


def _gpu(index: int) -> Iterator[Finding]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    capability = f"compute capability {properties.major}.{properties.minor}"
    memory = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    yield Finding("Devices", f"cuda:{index}", "ok", f"{properties.name}, {memory}, {capability}")


def _nvidia_driver() -> str | None:
    """Return the version of NVIDIA's driver; None without a driver or a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)


def _mps() -> Iterator[Finding]:
    import torch

    if platform.system() != "Darwin":
        return
    available = torch.backends.mps.is_available()
    found = "available" if available else "not available: needs an Apple chip, macOS 12.3 and a PyTorch built for it"
    yield Finding("Devices", "MPS", "ok" if available else "missing", found)


def _default() -> Iterator[Finding]:
    import torch

    from panformer_cli.engine.precision import fast_precision

    device = default_device()
    found = f"{device}, {torch.get_num_threads()} threads; --fast uses {fast_precision(device)}"
    yield Finding("Devices", "default", "ok", found)
