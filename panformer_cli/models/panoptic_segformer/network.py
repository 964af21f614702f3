"""Panoptic SegFormer, whole (paper, figure 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.layers.common import cast_for_autocast
from panformer_cli.models.panoptic_segformer.encoder import DeformableEncoder
from panformer_cli.models.panoptic_segformer.location_decoder import LocationDecoder, LocationOutput, prior_linear
from panformer_cli.models.panoptic_segformer.mask_decoder import MASK_LEVELS, MaskDecoder, MaskOutput
from panformer_cli.models.panoptic_segformer.neck import Neck

SelectQueries = Callable[[LocationOutput], list[Tensor]]
"""Which thing queries get a mask: from the location decoder's output to (n,) int64 query indices, one tensor an image.

Training chooses the queries matched to an object, inference those of the highest scores; so the model knows no targets.
"""


@dataclass
class PanopticOutput:
    """Everything that losses and merging need.

    location: boxes and classes of all thing queries.
    selected: (n,) int64 query indices of each image, as `SelectQueries` chose.
    things: masks of the selected queries, in their order; images with fewer than the most are filled up at the end.
    stuff: masks of the stuff queries, in the order of the stuff labels.
    stuff_logits: (blocks, B, stuff), before the sigmoid, after each stuff block.
    canvas: height and width of the padded images, pixels: the masks cover all of it.
    """

    location: LocationOutput
    selected: list[Tensor]
    things: MaskOutput
    stuff: MaskOutput
    stuff_logits: Tensor
    canvas: tuple[int, int]


class StuffQueries(nn.Module):
    """One learned query a stuff class, and the branches that say whether the class is there."""

    def __init__(self, num_stuff: int, dim: int, blocks: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_stuff, 2 * dim)
        self.class_branches = nn.ModuleList([prior_linear(dim, 1) for _ in range(blocks)])

    def content_and_position(self) -> tuple[Tensor, Tensor]:
        """Both (stuff, C); here the content comes first, unlike in the thing queries (spec, section 6)."""
        content, position = self.embedding.weight.chunk(2, dim=1)
        return content, position

    def class_logits(self, block_queries: list[Tensor]) -> Tensor:
        """(B, stuff, C) of every block to (blocks, B, stuff)."""
        pairs = zip(self.class_branches, block_queries, strict=True)
        return torch.stack([branch(queries).squeeze(-1) for branch, queries in pairs])


@dataclass
class Decoders:
    """The parts that read the encoder's memory."""

    location: LocationDecoder
    thing_masks: MaskDecoder
    stuff_masks: MaskDecoder
    stuff_queries: StuffQueries


class PanopticSegFormer(nn.Module):
    """Images to boxes, classes and masks of things and stuff. `build_model` puts the parts together."""

    def __init__(self, backbone: Backbone, neck: Neck, encoder: DeformableEncoder, decoders: Decoders) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.encoder = encoder
        self.location_decoder = decoders.location
        self.thing_mask_decoder = decoders.thing_masks
        self.stuff_mask_decoder = decoders.stuff_masks
        self.stuff_queries = decoders.stuff_queries

    def forward(self, images: Tensor, padding_mask: Tensor, select_queries: SelectQueries) -> PanopticOutput:
        """
        images: (B, 3, H, W) float, normalised, any H and W, each in the top-left corner of the canvas.
        padding_mask: (B, H, W) bool, True on the padding.
        """
        memory = self.encoder(self.neck(self.backbone(images)), padding_mask)
        memory.tokens = cast_for_autocast(memory.tokens)  # nearly thirty products read them
        location = self.location_decoder(memory)
        selected = select_queries(location)

        # The padding is not masked out of these attentions, as published: batches of one size equal single images.
        mask_shapes = memory.shapes[:MASK_LEVELS]
        mask_memory = memory.tokens[:, : sum(height * width for height, width in mask_shapes)]
        thing_queries = gather_queries(location.queries, selected)
        things = self.thing_mask_decoder(thing_queries, None, mask_memory, mask_shapes, self.training)
        content, position = self.stuff_queries.content_and_position()
        stuff_content = content.expand(len(images), -1, -1)
        stuff = self.stuff_mask_decoder(stuff_content, position, mask_memory, mask_shapes, self.training)
        stuff_logits = self.stuff_queries.class_logits(stuff.queries)
        canvas = (images.shape[-2], images.shape[-1])
        return PanopticOutput(location, selected, things, stuff, stuff_logits, canvas)


def gather_queries(queries: Tensor, selected: list[Tensor]) -> Tensor:
    """(B, Q, C) -> (B, most selected, C); the thing mask decoder treats queries one by one: filling up is harmless."""
    most = max(len(indices) for indices in selected)
    filled = torch.stack([nn.functional.pad(indices, (0, most - len(indices))) for indices in selected])
    return queries.gather(1, filled[..., None].expand(-1, -1, queries.shape[-1]))
