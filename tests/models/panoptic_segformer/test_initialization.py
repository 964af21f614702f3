"""Initial weights, compared with the reference implementation (`init_r50.json`: mean, std, min and max per tensor)."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from panformer_cli.models.panoptic_segformer.official.names import own_name
from tests.golden.release import DATA, unfilled_model
from tests.models.panoptic_segformer.small import naming


def is_mask_bias(name: str) -> bool:
    """Return whether a tensor is a single random number, whose statistics look like those of a constant."""
    return name.endswith("mask_head.output.bias")


@pytest.fixture(scope="module")
def ours() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return unfilled_model("r50").state_dict()


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[float]]:
    """Return the recorded statistics by our names, without the backbone, whose weights come from ImageNet."""
    rows = json.loads((DATA / "init_r50.json").read_text())
    names = {name: own_name(name, False) for name in rows if not name.startswith("backbone.")}
    return {ours: rows[name] for name, ours in names.items() if ours is not None}


def is_constant(statistics: list[float]) -> bool:
    mean, _, low, high = statistics
    return math.isclose(low, high, rel_tol=1e-6, abs_tol=1e-9) and math.isclose(mean, low, rel_tol=1e-5, abs_tol=1e-9)


def is_ring(name: str) -> bool:
    return name.endswith("sampling_offsets.bias")


@pytest.mark.slow
def test_every_tensor_of_neck_and_head_is_compared(ours: dict[str, Tensor], recorded: dict[str, list[float]]) -> None:
    assert set(recorded) == {name for name in ours if not name.startswith("backbone.")}
    assert sum(is_constant(statistics) for statistics in recorded.values()) > 100
    assert sum(not is_constant(statistics) for statistics in recorded.values()) > 200


@pytest.mark.slow
def test_constants_are_equal(ours: dict[str, Tensor], recorded: dict[str, list[float]]) -> None:
    for name, statistics in recorded.items():
        if is_constant(statistics) and not is_mask_bias(name):
            torch.testing.assert_close(
                ours[name], torch.full_like(ours[name], statistics[0]), rtol=1e-6, atol=1e-8, msg=naming(name)
            )


@pytest.mark.slow
def test_fixed_patterns_are_equal(ours: dict[str, Tensor], recorded: dict[str, list[float]]) -> None:
    """The ring of sampling offsets, and the bias of the first box branch, which is -2 for width and height."""
    patterns = [name for name in recorded if is_ring(name)] + ["location_decoder.box_branches.0.4.bias"]
    assert len(patterns) == 13
    for name in patterns:
        x = ours[name].double()
        statistics = (x.mean(), x.std(correction=0), x.min(), x.max())
        assert [float(value) for value in statistics] == pytest.approx(recorded[name], rel=1e-5, abs=2e-6), name


def test_random_tensors_have_the_same_distribution(ours: dict[str, Tensor], recorded: dict[str, list[float]]) -> None:
    for name, (mean, std, low, high) in recorded.items():
        x = ours[name].double()
        count = x.numel()
        if is_constant([mean, std, low, high]) or is_ring(name) or count < 24:
            continue
        # Both are random samples: allow six standard errors of the difference (of a normal distribution).
        assert abs(float(x.mean()) - mean) < 6 * std * math.sqrt(2 / count), name
        assert abs(float(x.std()) - std) < 6 * std / math.sqrt(count), name
        if count >= 1000:  # the range distinguishes uniform (1.7 std) from normal (3 std or more)
            spread = (high - low) / (2 * std)
            assert float(x.max() - x.min()) / (2 * float(x.std())) == pytest.approx(spread, rel=0.25), name


def test_small_random_tensors_have_the_same_range(ours: dict[str, Tensor], recorded: dict[str, list[float]]) -> None:
    """The small layers of the mask heads: torch's default range of a bias, 1 / sqrt(fan-in)."""
    small = [name for name in recorded if ours[name].numel() < 24 and not is_constant(recorded[name])]
    small = [name for name in small if name != "location_decoder.box_branches.0.4.bias"]
    biases = {name for name in recorded if is_mask_bias(name)}
    assert len(biases) == 12
    for name in {*small, *biases}:
        weight = ours[name.replace("bias", "weight")]
        limit = 1 / math.sqrt(weight.shape[1])
        assert ours[name].abs().max() <= limit, name
        assert max(abs(recorded[name][2]), abs(recorded[name][3])) <= limit, name
