"""Settings of the models of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from panformer_cli.models.hugging_face.architectures import ArchitectureName
from panformer_cli.setting_types import FilePath, Fraction, Range
from panformer_cli.settings import InferenceSettings, ModelSettings

FAMILY = "hugging_face"
NO_CATEGORY = -1
"""Category id of a label that belongs to no category."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Colors = Annotated[tuple[float, float, float], Range(-10, 10)]
PostProcessing = Literal["original", "transformers", "transformers_defaults"]


@dataclass(frozen=True)
class HuggingFaceSettings(ModelSettings):
    """A network of transformers. They come from the folder of a checkpoint (docs/hugging_face_rules.md)."""

    family: str = FAMILY
    """Model family: `hugging_face`."""
    backbone: str = "transformers"
    """Not used: the backbone is in `config`."""
    architecture: ArchitectureName = "mask2former"
    """Architecture: `maskformer`, `mask2former`, `oneformer`, `eomt`, `eomt_dinov3` or `detr`."""
    config: FilePath = ""
    """Path of the `config.json` that transformers wrote for the network. Empty: transformers' defaults for the
    architecture."""
    labels: Annotated[tuple[int, ...], Range(-1)] = ()
    """Category id of each label of the network; -1: none, segments of this label become void. Empty: the labels are
    those of the category table."""
    stuff_labels: Annotated[tuple[int, ...], Range(0)] = ()
    """Labels without a category that are known to be stuff. DETR merges their masks."""
    image_mean: Colors = IMAGENET_MEAN
    """Mean of the channels R, G, B, for values of 0 to 1."""
    image_std: Annotated[tuple[float, float, float], Range(0, 10, above=True)] = IMAGENET_STD
    """Standard deviation of the channels R, G, B, for values of 0 to 1."""
    task: Literal["panoptic", "instance"] = "panoptic"
    """OneFormer only: the task that the network receives. `instance` is for box AP and mask AP."""

    parts: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class QueryMergingSettings(InferenceSettings):
    """Thresholds of the original projects' merging (docs/hugging_face_rules.md)."""

    score_threshold: Fraction = 0.8
    """Class score above which a query is kept. The originals use 0.85 for DETR and 0.8 for the others."""
    overlap_threshold: Fraction = 0.8
    """Minimum area of a segment, as a share of the query's mask; below it, the query is dropped. DETR does not
    use it."""
    post_processing: PostProcessing = "original"
    """Which rules merge the masks: `original`, those of the architecture's original project; `transformers`, those of
    transformers with the same thresholds and the same stuff classes; `transformers_defaults`, those of transformers
    when it is called without options."""

    grid: ClassVar[dict[str, tuple[float, ...]]] = {
        "score_threshold": tuple(step / 20 for step in range(6, 20)),
        "overlap_threshold": tuple(step / 10 for step in range(1, 10)),
    }
    predict_options: ClassVar[dict[str, tuple[str, ...]]] = {"threshold": ("score_threshold",)}
