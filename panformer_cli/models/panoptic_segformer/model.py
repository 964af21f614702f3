"""Panoptic SegFormer, the complete model (paper, figure 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import Batch
from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.base import LossCounts, PanopticModel, ParameterGroup, split_parameters
from panformer_cli.models.layers.autocast import cast_for_autocast
from panformer_cli.models.panoptic_segformer.criterion import PanopticCriterion
from panformer_cli.models.panoptic_segformer.encoder import DeformableEncoder, Memory
from panformer_cli.models.panoptic_segformer.location_decoder import LocationDecoder, LocationOutput
from panformer_cli.models.panoptic_segformer.mask_decoder import MASK_LEVELS, MaskDecoder, MaskOutput, StuffQueries
from panformer_cli.models.panoptic_segformer.matcher import ImageTargets, match_locations
from panformer_cli.models.panoptic_segformer.neck import Neck
from panformer_cli.models.panoptic_segformer.output import InferenceOutput, TrainingOutput
from panformer_cli.models.panoptic_segformer.postprocessing import MergedPrediction, candidates_of
from panformer_cli.models.panoptic_segformer.query_selection import gather_queries, pad_queries, select_top
from panformer_cli.models.panoptic_segformer.random_weights import spread_scores
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from panformer_cli.settings import TrainSettings

SLOW_PARTS = ("backbone", "sampling_offsets", "reference_points")
"""Parameters with one of these in their name use `train.slow_lr_factor` (docs/model.md, "Optimizer")."""


@dataclass
class Decoders:
    """The modules that read the encoder's memory."""

    location: LocationDecoder
    thing_masks: MaskDecoder
    stuff_masks: MaskDecoder
    stuff_queries: StuffQueries


