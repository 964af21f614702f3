"""A model whose answer is an exact function of the pixels: every object has a color of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import Batch, ImageArray, PanopticMap
from panformer_cli.data.transforms import MEAN, STD
from panformer_cli.engine.combined.choose import with_options
from panformer_cli.engine.combined.options import InferenceOptions
from panformer_cli.engine.inference import Predictor
from panformer_cli.models.base import LossCounts, PanopticModel, ParameterGroup
from panformer_cli.models.panoptic_segformer.postprocessing import Candidates, MergedPrediction
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from panformer_cli.recipe_io import load_recipe
from panformer_cli.settings import TrainSettings

CAT, DOG, SKY, SEA = range(4)
TABLE = CategoryTable(
    [Category(7, "cat", True), Category(9, "dog", True), Category(2, "sky", False), Category(5, "sea", False)]
)
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Painted:
    """An object, or the stuff of a class, that the model recognizes by its color."""

    label: int
    color: Color
    score: float = 0.9


class StubOutput(NamedTuple):
    """The number of the painted object that each pixel shows, from 1; 0 is nothing, (B, H, W)."""

    numbers: Tensor


class StubModel(PanopticModel):
    """Finds what is painted.

    Args:
        painted: what it recognizes. Colors in between, from resizing, count as the nearest one; black is nothing.
        blind_border: width of the border of each input in which it sees nothing.
    """

    predicts_masks: ClassVar[bool] = True

    def __init__(self, painted: list[Painted], blind_border: int = 0) -> None:
        super().__init__(TABLE)
        self.painted = painted
        self.blind_border = blind_border
        self.inputs: list[Tensor] = []

    def infer(self, images: Tensor, padding_mask: Tensor) -> StubOutput:
        assert not padding_mask.any()
        self.inputs.append(images.clone())
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        pixels = (images * std + mean).round().long().movedim(1, -1)  # (B, H, W, 3)
        palette = torch.tensor([(0, 0, 0), *(one.color for one in self.painted)])
        codes, places = torch.unique(pixels.reshape(-1, 3), dim=0, return_inverse=True)
        nearest = torch.cdist(codes.double(), palette.double()).argmin(dim=1)
        numbers = nearest[places].reshape(pixels.shape[:3])
        if border := self.blind_border:
            seen = torch.zeros_like(numbers)
            seen[:, border:-border, border:-border] = 1
            numbers = numbers * seen
        return StubOutput(numbers)

    def postprocess(self, output: Any, index: int, size: tuple[int, int], settings: Any) -> MergedPrediction:
        numbers = output.numbers[index].numpy()
        found = [(number, one) for number, one in enumerate(self.painted, start=1) if (numbers == number).any()]
        things = [(one.label, one.score, numbers == number) for number, one in found if one.label < SKY]
        stuff = []
        for label in (SKY, SEA):
            masks = [numbers == number for number, one in found if one.label == label]
            score = max((one.score for _, one in found if one.label == label), default=0.0)
            stuff.append((label, score, np.any(masks, axis=0) if masks else np.zeros_like(numbers, bool)))
        rows = [*things, *stuff]
        candidates = Candidates(
            labels=np.array([label for label, _, _ in rows], np.int64),
            class_scores=np.array([score for _, score, _ in rows], np.float32),
            masks=np.array([mask for _, _, mask in rows], np.float32),
            boxes=np.array([_box(mask, size) for _, _, mask in things], np.float32).reshape(-1, 4),
            size=size,
        )
        assert isinstance(settings, MergingSettings)
        return MergedPrediction(candidates, self.categories, settings)

    def forward(self, batch: Batch, counts: LossCounts) -> dict[str, Tensor]:
        raise NotImplementedError

    def parameter_groups(self, settings: TrainSettings) -> list[ParameterGroup]:
        raise NotImplementedError

    def class_rows(self) -> dict[str, range]:
        raise NotImplementedError

    def stages(self) -> dict[str, torch.nn.Module]:
        raise NotImplementedError


def _box(mask: np.ndarray[Any, Any], size: tuple[int, int]) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y, x = size[0] / mask.shape[0], size[1] / mask.shape[1]
    return columns[0] * x, rows[0] * y, (columns[-1] + 1) * x, (rows[-1] + 1) * y


def stub_predictor(
    painted: list[Painted], options: InferenceOptions, side: int = 64, blind_border: int = 0
) -> tuple[Predictor, StubModel]:
    """Return a predictor with these options, whose inputs have a short side of `side` pixels, and its model."""
    recipe = load_recipe("tiny", [f"data.short_side={side}", f"data.long_side={4 * side}"])
    model = StubModel(painted, blind_border)
    return with_options(Predictor(model, recipe, torch.device("cpu")), options), model


def paint(size: tuple[int, int], *areas: tuple[Painted, tuple[int, int, int, int]]) -> ImageArray:
    """Return an image with filled rectangles (top, left, bottom, right), the later ones on top."""
    image = np.zeros((*size, 3), np.uint8)
    for one, (top, left, bottom, right) in areas:
        image[top:bottom, left:right] = one.color
    return image


def named(panoptic: PanopticMap) -> list[tuple[str, int, tuple[float, ...]]]:
    """Return name, area and box of every segment, sorted."""
    return sorted((TABLE.by_id(s.category_id).name, s.area, s.bbox) for s in panoptic.segments)
