"""Colors as people with dichromacy see them."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from panformer_cli.visualization.oklab import Colors, Floats, linear_to_oklab, linear_to_rgb, rgb_to_linear

ColorVision = Literal["normal", "protanopia", "deuteranopia"]
"""Protanopia and deuteranopia, without red or green cones, are the common forms of dichromacy."""

_LINEAR_RGB: dict[ColorVision, Floats] = {
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
"""Machado, Oliveira and Fernandes, A Physiologically-based Model for Simulation of Color Vision Deficiency, 2009;
severity 1."""


def simulated(colors: Colors, vision: ColorVision) -> Colors:
    """Return the colors, (N, 3) uint8 sRGB, as they look to someone with `vision`."""
    linear = rgb_to_linear(colors)
    return linear_to_rgb(linear @ _LINEAR_RGB[vision].T if vision in _LINEAR_RGB else linear)


def oklab_of_all(colors: Colors) -> Floats:
    """Return the colors in OKLab as each `ColorVision` sees them: (3, N, 3)."""
    seen = [rgb_to_linear(simulated(colors, vision)) for vision in get_args(ColorVision)]
    return np.stack([linear_to_oklab(linear) for linear in seen])
