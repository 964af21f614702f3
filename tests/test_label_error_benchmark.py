"""The benchmark of label errors plants what it says, and the list of `--label-errors` is better than a list by loss."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from panformer_cli.data.scenes.generator import generate_scene
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.data.structures import PanopticMap
from panformer_cli.metrics.analysis.label_errors import Kind
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "label_errors.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("label_errors_benchmark", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def things_of(truth: PanopticMap) -> int:
    return sum(segment.category_id < 20 for segment in truth.segments)


@pytest.mark.slow
def test_the_planted_errors(benchmark: ModuleType) -> None:
    clean = [generate_scene(SceneOptions(seed=7), "val", index)[1] for index in range(60)]
    planted, errors = benchmark.plant(clean, np.random.default_rng(0))
    segments = sum(not segment.is_crowd for truth in clean for segment in truth.segments)
    assert Counter(error.kind for error in errors) == dict.fromkeys(benchmark.KINDS, round(segments / 100))
    assert len({error.image for error in errors}) == len(errors)
    changed = {image for image in range(60) if planted[image] is not clean[image]}
    assert changed == {error.image for error in errors}
    more = {Kind.SURPLUS_LABEL: 1, Kind.MISSING_ANNOTATION: -1, Kind.MERGED_INSTANCES: -1}
    for error in errors:
        before, after = clean[error.image], planted[error.image]
        assert len(after.segments) - len(before.segments) == more.get(error.kind, 0)
        assert things_of(after) - things_of(before) == more.get(error.kind, 0)
        if error.kind is Kind.MISSING_ANNOTATION:
            assert (before.ids[error.mask] != after.ids[error.mask]).all()
            continue
        assert ((after.ids == error.segment) == error.mask).all()
        own = before.ids == error.segment
        if error.kind is Kind.WRONG_CLASS:
            assert (own == error.mask).all()
            old, new = ({s.id: s.category_id for s in side.segments}[error.segment] for side in (before, after))
            assert old != new and (old < 20) == (new < 20)
        if error.kind is Kind.POOR_OUTLINE:
            assert 0.2 < (own & error.mask).sum() / (own | error.mask).sum() < 0.75


@pytest.mark.slow
def test_the_list_is_better_than_lists_by_loss(benchmark: ModuleType) -> None:
    result: dict[str, Any] = benchmark.run(200, 5, None)
    ours, *others = result["lists"].values()
    for other in others:
        assert ours["precision"] > 2 * other["precision"]
        assert ours["recall"] > other["recall"] + 15
    assert ours["named"] > 80
