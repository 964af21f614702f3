"""Clouds by the diamond-square algorithm."""

from __future__ import annotations

import numpy as np

from panformer_cli.data.corruptions.pixels import Floats, Random


def plasma(side: int, decay: float, rng: Random) -> Floats:
    """Return a random height map that wraps around at its edges, (S, S) float32 in 0..1; S is a power of two.

    Args:
        side: minimum of S.
        decay: divisor of the amplitude each time the wavelength is halved; 1 is rough, 3 is smooth.
        rng: source of all random choices.
    """
    grid = np.zeros((1, 1), np.float32)
    amplitude = 100.0
    while len(grid) < max(side, 4):
        grid = _refined(grid, amplitude, rng)
        amplitude /= decay
    grid -= grid.min()
    return np.asarray(grid / grid.max())


def _refined(grid: Floats, amplitude: float, rng: Random) -> Floats:
    """Return the map at twice the resolution: each new point is the mean of four neighbors plus noise."""
    finer = np.empty((2 * len(grid), 2 * len(grid)), np.float32)
    corners = grid + np.roll(grid, -1, 0)
    corners += np.roll(corners, -1, 1)
    centers = _with_noise(corners, amplitude, rng)
    across = (centers + np.roll(centers, 1, 0)) + (grid + np.roll(grid, -1, 1))
    upright = (centers + np.roll(centers, 1, 1)) + (grid + np.roll(grid, -1, 0))
    finer[::2, ::2], finer[1::2, 1::2] = grid, centers
    finer[::2, 1::2] = _with_noise(across, amplitude, rng)
    finer[1::2, ::2] = _with_noise(upright, amplitude, rng)
    return finer


def _with_noise(sum_of_four: Floats, amplitude: float, rng: Random) -> Floats:
    noise = amplitude * rng.uniform(-amplitude, amplitude, sum_of_four.shape)
    return np.asarray(sum_of_four / 4 + noise, np.float32)
