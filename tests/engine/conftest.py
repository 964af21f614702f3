"""A data set and a trained run for all engine tests, which must not change them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from panformer_cli.engine.runs import RunFolder
from tests.engine.ranks import kill_started
from tests.engine.small import run_small, small_recipe, small_scenes
from tests.helpers import made_once


@pytest.fixture(scope="session")
def scenes(request: pytest.FixtureRequest) -> Path:
    """Write a data set of 8 training and 4 validation images."""
    return made_once(request, "scenes", small_scenes)


@pytest.fixture(scope="session")
def trained(scenes: Path, request: pytest.FixtureRequest) -> RunFolder:
    """Train 4 steps, 2 per epoch, evaluated after each epoch; dropout is on, so that the random state matters."""
    recipe = small_recipe(scenes, "train.max_steps=4", "model.dropout=0.2")
    return RunFolder(made_once(request, "trained", lambda out: run_small(recipe, out)))


@pytest.fixture
def equal_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use as many threads in workers as here, since the last digit of a float sum depends on them."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    """End the processes of a failed test."""
    yield
    kill_started()
