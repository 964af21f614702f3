"""One image through a trained model: what evaluate, predict and training's own evaluation share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.data.transforms import prepare_image
from panformer_cli.models.panoptic_segformer import PanopticSegFormer
from panformer_cli.panoptic.detection import InstancePrediction, encode_mask
from panformer_cli.panoptic.merging import Candidates, InferenceSelection, candidates_of, merge_masks
from panformer_cli.recipe import Recipe


@dataclass
class Prediction:
    """What the model sees in one image.

    panoptic: the merged map at the image's own size.
    candidates: the masks and scores it was merged from, on the model's device.
    """

    panoptic: PanopticMap
    candidates: Candidates

    def instances(self, image_id: int | str, num_things: int) -> InstancePrediction:
        """The thing candidates as instances, for box and mask AP."""
        scores = self.candidates.scores()
        things = len(self.candidates.boxes)
        assert bool((self.candidates.labels[:things] < num_things).all()), "things come first"
        return InstancePrediction(
            image_id,
            scores[:things].tolist(),
            self.candidates.labels[:things].tolist(),
            self.candidates.boxes.cpu().numpy(),
            [encode_mask(self.candidates.binary(index).cpu().numpy()) for index in range(things)],
        )


class Predictor:
    """A model on its device, ready for images of any size.

    model: its weights are used as they are; it has to be in evaluation mode when the predictor is called.
    """

    def __init__(
        self, model: PanopticSegFormer, recipe: Recipe, categories: CategoryTable, device: torch.device
    ) -> None:
        self.model = model.to(device)
        self.recipe = recipe
        self.categories = categories
        self.device = device

    @torch.inference_mode()
    def __call__(self, image: ImageArray) -> Prediction:
        """image: (H, W, 3) uint8 RGB."""
        data = self.recipe.data
        prepared = prepare_image(image, data.short_side, data.long_side).to(self.device)[None]
        padding_mask = torch.zeros(1, *prepared.shape[-2:], dtype=torch.bool, device=self.device)
        selection = InferenceSelection(self.recipe.inference.top_k)
        output = self.model(prepared, padding_mask, selection)
        size = (image.shape[0], image.shape[1])
        candidates = candidates_of(output, selection, 0, size, self.categories.num_things)
        return Prediction(merge_masks(candidates, self.categories, self.recipe.inference), candidates)
