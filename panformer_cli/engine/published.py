"""The checkpoints that the authors published (spec, sections 1 and 10)."""

from __future__ import annotations

from dataclasses import dataclass

RELEASE = "https://github.com/zhiqi-li/Panoptic-SegFormer/releases/download/v1.0"


@dataclass(frozen=True)
class PublishedWeights:
    """One checkpoint of the authors' release, trained on COCO train2017.

    name: what the command line accepts where it wants a checkpoint; the recipe of the same name describes the model.
    file: its name in the release. pq, pq_things, pq_stuff: published, COCO val2017, percent.
    """

    name: str
    file: str
    backbone: str
    pq: float
    pq_things: float
    pq_stuff: float


PUBLISHED = {
    row.name: row
    for row in (
        PublishedWeights("r50_1x", "panoptic_segformer_r50_1x.pth", "ResNet-50", 48.0, 52.3, 41.5),
        PublishedWeights("r50", "panoptic_segformer_r50_2x.pth", "ResNet-50", 49.6, 54.4, 42.4),
        PublishedWeights("r101", "panoptic_segformer_r101_2x.pth", "ResNet-101", 50.6, 55.5, 43.2),
        PublishedWeights("pvtv2b5", "panoptic_segformer_pvtv2b5_2x.pth", "PVTv2-B5", 55.6, 61.2, 46.6),
        PublishedWeights("swinl", "panoptic_segformer_swinl_2x.pth", "Swin-L", 55.8, 61.7, 46.9),
    )
}
