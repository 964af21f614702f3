"""A model family whose answer is an exact function of the pixels: the class of a pixel is its strongest channel.

So inputs, batches and threads can be compared for equality. It has no weights to speak of, and no timm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import Batch, PanopticMap
from panformer_cli.data.transforms import MEAN, STD
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, save_checkpoint
from panformer_cli.metrics.detection import InstancePrediction
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.base import LossCounts, PanopticModel, ParameterGroup, Prediction
from panformer_cli.models.build import build_model
from panformer_cli.recipe import Recipe
from panformer_cli.settings import DataSettings, InferenceSettings, ModelSettings, TrainSettings

FAMILY = "color"
TABLE = CategoryTable([Category(1, "red", True), Category(2, "green", True), Category(5, "sky", False)])
"""The categories of pixels that are mostly red, green and blue."""
HEIGHT, WIDTH = 48, 64
"""Size of an image that the model gets without resizing."""


@dataclass(frozen=True)
class ColorSettings(ModelSettings):
    """Architecture: there is none."""

    family: str = FAMILY


@dataclass(frozen=True)
class ColorThresholds(InferenceSettings):
    """Minimum score of a segment."""

    min_score: float = 0.0
    predict_options: ClassVar[dict[str, tuple[str, ...]]] = {"threshold": ("min_score",)}


class ColorOutput(NamedTuple):
    """Output of `infer`: the strength of the channels, (B, 3, h, w), 0..1."""

    strength: Tensor


@dataclass(frozen=True)
class ColorPrediction(Prediction):
    """One segment for each class; its score is the mean strength of its channel."""

    strength: Tensor
    settings: ColorThresholds

    @cached_property
    def panoptic(self) -> PanopticMap:
        best = self.strength.max(dim=0)
        ids = best.indices.numpy().astype(np.int32) + 1
        scores = {int(n): float(best.values.numpy()[ids == n].mean()) for n in np.unique(ids)}
        kept = {n: score for n, score in scores.items() if score >= self.settings.min_score}
        ids[~np.isin(ids, list(kept))] = 0
        found = segments_of(ids, {n: TABLE.by_label(n - 1).id for n in kept})
        return PanopticMap(ids, tuple(replace(segment, score=kept[segment.id]) for segment in found))

    def instances(self, image_id: int | str) -> InstancePrediction:
        raise NotImplementedError


class NoBackbone(Backbone):
    """A backbone that passes the image on."""

    def __init__(self) -> None:
        super().__init__("resnet50", nn.Identity(), [3, 3, 3])

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images] * 3


class ColorModel(PanopticModel):
    """The strongest channel. Its only weight is a factor of 1, so that there is something to save."""

    def __init__(self, categories: CategoryTable) -> None:
        super().__init__(categories)
        self.backbone = NoBackbone()
        self.factor = nn.Parameter(torch.ones(1))

    def infer(self, images: Tensor, padding_mask: Tensor) -> ColorOutput:
        assert not padding_mask.any(), "images of a batch have one size"
        shape = (1, 3, 1, 1)
        pixels = images * torch.tensor(STD).view(shape) + torch.tensor(MEAN).view(shape)
        return ColorOutput(self.factor * pixels / 255)

    def forward(self, batch: Batch, counts: LossCounts) -> dict[str, Tensor]:
        raise NotImplementedError

    def postprocess(self, output: Any, index: int, size: tuple[int, int], settings: Any) -> ColorPrediction:
        return ColorPrediction(F.interpolate(output.strength[[index]], size, mode="nearest")[0].cpu(), settings)

    def parameter_groups(self, settings: TrainSettings) -> list[ParameterGroup]:
        del settings
        return [ParameterGroup([self.factor], 1.0)]

    def class_rows(self) -> dict[str, range]:
        return {}

    def stages(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone}


class ColorFamily:
    """A `families.Family`."""

    model_settings = ColorSettings
    inference_settings = ColorThresholds
    published = ()
    trainable = True

    def build(self, model: Any, inference: Any, categories: CategoryTable, sampling: str) -> ColorModel:
        del model, inference, sampling
        return ColorModel(categories)

    def official_format(self) -> None:
        return None

    def tuning_cache(self, prediction: Any, sample: Any) -> Any:
        raise NotImplementedError

    def load_tuning_cache(self, path: Path) -> Any:
        raise NotImplementedError


def color_checkpoint(path: Path) -> Path:
    """Write a checkpoint of the family, which must be in `FAMILIES`, and return its path."""
    data = DataSettings(short_side=HEIGHT, long_side=WIDTH)
    recipe = Recipe(name="colors", model=ColorSettings(), data=data, inference=ColorThresholds())
    path.parent.mkdir(parents=True, exist_ok=True)
    model = build_model(recipe.model, recipe.inference, TABLE, pretrained=False)
    save_checkpoint(path, model, recipe, TABLE, TrainProgress())
    return path


def street() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return an image, (48, 64, 3): blue sky, and a red rectangle of 32 x 24 pixels at the lower edge."""
    image = np.full((HEIGHT, WIDTH, 3), (20, 40, 200), np.uint8)
    image[24:48, 16:48] = (210, 30, 60)
    return image


def noise(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return an image of smooth colored patches in which all classes occur."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    large = small.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.ascontiguousarray(large)
