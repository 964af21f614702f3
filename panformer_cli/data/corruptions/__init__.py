"""The sixteen corruptions of COCO-C at five severities, for evaluating robustness.

Definitions: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (ICLR 2019); for images of any size Michaelis et al., "Benchmarking Robustness in Object Detection"
(2019). `docs/robustness.md` describes the agreement with their code and the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from zlib import crc32

import numpy as np

from panformer_cli.data.corruptions.blur import defocus_blur, gaussian_blur, glass_blur, motion_blur
from panformer_cli.data.corruptions.digital import brightness, contrast, jpeg_compression, saturate
from panformer_cli.data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from panformer_cli.data.corruptions.pixels import Random
from panformer_cli.data.corruptions.weather import fog, frost, snow, spatter
from panformer_cli.data.structures import ImageArray
from panformer_cli.errors import PanformerError

CORRUPTIONS_BY_GROUP: dict[str, tuple[Callable[[ImageArray, int, Random], ImageArray], ...]] = {
    "blur": (motion_blur, defocus_blur, glass_blur, gaussian_blur),
    "noise": (gaussian_noise, impulse_noise, shot_noise, speckle_noise),
    "digital": (brightness, contrast, saturate, jpeg_compression),
    "weather": (snow, spatter, fog, frost),
}
"""In the order of the paper's table."""

_CORRUPTIONS = {function.__name__: function for group in CORRUPTIONS_BY_GROUP.values() for function in group}

CORRUPTIONS = tuple(_CORRUPTIONS)
"""Names of the corruptions, in the order of the paper's table."""

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(image: ImageArray, corruption: str, severity: int, seed: int, image_id: int | str) -> ImageArray:
    """Return a corrupted copy of an image of any size, with the same shape and dtype.

    Random choices depend only on the last four arguments and on the size of the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        corruption: one of `CORRUPTIONS`.
        severity: 1 (weak) to 5 (strong).
        seed: 0 or more.
        image_id: dataset id of the image.

    Raises:
        PanformerError: the corruption or severity is unknown, or the seed is negative.
    """
    check_corruptions([corruption])
    check_severities([severity])
    if seed < 0:
        raise PanformerError(f"the seed of the corruptions is {seed}; expected 0 or more")
    rng = np.random.default_rng([seed, severity, crc32(corruption.encode()), crc32(str(image_id).encode())])
    return _CORRUPTIONS[corruption](image, severity, rng)


def check_corruptions(names: Iterable[str]) -> None:
    """Raise PanformerError for a name that is not in `CORRUPTIONS`."""
    for name in names:
        if name not in _CORRUPTIONS:
            close = get_close_matches(name.lower(), CORRUPTIONS, n=1)
            advice = f"did you mean {close[0]}?" if close else f"expected {', '.join(CORRUPTIONS)}"
            raise PanformerError(f"unknown corruption {name!r}; {advice}")


def check_severities(severities: Iterable[int]) -> None:
    """Raise PanformerError for a severity outside 1..5."""
    for severity in severities:
        if severity not in SEVERITIES:
            raise PanformerError(f"the severity of a corruption is {severity!r}; expected 1 (weak) to 5 (strong)")