class PanopticSegFormer(PanopticModel):
    """Predicts boxes, classes and masks of things and stuff. `build.build` constructs it.

    Args:
        categories: category table of the data set.
        top_k: number of (query, class) pairs whose masks are decoded at inference.
    """

    predicts_masks: ClassVar[bool] = True

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        encoder: DeformableEncoder,
        decoders: Decoders,
        categories: CategoryTable,
        top_k: int,
    ) -> None:
        super().__init__(categories)
        self.backbone = backbone
        self.neck = neck
        self.encoder = encoder
        self.location_decoder = decoders.location
        self.thing_mask_decoder = decoders.thing_masks
        self.stuff_mask_decoder = decoders.stuff_masks
        self.stuff_queries = decoders.stuff_queries
        self.criterion = PanopticCriterion(categories.num_things)
        self.top_k = top_k

    def infer(self, images: Tensor, padding_mask: Tensor) -> InferenceOutput:
        """Return the scored masks; see `PanopticModel.infer`."""
        memory, location = self.forward_before_targets(images, padding_mask)
        top = select_top(location.class_logits[-1], self.top_k)
        queries = gather_queries(location.queries, top.queries)
        things, stuff, stuff_logits = self.decode_masks(memory, queries, every_mask=False)
        boxes = gather_queries(location.boxes[-1].float(), top.queries)
        stuff_scores = stuff_logits[-1].float().sigmoid()
        return InferenceOutput(top.labels, top.scores, boxes, things.masks[-1], stuff_scores, stuff.masks[-1])

    def forward(self, batch: Batch, counts: LossCounts) -> dict[str, Tensor]:
        """Return the losses of `PanopticCriterion`; see `PanopticModel.forward`."""
        targets = [ImageTargets.of(target, self.categories.num_things) for target in batch.targets]
        memory, location = self.forward_before_targets(batch.images, batch.padding_mask)
        matches = match_locations(location.class_logits, location.boxes, [image.things for image in targets])
        selected = [match.queries[-1] for match in matches]
        queries = gather_queries(location.queries, pad_queries(selected))
        things, stuff, stuff_logits = self.decode_masks(memory, queries, every_mask=True)
        canvas = (batch.images.shape[-2], batch.images.shape[-1])
        output = TrainingOutput(location, selected, things, stuff, stuff_logits, canvas)
        with torch.autocast(batch.images.device.type, enabled=False):
            return self.criterion(output, targets, matches, counts)

    def forward_before_targets(self, images: Tensor, padding_mask: Tensor) -> tuple[Memory, LocationOutput]:
        """Return the encoded image and the boxes and classes of all queries; arguments as for `infer`."""
        memory = self.encode(images, padding_mask)
        return memory, self.location_decoder(memory)

    def encode(self, images: Tensor, padding_mask: Tensor) -> Memory:
        """Return the tokens that all decoders read. The arguments are those of `infer`."""
        memory: Memory = self.encoder(self.neck(self.backbone(images)), padding_mask)
        # Almost thirty matrix products read the tokens.
        return replace(memory, tokens=cast_for_autocast(memory.tokens))

    def decode_masks(
        self, memory: Memory, thing_queries: Tensor, every_mask: bool
    ) -> tuple[MaskOutput, MaskOutput, Tensor]:
        """Return the masks of things and of stuff, and the stuff class logits, (blocks, B, stuff).

        As published, padding is not masked out of these attentions. A batch of images of one size has no padding.

        Args:
            thing_queries: (B, n, C).
            every_mask: return the masks of all blocks too, for training.
        """
        shapes = memory.shapes[:MASK_LEVELS]
        tokens = memory.tokens[:, : sum(height * width for height, width in shapes)]
        things: MaskOutput = self.thing_mask_decoder(thing_queries, None, tokens, shapes, every_mask)
        content, position = self.stuff_queries.content_and_position()
        stuff_queries = content.expand(tokens.shape[0], -1, -1)
        stuff: MaskOutput = self.stuff_mask_decoder(stuff_queries, position, tokens, shapes, every_mask)
        return things, stuff, self.stuff_queries.class_logits(stuff.queries)

    def postprocess(
        self, output: InferenceOutput, index: int, size: tuple[int, int], settings: MergingSettings
    ) -> MergedPrediction:
        """Return the candidates of an image for merging; see `PanopticModel.postprocess`."""
        candidates = candidates_of(output, index, size, self.categories.num_things)
        return MergedPrediction(candidates, self.categories, settings)

    def parameter_groups(self, settings: TrainSettings) -> list[ParameterGroup]:
        """Return two groups: backbone, sampling offsets and reference points have a lower learning rate."""
        return split_parameters(self.named_parameters(), SLOW_PARTS, settings.slow_lr_factor)

    def class_rows(self) -> dict[str, range]:
        """Return the class branches of things and the embedding of stuff. All stuff classes share their branches."""
        things = range(self.categories.num_things)
        stuff = range(self.categories.num_things, len(self.categories))
        branches = (
            f"location_decoder.class_branches.{layer}.{tensor}"
            for layer in range(len(self.location_decoder.class_branches))
            for tensor in ("weight", "bias")
        )
        return {**dict.fromkeys(branches, things), "stuff_queries.embedding.weight": stuff}

    def parts(self) -> dict[str, list[nn.Module]]:
        """Return the layers of each part; see `PanopticModel.parts`."""
        return {
            **super().parts(),
            "encoder": [*self.encoder.layers],
            "location_decoder": [*self.location_decoder.layers],
            "thing_masks": self.thing_mask_decoder.layers(),
            "stuff_masks": self.stuff_mask_decoder.layers(),
        }

    def stages(self) -> dict[str, nn.Module]:
        """Return the main modules; see `PanopticModel.stages`."""
        names = ("backbone", "neck", "encoder", "location_decoder", "thing_mask_decoder", "stuff_mask_decoder")
        return {name: self.get_submodule(name) for name in names}

    def use_mask_layers(self, layers: int) -> None:
        """Shorten both mask decoders; see `PanopticModel.use_mask_layers`. The tail is the last layer."""
        most = max(len(decoder.layers()) for decoder in (self.thing_mask_decoder, self.stuff_mask_decoder))
        if layers > most:
            raise PanformerError(
                f"--mask-layers is {layers}, but the mask decoders of this model have at most {most} layers; expected "
                f"1 to {most}"
            )
        self.thing_mask_decoder.exit_early(layers, with_queries=False)
        self.stuff_mask_decoder.exit_early(layers, with_queries=True)
        self.stuff_queries.class_branches = self.stuff_queries.class_branches[:layers]

    def spread_scores(self, image: Tensor, settings: MergingSettings) -> None:
        """Rescale the last layers for masks and classes; see `PanopticModel.spread_scores`."""
        spread_scores(self, image, settings)
