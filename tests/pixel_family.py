"""A second model family, to test the contract of `models/base.py`: a per-cell linear classifier on C3."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import Batch, PanopticMap, Sample
from panformer_cli.metrics.detection import InstancePrediction, encode_mask
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.models.base import LossCounts, PanopticModel, ParameterGroup, Prediction
from panformer_cli.settings import InferenceSettings, ModelSettings, TrainSettings
from panformer_cli.storage.files import write_json


@dataclass(frozen=True)
class PixelSettings(ModelSettings):
    """Architecture of the classifier."""

    family: str = "per_pixel"
    hidden_dim: int = 16


@dataclass(frozen=True)
class PixelThresholds(InferenceSettings):
    """Minimum mean probability of a segment."""

    min_score: float = 0.0
    grid: ClassVar[dict[str, tuple[float, ...]]] = {"min_score": (0.0, 0.2, 0.4, 0.99)}
    predict_options: ClassVar[dict[str, tuple[str, ...]]] = {"threshold": ("min_score",)}


class PixelOutput(NamedTuple):
    """Output of `infer`.

    Attributes:
        probabilities: (B, classes, h, w).
    """

    probabilities: Tensor


@dataclass(frozen=True)
class PixelCache:
    """Image overlaps without a threshold; segments below the threshold become void."""

    whole: ImageOverlap

    def overlap(self, settings: PixelThresholds, categories: CategoryTable) -> ImageOverlap:
        del categories
        kept = [n for n, segment in enumerate(self.whole.predictions) if (segment.score or 0) >= settings.min_score]
        columns = self.whole.overlap[:, kept]
        void = self.whole.overlap.sum(axis=1) - columns.sum(axis=1)
        segments = tuple(self.whole.predictions[n] for n in kept)
        return replace(self.whole, predictions=segments, overlap=np.column_stack([columns, void]))

    def save(self, path: Path) -> None:
        write_json(path, self.whole.to_json())


@dataclass(frozen=True)
class PixelPrediction(Prediction):
    """The most probable class of every pixel; each class is one segment."""

    probabilities: Tensor
    categories: CategoryTable
    settings: PixelThresholds

    @cached_property
    def panoptic(self) -> PanopticMap:
        best = self.probabilities.max(dim=0)
        ids = best.indices.numpy().astype(np.int32) + 1
        scores = {int(n): float(best.values.numpy()[ids == n].mean()) for n in np.unique(ids)}
        kept = {n: score for n, score in scores.items() if score >= self.settings.min_score}
        ids[~np.isin(ids, list(kept))] = 0
        found = segments_of(ids, {n: self.categories.by_label(n - 1).id for n in kept})
        return PanopticMap(ids, tuple(replace(segment, score=kept[segment.id]) for segment in found))

    def instances(self, image_id: int | str) -> InstancePrediction:
        things = [s for s in self.panoptic.segments if self.categories.by_id(s.category_id).is_thing]
        boxes = [[x, y, x + width, y + height] for x, y, width, height in (s.bbox for s in things)]
        masks = [encode_mask(self.panoptic.ids == s.id) for s in things]
        labels = [s.id - 1 for s in things]
        return InstancePrediction(
            image_id, [s.score or 0.0 for s in things], labels, np.array(boxes).reshape(-1, 4), masks
        )


class PixelClassifier(PanopticModel):
    """A hidden layer and a linear layer on C3."""

    def __init__(self, settings: PixelSettings, categories: CategoryTable) -> None:
        super().__init__(categories)
        self.backbone = build_backbone(
            settings.backbone, settings.drop_path, settings.frozen_stages, True, settings.backbone_normalization
        )
        self.hidden = nn.Conv2d(self.backbone.channels[0], settings.hidden_dim, 1)
        self.classifier = nn.Conv2d(settings.hidden_dim, len(categories), 1)

    def logits(self, images: Tensor) -> Tensor:
        output: Tensor = self.classifier(self.hidden(self.backbone(images)[0]).relu())
        return output

    def infer(self, images: Tensor, padding_mask: Tensor) -> PixelOutput:
        del padding_mask
        return PixelOutput(self.logits(images).float().softmax(1))

    def forward(self, batch: Batch, counts: LossCounts) -> dict[str, Tensor]:
        assert counts.things >= 0
        logits = F.interpolate(self.logits(batch.images).float(), batch.images.shape[-2:], mode="bilinear")
        truth = torch.full(batch.padding_mask.shape, -1, device=logits.device)
        for number, target in enumerate(batch.targets):
            height, width = target.masks.shape[-2:]
            for label, mask in zip(target.labels, target.masks, strict=True):
                truth[number, :height, :width][mask] = label
        return {"pixel_class": F.cross_entropy(logits, truth, ignore_index=-1, reduction="sum") / truth.numel()}

    def postprocess(self, output: Any, index: int, size: tuple[int, int], settings: Any) -> PixelPrediction:
        probabilities = F.interpolate(output.probabilities[[index]], size, mode="bilinear")[0]
        return PixelPrediction(probabilities.cpu(), self.categories, settings)

    def parameter_groups(self, settings: TrainSettings) -> list[ParameterGroup]:
        del settings
        return [ParameterGroup([parameter for parameter in self.parameters() if parameter.requires_grad], 1.0)]

    def class_rows(self) -> dict[str, range]:
        return dict.fromkeys(("classifier.weight", "classifier.bias"), range(len(self.categories)))

    def stages(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone, "classifier": self.classifier}


class PixelFamily:
    """A `families.Family` that counts calls."""

    model_settings = PixelSettings
    inference_settings = PixelThresholds
    published = ()
    trainable = True

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def build(self, model: Any, inference: Any, categories: CategoryTable, sampling: str) -> PixelClassifier:
        del inference, sampling
        self.calls["build"] += 1
        return PixelClassifier(model, categories)

    def official_format(self) -> None:
        return None

    def tuning_cache(self, prediction: PixelPrediction, sample: Sample) -> PixelCache:
        everything = replace(prediction, settings=PixelThresholds()).panoptic
        return PixelCache(compare(everything, sample.annotation, sample.image_id, sample.file_name))

    def load_tuning_cache(self, path: Path) -> PixelCache:
        self.calls["load_tuning_cache"] += 1
        return PixelCache(ImageOverlap.from_json(json.loads(path.read_text())))
