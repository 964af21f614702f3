"""Checkpoints in the format of the reference implementation, with one constant value per tensor."""

from __future__ import annotations

import io
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.golden.release import release_keys


def stub_state(variant: str) -> dict[str, Tensor]:
    """Return the state dict of a published checkpoint; each tensor is an expanded scalar, in memory and on disk."""
    state = {}
    for name, shape, kind in release_keys(variant):
        value = zlib.crc32(name.encode()) / 2**32 if kind == "float32" else 7
        state[name] = torch.tensor(value, dtype=getattr(torch, kind)).expand(shape)
    return state


def small_file(value: float = 0.0, numbers: int = 1000) -> bytes:
    """Return a valid weights file that fits no model; its size does not depend on `value`."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.full((numbers,), value)}, buffer)
    return buffer.getvalue()


def save_as_mmcv(state: Mapping[str, Tensor], path: Path, **options: Any) -> Path:
    """Write a checkpoint as MMCV 1.3 does and return `path`; `options` are passed to `torch.save`."""
    meta = {
        "epoch": 24,
        "iter": 354_912,
        "mmcv_version": "1.3.4",
        "time": "Thu Sep  2 05:31:28 2021",
        "config": "model = dict(type='PanSeg')\n",
        "CLASSES": ("person", "bicycle"),
        "hook_msgs": {"last_ckpt": "epoch_24.pth"},
    }
    momentum = {"step": 5, "exp_avg": torch.zeros(3)}
    optimizer = {"state": {0: momentum}, "param_groups": [{"lr": 1.4e-5, "betas": (0.9, 0.999), "params": [0]}]}
    torch.save({"meta": meta, "state_dict": OrderedDict(state), "optimizer": optimizer}, path, **options)
    return path
