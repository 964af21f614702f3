"""`--sampling`: every command uses the requested implementation of deformable attention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.compare import CompareOptions
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.evaluation.evaluate_robustness import RobustnessRequest, evaluate_robustness
from panformer_cli.engine.evaluation.robustness import RobustnessOptions
from panformer_cli.engine.evaluation.tune import TuneRequest, tune
from panformer_cli.engine.predict import PredictRequest, predict
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.models.layers import sampling
from panformer_cli.models.layers.common import LevelShapes
from panformer_cli.models.layers.sampling.portable import gather_sampling
from panformer_cli.reporting import SilentReporter
from tests.engine.small import small_recipe

GATHER = Process(0, 1, torch.device("cpu"), sampling="gather")
QUIET = SilentReporter()

COMMANDS: dict[str, Callable[[Path, Path, Path], object]] = {
    "train": lambda scenes, _, out: train(small_recipe(scenes, "train.max_steps=1"), TrainOptions(out), GATHER, QUIET),
    "predict": lambda scenes, best, out: predict(
        PredictRequest([str(scenes / "images" / "val")], best, out), GATHER, QUIET
    ),
    "evaluate": lambda _, best, out: evaluate(EvaluateRequest(best, out, resamples=5), GATHER, QUIET),
    "tune": lambda _, best, out: tune(TuneRequest(best, out, options=CompareOptions(resamples=5)), GATHER, QUIET),
    "robustness": lambda _, best, out: evaluate_robustness(
        RobustnessRequest(EvaluateRequest(best, out), RobustnessOptions(("contrast",), (1,))), GATHER, QUIET
    ),
}
"""Each gets the data set, a checkpoint and a folder for its results."""


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_uses_the_requested_sampling(
    command: str, scenes: Path, trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
        calls.append(values.shape)
        return gather_sampling(values, shapes, locations, weights)

    def fastest(*_: object) -> Tensor:
        raise AssertionError("the fastest implementation was not asked for")

    monkeypatch.setattr(sampling, "gather_sampling", counted)
    monkeypatch.setattr(sampling, "_fastest", fastest)
    COMMANDS[command](scenes, trained.best, tmp_path / "out")
    assert calls
