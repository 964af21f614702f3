"""The choice of micro-batch, precision and checkpointing, with memory and time as functions of the plan."""

from __future__ import annotations

import itertools
from dataclasses import replace

import click
import numpy as np
import pytest

from panformer_cli.cli.train import MemorySize
from panformer_cli.engine.training.memory.plan import (
    Ladder,
    MemoryPlan,
    Probe,
    checkpoint_levels,
    fastest_plan,
    micro_batches,
    next_smaller,
)
from panformer_cli.settings import TrainSettings

PARTS = ("encoder", "masks", "backbone")
LADDER = Ladder([4, 2, 1], ["fp32", "bf16"], checkpoint_levels(TrainSettings(), PARTS))


def needs(plan: MemoryPlan) -> Probe:
    """A model of memory (1 + images x kept) and time (recomputation costs, larger batches and bf16 help)."""
    kept = {0: 3.0, 1: 2.0, 2: 1.0, 3: 0.5}[len(plan.checkpoint)] * (0.6 if plan.precision == "bf16" else 1.0)
    seconds = (1 + 0.1 * len(plan.checkpoint)) * (0.5 if plan.precision == "bf16" else 1.0)
    return Probe(1 + plan.images_per_forward * kept, seconds * (1 + 0.2 / plan.images_per_forward))


@pytest.mark.parametrize("limit", [*np.arange(1.2, 14, 0.3), 100])
def test_the_fastest_plan_that_fits_is_found(limit: float) -> None:
    every = [MemoryPlan(*values) for values in itertools.product(LADDER.sizes, LADDER.precisions, LADDER.checkpoints)]
    fitting = [plan for plan in every if needs(plan).memory <= limit]
    found = fastest_plan(LADDER, limit, needs)
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert needs(found[0]).memory <= limit
    assert needs(found[0]).seconds == min(needs(plan).seconds for plan in fitting)


def test_without_need_nothing_is_checkpointed_and_little_is_tried() -> None:
    tried: list[MemoryPlan] = []
    found = fastest_plan(LADDER, 100, lambda plan: tried.append(plan) or needs(plan))  # type: ignore[func-returns-value]
    assert tried == [MemoryPlan(4, "fp32", ()), MemoryPlan(4, "bf16", ())]
    assert found == (tried[1], needs(tried[1]))


def test_a_trial_that_ran_out_of_memory_does_not_fit() -> None:
    small = MemoryPlan(1, "bf16", PARTS)
    assert fastest_plan(LADDER, 100, lambda plan: needs(plan) if plan == small else None) == (small, needs(small))
    assert fastest_plan(LADDER, 100, lambda _: None) is None


def test_levels_keep_the_parts_of_the_settings_and_the_order_of_the_model() -> None:
    levels = checkpoint_levels(TrainSettings(checkpoint=("masks",)), PARTS)
    assert levels == [("masks",), ("masks", "encoder"), ("masks", "encoder", "backbone")]


def test_micro_batches_divide_the_images_of_a_process() -> None:
    assert [micro_batches(*case) for case in ((8, 8), (6, 4), (5, 4), (1, 9))] == [[8, 4, 2, 1], [3, 2, 1], [1], [1]]


def test_plans_get_smaller_until_nothing_is_left_and_keep_the_images_per_step() -> None:
    settings = TrainSettings(batch_size=8, images_per_forward=6, precision="bf16")
    plan: MemoryPlan | None = MemoryPlan.of(settings)
    seen = []
    while plan is not None:
        seen.append((plan.images_per_forward, plan.checkpoint))
        changed = plan.applied(settings)
        assert replace(changed, images_per_forward=6, checkpoint=()) == settings
        plan = next_smaller(plan, PARTS)
    assert seen == [(6, PARTS[:count]) for count in range(4)] + [(size, PARTS) for size in (3, 1)]


@pytest.mark.parametrize(
    ("text", "size"), [("11GB", 11e9), ("10.5 GiB", 10.5 * 2**30), ("900mb", 9e8), ("1MiB", 2**20)]
)
def test_sizes_have_units(text: str, size: float) -> None:
    assert MemorySize().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["11", "GB", "0GB", "-1GB", "nanGB", "1e3GB", "11GBs", ""])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected a number above 0 with MB, GB, MiB or GiB"):
        MemorySize().convert(text, None, None)
