"""A self-test of about a second: the fast computation of a tiny model against the plain one, and a PNG."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from panformer_cli.engine.doctor.devices import default_device
from panformer_cli.engine.doctor.finding import Finding, examined

if TYPE_CHECKING:
    from torch import Tensor, device

    from panformer_cli.models.layers.sampling import SamplingName

_SMALL = (
    "model.embed_dim=64",
    "model.heads=4",
    "model.feedforward_dim=64",
    "model.encoder_layers=1",
    "model.location_layers=1",
    "model.thing_mask_layers=1",
    "model.stuff_mask_layers=1",
    "model.thing_queries=20",
)
"""Overrides of the recipe `tiny`."""

LIMITS = {"cpu": 1e-3}
"""Largest accepted difference, relative to the largest value, by type of device. A wrong kernel differs by about 1."""
_LIMIT = 0.05
"""For other devices: GPUs may use TF32 for convolutions."""


def self_test() -> Iterator[Finding]:
    """Run both tests."""
    yield from examined("Self-test", "model", _model)
    yield from examined("Self-test", "PNG", _png)


def _model() -> Iterator[Finding]:
    import torch

    chosen = default_device()
    plain = _outputs("portable", torch.device("cpu"))  # first, so that the imports do not count
    began = time.perf_counter()
    fast = _outputs("auto", chosen)
    seconds = time.perf_counter() - began
    difference = max(
        float((one - other).abs().max() / other.abs().max().clamp(min=1e-6))
        for one, other in zip(fast, plain, strict=True)
    )
    limit = LIMITS.get(chosen.type, _LIMIT)
    is_good = difference <= limit  # False for NaN
    found = f"a tiny model on {chosen}: differs by {difference:.1e} from the plain computation (limit {limit:g})"
    fix = "" if is_good else "use --sampling portable or --device cpu, and report this as a bug"
    yield Finding("Self-test", "model", "ok" if is_good else "failed", f"{found}, {seconds:.1f} s", fix)


def _outputs(sampling: SamplingName, on: device) -> list[Tensor]:
    """Return what a model with fixed random weights computes before queries are selected, on the CPU."""
    import torch

    from panformer_cli.data.scenes.generator import SceneOptions, generate_scene
    from panformer_cli.data.scenes.painter import CATEGORIES
    from panformer_cli.data.transforms import normalize
    from panformer_cli.models.build import build_model
    from panformer_cli.recipe_io import load_recipe

    recipe = load_recipe("tiny", _SMALL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(recipe.model, recipe.inference, CATEGORIES, pretrained=False, sampling=sampling)
    model.eval().to(on)
    images = normalize(generate_scene(SceneOptions(height=128, width=128), "val", 0)[0])[None].to(on)
    with torch.inference_mode():
        output = model.forward_before_targets(images, torch.zeros(1, 128, 128, dtype=torch.bool, device=on))
    return [tensor.float().cpu() for tensor in _tensors(output) if tensor.is_floating_point()]


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested tuples, lists and dataclasses."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))


def _png() -> Iterator[Finding]:
    import numpy as np

    from panformer_cli.data.coco.panoptic_png import read_panoptic_png, write_panoptic_png

    ids = np.random.default_rng(0).integers(0, 2**24, (60, 80), np.int32)
    with TemporaryDirectory() as folder:
        path = Path(folder, "ids.png")
        write_panoptic_png(path, ids)
        is_equal = bool((read_panoptic_png(path) == ids).all())
    found = "segment ids written and read back" if is_equal else "segment ids differ after writing and reading them"
    fix = "" if is_equal else "pip install --force-reinstall opencv-python zlib-ng"
    yield Finding("Self-test", "PNG", "ok" if is_equal else "failed", found, fix)
