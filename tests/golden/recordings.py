"""The recordings, and the table of differences from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]


class Recording:
    """One pair of `<name>.npz` and `<name>.json`.

    Of a large tensor only every `stride`-th value is stored. The JSON contains the stride and the complete shape.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.arrays = np.load(folder / f"{name}.npz")
        self.notes: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())

    def distance(self, name: str, ours: Tensor) -> float:
        """Return the largest difference divided by the largest recorded value."""
        note = self.notes[name]
        assert list(ours.squeeze().shape) == [side for side in note["shape"] if side != 1], name
        return relative(ours.detach().reshape(-1)[:: note.get("stride", 1)].numpy(), self.arrays[name])

    def __contains__(self, name: str) -> bool:
        return name in self.arrays


def relative(ours: Array, theirs: Array) -> float:
    """Return the largest difference divided by the largest value of `theirs`."""
    theirs = theirs.reshape(-1).astype(np.float64)
    largest = max(float(np.abs(theirs).max(initial=0.0)), 1e-12)
    return float(np.abs(ours.reshape(-1).astype(np.float64) - theirs).max(initial=0.0)) / largest


def recorded_inputs(folder: Path) -> dict[str, Tensor]:
    """Return three normalized images, (3, H, W), by name."""
    arrays = np.load(folder / "inputs.npz")
    return {name.split(".")[0]: torch.from_numpy(arrays[name]) for name in arrays.files if name.endswith(".input")}


class FidelityTable:
    """Measured differences: one row per stage, one column per recording. `measure` asserts the limit of each cell."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], tuple[float, float]] = {}  # difference and limit by stage and recording

    def measure(self, stage: str, recording: str, differences: dict[str, float] | float, limit: float) -> None:
        """Record the largest of `differences`, and fail if one is above `limit`."""
        given = differences if isinstance(differences, dict) else {stage: differences}
        assert given, f"{stage}: nothing was compared"
        before, _ = self.cells.get((stage, recording), (0.0, limit))
        self.cells[stage, recording] = max(before, *given.values()), limit
        too_far = {name: value for name, value in given.items() if not value <= limit}
        worst = dict(sorted(too_far.items(), key=lambda item: -item[1])[:5])
        assert not too_far, f"{recording}, {stage}: {len(too_far)} above {limit:g}, the worst: {worst}"

    def markdown(self, recordings: list[str]) -> str:
        """Return a table with a row for every stage in these columns, in the order of measurement."""
        lines = [f"| stage | {' | '.join(recordings)} | limit |", "| --- |" + " --- |" * (len(recordings) + 1)]
        for stage in dict.fromkeys(stage for stage, column in self.cells if column in recordings):
            row = [self.cells.get((stage, column)) for column in recordings]
            limits = sorted({limit for _, limit in filter(None, row)})
            cells = [_number(cell[0]) if cell else "" for cell in row]
            lines.append(f"| {stage} | {' | '.join(cells)} | {' to '.join(map(_number, limits))} |")
        return "\n".join(lines)


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-")
