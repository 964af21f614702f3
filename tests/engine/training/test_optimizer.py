"""Parameter groups, learning rates and schedules, compared with recorded values of the reference implementation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from panformer_cli.engine.training.optimizer import build_optimizer
from panformer_cli.engine.training.schedule import learning_rate_factor, set_learning_rate, total_steps
from panformer_cli.models.panoptic_segformer.official.names import own_name
from panformer_cli.settings import TrainSettings
from tests.golden.release import DATA, unfilled_model
from tests.models.panoptic_segformer.small import small_model

PUBLISHED = TrainSettings()


def settings_of(model: nn.Module, optimizer: AdamW) -> dict[str, tuple[float, float]]:
    """Return learning rate and weight decay of every trained parameter by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rows = [
        (names[id(parameter)], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len({name for name, _ in rows}) == len(rows)
    return dict(rows)


@pytest.mark.slow
def test_learning_rates_match_the_reference_implementation() -> None:
    recorded = json.loads((DATA / "optim_r50.json").read_text())
    with torch.device("meta"):
        model = unfilled_model("r50")
    optimizer = build_optimizer(model, PUBLISHED)
    ours = settings_of(model, optimizer)
    theirs, frozen = {}, set()
    for name, lr, weight_decay, trained in recorded["rows"]:
        own = own_name(name, is_swin=False)
        if own is not None and trained:
            theirs[own] = (lr, weight_decay)
        elif own is not None:
            frozen.add(own)
    assert len(theirs) > 500
    assert len(frozen) > 100
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        assert ours[name] == pytest.approx(expected, rel=1e-6), name
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == frozen
    defaults = recorded["defaults"]
    for group in optimizer.param_groups:
        assert list(group["betas"]) == defaults["betas"]
        assert group["eps"] == defaults["eps"]
        assert group["amsgrad"] == defaults["amsgrad"]


@pytest.mark.parametrize(("epochs", "drop"), [(24, 18), (12, 8)])
def test_the_step_schedule_matches_the_reference_implementation(epochs: int, drop: int) -> None:
    recorded = json.loads((DATA / "optim_r50.json").read_text())
    assert recorded[f"lr_config_{epochs}e"]["step"] == [drop]
    recipe = replace(PUBLISHED, epochs=epochs, drop_epochs=(drop,))
    for epoch, lr in enumerate(recorded[f"lr_per_epoch_{epochs}e"]):
        for step in (10 * epoch, 10 * epoch + 9):
            assert recipe.lr * learning_rate_factor(recipe, step, steps_per_epoch=10) == pytest.approx(lr, rel=1e-9)


def test_groups_have_their_factor_and_the_same_weight_decay() -> None:
    model = small_model()
    ours = settings_of(model, build_optimizer(model, TrainSettings(lr=2e-3, slow_lr_factor=0.25, weight_decay=0.05)))
    slow = {name for name, (lr, _) in ours.items() if lr == pytest.approx(5e-4)}
    fast = {name for name, (lr, _) in ours.items() if lr == pytest.approx(2e-3)}
    assert slow | fast == set(ours) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(decay == 0.05 for _, decay in ours.values())
    assert "backbone.body.layer4.0.conv1.weight" in slow
    assert "encoder.layers.0.attention.sampling_offsets.bias" in slow
    assert "location_decoder.layers.1.cross_attention.sampling_offsets.weight" in slow
    assert "location_decoder.reference_points.weight" in slow
    assert "location_decoder.query_embedding.weight" in fast
    assert "encoder.layers.0.attention.attention_weights.weight" in fast
    assert "neck.levels.0.conv.weight" in fast


def test_every_drop_is_a_tenth_from_its_epoch_on() -> None:
    recipe = replace(PUBLISHED, epochs=10, drop_epochs=(3, 7))
    factors = [learning_rate_factor(recipe, step, steps_per_epoch=2) for step in range(20)]
    assert factors == pytest.approx([1.0] * 6 + [0.1] * 8 + [0.01] * 6)


def test_the_cosine_ends_at_zero() -> None:
    recipe = replace(PUBLISHED, schedule="cosine", epochs=5, drop_epochs=())
    factors = [learning_rate_factor(recipe, step, steps_per_epoch=8) for step in range(41)]
    assert factors[0] == 1.0
    assert factors[10] == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    assert factors[20] == pytest.approx(0.5)
    assert factors[40] == pytest.approx(0.0, abs=1e-12)
    assert factors == sorted(factors, reverse=True)
    assert learning_rate_factor(recipe, 45, steps_per_epoch=8) == pytest.approx(0.0, abs=1e-12)


def test_a_shorter_run_has_a_shorter_cosine() -> None:
    recipe = replace(PUBLISHED, schedule="cosine", epochs=5, max_steps=20)
    assert learning_rate_factor(recipe, 10, steps_per_epoch=8) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_warmup_rises_linearly_to_the_full_rate(schedule: str) -> None:
    recipe = replace(PUBLISHED, schedule=schedule, epochs=1000, warmup_steps=4)  # type: ignore[arg-type]
    factors = [learning_rate_factor(recipe, step, steps_per_epoch=1000) for step in range(6)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rel=1e-6)


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    assert learning_rate_factor(PUBLISHED, 0, steps_per_epoch=100) == 1.0


@pytest.mark.parametrize(("max_steps", "expected"), [(None, 48), (30, 30), (100, 48)])
def test_total_steps(max_steps: int | None, expected: int) -> None:
    assert total_steps(replace(PUBLISHED, epochs=6, max_steps=max_steps), steps_per_epoch=8) == expected


def test_a_factor_scales_the_base_rate_of_each_group() -> None:
    optimizer = build_optimizer(small_model(), TrainSettings(lr=1e-3, slow_lr_factor=0.1))
    for factor in (0.5, 0.1, 1.0):
        set_learning_rate(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3 * factor, 1e-4 * factor])


def factors_of(steps: int, **changes: Any) -> list[float]:
    """Return the factors of a run of 2 epochs with this many steps in total."""
    recipe = replace(PUBLISHED, epochs=2, **changes)
    return [learning_rate_factor(recipe, step, steps_per_epoch=steps // 2) for step in range(steps)]


def test_schedules_of_ten_steps_worked_out_by_hand() -> None:
    assert factors_of(10, schedule="constant", min_lr_factor=0.5) == [1.0] * 10
    poly = factors_of(10, schedule="poly")
    assert (poly[0], poly[5], poly[9]) == pytest.approx((1.0, 0.5**0.9, 0.1**0.9))
    cosine = factors_of(10, schedule="cosine", min_lr_factor=0.2)
    assert (cosine[0], cosine[5]) == pytest.approx((1.0, 0.6))  # halfway between 1 and 0.2
    assert cosine[9] == pytest.approx(0.2 + 0.8 * (1 - math.cos(math.pi / 10)) / 2)
    assert factors_of(10, schedule="poly", min_lr_factor=0.5)[5] == pytest.approx(0.5 + 0.5 * 0.5**0.9)
    assert factors_of(10, drop_epochs=(0, 1), min_lr_factor=0.05) == pytest.approx([0.1] * 5 + [0.05] * 5)


def test_one_cycle_worked_out_by_hand() -> None:
    """In 21 steps the rate peaks at step 6 of 20, 30 %, and is halfway at steps 3 and 13."""
    recipe = replace(PUBLISHED, schedule="one_cycle", epochs=21, min_lr_factor=0.01)
    factors = [learning_rate_factor(recipe, step, steps_per_epoch=1) for step in range(21)]
    expected = {0: 0.04, 3: (0.04 + 1) / 2, 6: 1.0, 13: (1 + 0.01) / 2, 20: 0.01}
    assert {step: factors[step] for step in expected} == pytest.approx(expected)
    assert factors[:7] == sorted(factors[:7]) and factors[6:] == sorted(factors[6:], reverse=True)
    assert learning_rate_factor(recipe, 30, steps_per_epoch=1) == pytest.approx(0.01)  # a step beyond the end
    assert learning_rate_factor(replace(recipe, epochs=1), 0, steps_per_epoch=1) == pytest.approx(0.04)


@pytest.mark.parametrize("schedule", ["step", "cosine", "poly", "one_cycle", "constant"])
@pytest.mark.parametrize("floor", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("steps", [2, 10, 1000])
def test_the_last_step_has_the_lowest_rate_and_no_step_is_below_the_floor(
    schedule: str, floor: float, steps: int
) -> None:
    factors = factors_of(steps, schedule=schedule, min_lr_factor=floor, drop_epochs=(1,))
    assert min(factors) == factors[-1] >= floor
    assert max(factors) <= 1.0
    # The warmup multiplies whatever the schedule gives.
    warm = factors_of(steps, schedule=schedule, min_lr_factor=floor, drop_epochs=(1,), warmup_steps=1)
    assert warm == pytest.approx([factors[0] / 2, *factors[1:]])


def test_the_cosine_without_a_floor_is_unchanged_bit_for_bit() -> None:
    for step, factor in enumerate(factors_of(30, schedule="cosine", warmup_steps=4)):
        assert factor == min(1.0, (step + 1) / 5) * 0.5 * (1 + math.cos(math.pi * min(step / 30, 1.0)))
