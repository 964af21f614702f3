"""torch's random state on one process."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's generators that a model on `device` uses, on the CPU, by device type."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device).cpu()
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state().cpu()
    return states


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what `random_state` returned; a generator without a saved state is left unchanged."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    elif "mps" in states and device.type == "mps":
        torch.mps.set_rng_state(states["mps"])
