"""From a recipe to a model: the only place where recipe fields become arguments of layers."""

from __future__ import annotations

from panformer_cli.data.categories import CategoryTable
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.backbones.pretrained import load_backbone_weights
from panformer_cli.models.layers.common import FeedForward
from panformer_cli.models.layers.deformable_attention import DeformableAttention
from panformer_cli.models.panoptic_segformer.encoder import DeformableEncoder, DeformableEncoderLayer
from panformer_cli.models.panoptic_segformer.location_decoder import LocationDecoder, LocationDecoderLayer
from panformer_cli.models.panoptic_segformer.mask_decoder import (
    MASK_LEVELS,
    MaskCrossAttention,
    MaskDecoder,
    MaskDecoderBlock,
    MaskHead,
    QuerySelfAttention,
)
from panformer_cli.models.panoptic_segformer.neck import Neck
from panformer_cli.models.panoptic_segformer.network import Decoders, PanopticSegFormer, StuffQueries
from panformer_cli.recipe import ModelRecipe

LEVELS = 4
"""C3, C4, C5 and the neck's coarser one."""


def build_model(recipe: ModelRecipe, categories: CategoryTable, pretrained: bool = True) -> PanopticSegFormer:
    """The model of a recipe for a data set's categories, initialised (spec, sections 4 and 5).

    pretrained: fill the backbone as `recipe.backbone_weights` says; False where a checkpoint will be loaded anyway.

    Raises:
        CheckpointError: the backbone's weights cannot be had.
    """
    backbone = Backbone(recipe.backbone, recipe.drop_path, recipe.frozen_stages, recipe.frozen_batch_norm)
    if pretrained:
        load_backbone_weights(backbone, recipe.backbone_weights)
    return PanopticSegFormer(
        backbone,
        Neck(backbone.channels, recipe.embed_dim),
        _encoder(recipe),
        Decoders(
            _location_decoder(recipe, categories.num_things),
            _mask_decoder(recipe, recipe.thing_mask_layers, self_attention=False),
            _mask_decoder(recipe, recipe.stuff_mask_layers, self_attention=True),
            StuffQueries(categories.num_stuff, recipe.embed_dim, recipe.stuff_mask_layers),
        ),
    )


def _encoder(recipe: ModelRecipe) -> DeformableEncoder:
    layers = [
        DeformableEncoderLayer(_attention(recipe), _feedforward(recipe), recipe.embed_dim, recipe.dropout)
        for _ in range(recipe.encoder_layers)
    ]
    return DeformableEncoder(layers, recipe.embed_dim, LEVELS)


def _location_decoder(recipe: ModelRecipe, num_things: int) -> LocationDecoder:
    layers = [
        LocationDecoderLayer(_attention(recipe), _feedforward(recipe), recipe.embed_dim, recipe.dropout)
        for _ in range(recipe.location_layers)
    ]
    return LocationDecoder(layers, recipe.embed_dim, recipe.thing_queries, num_things)


def _mask_decoder(recipe: ModelRecipe, layers: int, self_attention: bool) -> MaskDecoder:
    dim = recipe.embed_dim
    blocks = [
        MaskDecoderBlock(
            MaskCrossAttention(dim, recipe.heads, _mask_head(recipe)),
            dim,
            recipe.feedforward_dim,
            QuerySelfAttention(dim, recipe.heads) if self_attention else None,
        )
        for _ in range(layers)
    ]
    tail = MaskCrossAttention(dim, recipe.heads, _mask_head(recipe), is_tail=True)
    return MaskDecoder(blocks, tail, recipe.mask_bias)


def _attention(recipe: ModelRecipe) -> DeformableAttention:
    return DeformableAttention(recipe.embed_dim, recipe.heads, LEVELS, recipe.points)


def _feedforward(recipe: ModelRecipe) -> FeedForward:
    return FeedForward(recipe.embed_dim, recipe.feedforward_dim, recipe.dropout)


def _mask_head(recipe: ModelRecipe) -> MaskHead:
    return MaskHead(recipe.heads, MASK_LEVELS, recipe.mask_waking_slope)
