"""Clouds by the diamond-square algorithm."""

from __future__ import annotations

import numpy as np

from panformer_cli.data.corruptions.pixels import Floats, Random


def plasma(side: int, decay: float, rng: Random) -> Floats:
    """A random landscape that continues at its opposite edges: (S, S) float32 from 0 to 1, S the next power of two.

    side: least S. decay: by how much the bumps get smaller each time they get shorter by half; 1 is rough, 3 smooth.
    """
    grid = np.zeros((1, 1), np.float32)
    amplitude = 100.0
    while len(grid) < max(side, 4):
        grid = _refined(grid, amplitude, rng)
        amplitude /= decay
    grid -= grid.min()
    return np.asarray(grid / grid.max())


def _refined(grid: Floats, amplitude: float, rng: Random) -> Floats:
    """The landscape at half the distance: every new point is the mean of four neighbours and a bump."""
    finer = np.empty((2 * len(grid), 2 * len(grid)), np.float32)
    corners = grid + np.roll(grid, -1, 0)
    corners += np.roll(corners, -1, 1)
    centres = _bumped(corners, amplitude, rng)
    across = (centres + np.roll(centres, 1, 0)) + (grid + np.roll(grid, -1, 1))
    upright = (centres + np.roll(centres, 1, 1)) + (grid + np.roll(grid, -1, 0))
    finer[::2, ::2], finer[1::2, 1::2] = grid, centres
    finer[::2, 1::2] = _bumped(across, amplitude, rng)
    finer[1::2, ::2] = _bumped(upright, amplitude, rng)
    return finer


def _bumped(sum_of_four: Floats, amplitude: float, rng: Random) -> Floats:
    bumps = amplitude * rng.uniform(-amplitude, amplitude, sum_of_four.shape)
    return np.asarray(sum_of_four / 4 + bumps, np.float32)
