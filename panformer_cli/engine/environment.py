"""The environment that results depend on: versions, devices and threads."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import torch

from panformer_cli import __version__


def environment() -> dict[str, Any]:
    """Return versions, hardware and command line of this process, ready for JSON."""
    return {
        "panformer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "command": sys.argv,
    }
