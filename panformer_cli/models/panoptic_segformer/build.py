"""Build a Panoptic SegFormer. Only this module converts settings to arguments of layers."""

from __future__ import annotations

from panformer_cli.data.categories import CategoryTable
from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.models.layers.deformable_attention import DeformableAttention
from panformer_cli.models.layers.feedforward import FeedForward
from panformer_cli.models.layers.sampling import SamplingName, sampling_named
from panformer_cli.models.panoptic_segformer.encoder import DeformableEncoder, DeformableEncoderLayer
from panformer_cli.models.panoptic_segformer.location_decoder import LocationDecoder, LocationDecoderLayer
from panformer_cli.models.panoptic_segformer.mask_decoder import (
    MASK_LEVELS,
    MaskCrossAttention,
    MaskDecoder,
    MaskDecoderBlock,
    MaskHead,
    QuerySelfAttention,
    StuffQueries,
)
from panformer_cli.models.panoptic_segformer.model import Decoders, PanopticSegFormer
from panformer_cli.models.panoptic_segformer.neck import Neck
from panformer_cli.models.panoptic_segformer.settings import MergingSettings, PanopticSegFormerSettings

LEVELS = 4
"""C3, C4, C5 and the additional level of the neck."""


def build(
    settings: PanopticSegFormerSettings, inference: MergingSettings, categories: CategoryTable, sampling: SamplingName
) -> PanopticSegFormer:
    """Return a newly initialized model (docs/model.md, "Initialization").

    Args:
        sampling: implementation of the sampling of deformable attention.

    Raises:
        PanformerError: the backbone is not suitable, or this sampling cannot be used on this machine.
    """
    backbone = build_backbone(
        settings.backbone,
        settings.drop_path,
        settings.frozen_stages,
        settings.frozen_batch_norm,
        settings.backbone_normalization,
    )
    return PanopticSegFormer(
        backbone,
        Neck(backbone.channels, settings.embed_dim),
        _encoder(settings, sampling),
        Decoders(
            _location_decoder(settings, categories.num_things, sampling),
            _mask_decoder(settings, settings.thing_mask_layers, self_attention=False),
            _mask_decoder(settings, settings.stuff_mask_layers, self_attention=True),
            StuffQueries(categories.num_stuff, settings.embed_dim, settings.stuff_mask_layers),
        ),
        categories,
        inference.top_k,
    )


def _encoder(settings: PanopticSegFormerSettings, sampling: SamplingName) -> DeformableEncoder:
    layers = [
        DeformableEncoderLayer(
            _attention(settings, sampling), _feedforward(settings), settings.embed_dim, settings.dropout
        )
        for _ in range(settings.encoder_layers)
    ]
    return DeformableEncoder(layers, settings.embed_dim, LEVELS)


def _location_decoder(settings: PanopticSegFormerSettings, num_things: int, sampling: SamplingName) -> LocationDecoder:
    layers = [
        LocationDecoderLayer(
            _attention(settings, sampling), _feedforward(settings), settings.embed_dim, settings.dropout
        )
        for _ in range(settings.location_layers)
    ]
    return LocationDecoder(layers, settings.embed_dim, settings.thing_queries, num_things)


def _mask_decoder(settings: PanopticSegFormerSettings, layers: int, self_attention: bool) -> MaskDecoder:
    dim = settings.embed_dim
    blocks = [
        MaskDecoderBlock(
            MaskCrossAttention(dim, settings.heads, _mask_head(settings)),
            dim,
            settings.feedforward_dim,
            QuerySelfAttention(dim, settings.heads) if self_attention else None,
        )
        for _ in range(layers)
    ]
    tail = MaskCrossAttention(dim, settings.heads, _mask_head(settings), is_tail=True)
    return MaskDecoder(blocks, tail, settings.mask_bias)


def _attention(settings: PanopticSegFormerSettings, sampling: SamplingName) -> DeformableAttention:
    return DeformableAttention(settings.embed_dim, settings.heads, LEVELS, settings.points, sampling_named(sampling))


def _feedforward(settings: PanopticSegFormerSettings) -> FeedForward:
    return FeedForward(settings.embed_dim, settings.feedforward_dim, settings.dropout)


def _mask_head(settings: PanopticSegFormerSettings) -> MaskHead:
    return MaskHead(settings.heads, MASK_LEVELS, settings.mask_waking_slope)
