"""Rows of the log that span a stop are those of a run that was never stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from panformer_cli.engine.checkpoints.checkpoint import LOG, read_tensors
from panformer_cli.engine.checkpoints.run_checkpoints import _by_rank, _row_of_rank
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.train import TrainOptions, train
from tests.engine.small import ALONE, StopAfter, small_recipe
from tests.engine.training.test_train import interrupt
from tests.engine.training.toy import use_toy_runs


def rows(run: RunFolder) -> list[dict[str, Any]]:
    """Return the rows without what differs when a run is repeated."""
    lines = map(json.loads, run.metrics.read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in ("seconds", "speed")} for row in lines]


@pytest.mark.slow
def test_rows_are_the_same_bit_for_bit_wherever_the_run_stops(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row has three steps, and accumulated gradients of four batches."""
    use_toy_runs(monkeypatch)
    recipe = small_recipe(scenes, "train.max_steps=7", "train.epochs=9", "train.log_every=3", "train.lr=0.05")
    plain = train(recipe, TrainOptions(tmp_path / "plain"), ALONE, StopAfter()).run
    assert [row["step"] for row in rows(plain) if row["kind"] == "train"] == [3, 6, 7]
    for stop in range(1, 7):
        run = RunFolder(tmp_path / f"stopped{stop}")
        train(recipe, TrainOptions(run.path), ALONE, StopAfter(stop, interrupt))
        assert bool(read_tensors(run.last, LOG)) == (stop % 3 != 0)
        train(recipe, TrainOptions(run.path, resume=True), ALONE, StopAfter())
        assert rows(run) == rows(plain), stop


@pytest.mark.parametrize(("ranks", "continues"), [((0, 1), True), ((1,), False), ((0, 1, 2), True), ((), False)])
def test_a_row_continues_on_all_ranks_or_on_none(ranks: tuple[int, ...], continues: bool) -> None:
    """Otherwise its mean would be one over different numbers of steps."""
    states = _by_rank({rank: {"weight": torch.tensor(float(rank))} for rank in ranks})
    for rank in (0, 1):
        row = _row_of_rank(Process(rank, 2, ALONE.device), states)
        assert row == ({"weight": torch.tensor(float(rank))} if continues else {})
