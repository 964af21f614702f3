"""Pictures of what a model predicts during training, for experiment trackers."""

from __future__ import annotations

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.inference import Predictor
from panformer_cli.visualization.drawing import draw_panoptic, side_by_side

SAMPLES = 4
"""Validation images that are shown: the first ones, the same at every evaluation."""


def sample_predictions(predictor: Predictor, validation: CocoPanoptic) -> dict[str, ImageArray]:
    """Return ground truth and prediction side by side, (H, W, 3) uint8 RGB, by names such as `samples/0`."""
    pictures = {}
    for index in range(min(SAMPLES, len(validation))):
        sample = validation[index]
        maps = (sample.annotation, predictor(sample.image).panoptic)
        drawn = [draw_panoptic(sample.image, panoptic, predictor.categories) for panoptic in maps]
        pictures[f"samples/{index}"] = side_by_side(drawn, ["ground truth", "prediction"])
    return pictures
