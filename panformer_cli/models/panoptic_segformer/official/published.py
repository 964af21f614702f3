"""The official checkpoints and their results in the paper (docs/model.md, "Published results")."""

from __future__ import annotations

from panformer_cli.models.published import PublishedRobustness, PublishedWeights

RELEASE = "https://github.com/zhiqi-li/Panoptic-SegFormer/releases/download/v1.0"

# fmt: off
ROBUSTNESS = {
    "r50": PublishedRobustness(50.0, 32.9, (
        26.9, 30.2, 17.5, 31.6,  35.5, 27.9, 35.4, 38.6,  45.7, 31.3, 43.9, 29.0,  24.3, 35.0, 41.9, 32.3,
    )),
    "swinl": PublishedRobustness(55.8, 47.2, (
        41.3, 41.5, 34.3, 42.7,  48.6, 49.5, 48.8, 50.3,  53.8, 50.1, 53.5, 46.9,  44.8, 51.5, 53.3, 44.3,
    )),
    "pvtv2b5": PublishedRobustness(55.6, 47.0, (
        41.5, 41.1, 36.1, 42.5,  48.4, 49.6, 48.4, 50.4,  53.5, 50.8, 53.0, 46.2,  42.4, 50.3, 52.9, 44.3,
    )),
}
"""Table 11 of the paper: 2000 images of COCO val2017. Section 4.4 does not specify which images or severities."""
# fmt: on


def _row(name: str, file: str, backbone: str, pq: tuple[float, float, float]) -> PublishedWeights:
    """Return the weights in one file. `pq` is that of all categories, things and stuff."""
    file = f"panoptic_segformer_{file}.pth"
    return PublishedWeights(name, file, RELEASE, backbone, *pq, robustness=ROBUSTNESS.get(name))


PUBLISHED = (
    _row("r50_1x", "r50_1x", "ResNet-50", (48.0, 52.3, 41.5)),
    _row("r50", "r50_2x", "ResNet-50", (49.6, 54.4, 42.4)),
    _row("r101", "r101_2x", "ResNet-101", (50.6, 55.5, 43.2)),
    _row("pvtv2b5", "pvtv2b5_2x", "PVTv2-B5", (55.6, 61.2, 46.6)),
    _row("swinl", "swinl_2x", "Swin-L", (55.8, 61.7, 46.9)),
)
