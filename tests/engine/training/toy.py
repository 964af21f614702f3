"""A model of a few weights with BatchNorm and dropout, batches for it, and whole runs of it that take milliseconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import Batch, Targets
from panformer_cli.errors import NonFiniteError
from panformer_cli.metrics.quality import GroupQuality, PanopticResult
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.base import LossCounts, PanopticModel, ParameterGroup
from tests.engine.small import BACKBONE


class NoBackbone(Backbone):
    """The name that checkpoints are compared with, and a BatchNorm, but no weights."""

    def forward(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError


class ToyModel(PanopticModel):
    """Loss: mean square of the output. An image of NaN gives a NaN loss, one of infinity an error as the matcher's.

    An image of zeros gives a finite loss whose gradient is infinite: the derivative of the root of 0.
    """

    def __init__(self, categories: Any = SimpleNamespace(num_things=1)) -> None:  # noqa: B008 (never changed)
        super().__init__(categories)
        self.backbone = NoBackbone(BACKBONE, nn.BatchNorm2d(1, affine=False), [])
        self.layer = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.3)

    def forward(self, batch: Batch, counts: LossCounts) -> dict[str, Tensor]:
        images = F.adaptive_avg_pool2d(batch.images.mean(1), 2).flatten(1)
        if images.isinf().any():
            raise NonFiniteError("the matching costs are no longer finite")
        output = self.dropout(self.norm(self.layer(images)))
        losses = {"square/0": output.square().mean(), "shift/0": (output - 1).square().mean()}
        if (images == 0).all():
            losses["root/0"] = (self.layer.bias * 0).sum().sqrt()
        return losses

    def freeze(self, parts: Any) -> None:
        del parts

    def stages(self) -> dict[str, nn.Module]:
        return {"layer": self.layer}

    def parameter_groups(self, settings: Any) -> list[ParameterGroup]:
        return [ParameterGroup(list(self.parameters()), 1.0)]


ToyModel.__abstractmethods__ = frozenset()  # those for inference, which no step needs


def toy_model(seed: int = 0) -> PanopticModel:
    torch.manual_seed(seed)
    return ToyModel()  # type: ignore[abstract]


def toy_batch(seed: int, value: float = math.nan, bad: bool = False) -> Batch:
    """Return two images of 2 x 2 pixels with the ids `seed` and `seed`-b; if `bad`, the first consists of `value`."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 1, 2, 2, generator=generator)
    if bad:
        images[:] = value
    targets = Targets(torch.tensor([0]), torch.zeros(1, 4), torch.zeros(1, 2, 2, dtype=torch.bool))
    return Batch(images, torch.zeros(2, 2, 2, dtype=torch.bool), [targets, targets], [seed, f"{seed}-b"])


def use_toy_runs(monkeypatch: pytest.MonkeyPatch, pq: Callable[[ToyModel], float] = lambda _: 50.0) -> None:
    """Let `train` build a `ToyModel`, whose evaluation is `pq(model)`."""

    def build(model: Any, inference: Any, categories: CategoryTable, *rest: Any) -> ToyModel:
        del model, inference, rest
        return ToyModel(categories)  # type: ignore[abstract]

    def evaluate(predictor: Any, validation: Any, *rest: Any, **named: Any) -> Any:
        del rest, named
        group = GroupQuality(pq(predictor.model), 60.0, 70.0, 3)
        result = SimpleNamespace(result=lambda: PanopticResult(group, group, group, ()))
        return SimpleNamespace(images=len(validation), panoptic=result)

    training = "panformer_cli.engine.training"
    monkeypatch.setattr(f"{training}.trainer.build_model", build)
    monkeypatch.setattr(f"{training}.validation.evaluate_model", evaluate)
    monkeypatch.setattr(f"{training}.validation.Predictor", lambda model, *_: SimpleNamespace(model=model))
