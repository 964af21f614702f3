"""The official checkpoints and their results (docs/knet.md, "Published results")."""

from __future__ import annotations

from panformer_cli.models.published import PublishedWeights

RELEASE = "https://download.openmmlab.com/mim-example/knet/det/knet"


def _row(name: str, checkpoint: str, date: str, sha256: str, backbone: str, pq: float) -> PublishedWeights:
    """Return the weights in one file, whose name ends with the first digits of its SHA-256. Only PQ is published."""
    checkpoint = f"knet_s3_{checkpoint}_coco-panoptic"
    file = f"{checkpoint}_{date}-{sha256}.pth"
    return PublishedWeights(name, file, f"{RELEASE}/{checkpoint}", backbone, pq, sha256=sha256)


PUBLISHED = (
    _row("knet_r50_1x", "r50_fpn_1x", "20211017_151750", "395fbcba", "ResNet-50", 44.3),
    _row("knet_r50", "r50_fpn_ms-3x", "20211017_054613", "4375b8be", "ResNet-50", 47.1),
    _row("knet_r101", "r101_fpn_ms-3x", "20211017_054501", "9c600b0c", "ResNet-101", 48.4),
    _row("knet_swinl", "swin-l_fpn_ms-3x_16x2", "20211020_062341", "62f3bbff", "Swin-L", 54.6),
)
