"""Training steps, compared with the reference implementation: losses, both matchings, gradients and optimizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from panformer_cli.data.structures import Batch
from panformer_cli.engine.training.optimizer import build_optimizer
from panformer_cli.models.layers.losses import resize_masks
from panformer_cli.models.panoptic_segformer.criterion import PanopticCriterion
from panformer_cli.models.panoptic_segformer.matcher import match_masks
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.models.panoptic_segformer.official.names import own_name
from panformer_cli.settings import TrainSettings
from tests.golden.conftest import variants_recorded
from tests.golden.recordings import FidelityTable, Recording
from tests.golden.release import THINGS, filled_model
from tests.golden.training_cases import (
    CASES,
    TrainingCase,
    but_for_a_kink,
    loss_differences,
    norm_differences,
    norm_of,
    recorded_by_own_name,
    sample_differences,
    whole_differences,
)

pytestmark = pytest.mark.slow

# Three times the differences between two runs of the reference implementation (README.md). The large ones are due to
# ReLU kinks in the constant padding, and to gradients that almost cancel without things.
NORM_LIMITS = {"padded": 1.8e-3}
WHOLE_LIMITS = {"padded": 2.1e-2, "no_things": 1.8e-3}
NORM_LIMIT, WHOLE_LIMIT = 1.8e-4, 2.4e-4


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize by every case of every `train_<variant>` in the folder of recordings."""
    if "case" in metafunc.fixturenames:
        variants = variants_recorded(metafunc.config, "train_{}")
        rounds = [(variant, name) for variant in variants for name in CASES]
        metafunc.parametrize("case", rounds, indirect=True, scope="module", ids="-".join)


_models: dict[str, PanopticSegFormer] = {}


def train_model(variant: str) -> PanopticSegFormer:
    """Return the model of a variant. The last one is cached, because a forward pass does not change its weights."""
    if variant not in _models:
        _models.clear()
        _models[variant] = filled_model(variant, train=True)
    return _models[variant]


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, recordings: Path, inputs: dict[str, Tensor]) -> TrainingCase:
    variant, name = request.param
    return TrainingCase.of(name, variant, Recording(recordings, f"train_{variant}"), train_model(variant), inputs)


def test_losses(case: TrainingCase, fidelity: FidelityTable) -> None:
    recorded, losses = case.recording.notes[f"{case.name}.losses"], case.losses(case.counts)
    assert len(recorded) == 48
    fidelity.measure("48 losses, relative", case.column, loss_differences(recorded, losses), 1e-4)
    theirs = case.recording.notes[f"{case.name}.loss_total"]
    off = abs(sum(loss.item() for loss in losses.values()) - theirs) / theirs
    fidelity.measure("total loss, relative", case.column, off, 1e-4)


def test_the_forward_pass_of_the_model_gives_the_same_losses(case: TrainingCase) -> None:
    """The steps in `TrainingCase` are those of the model."""
    with torch.no_grad():
        losses = case.model(Batch(case.images, case.padding, [case.targets]), case.counts)
    expected = PanopticCriterion(THINGS)(case.forward[0], [case.image_targets], [case.forward[1]], case.counts)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name].detach(), rtol=1e-4, atol=1e-6)


def assignments(queries: Tensor, objects: Tensor, count: int) -> list[int]:
    """Return assignments in the format of the recordings: 0 for background, k for the k-th thing, from 1."""
    row = [0] * count
    for query, number in zip(queries.tolist(), objects.tolist(), strict=True):
        row[query] = number + 1
    return row


def test_first_matching(case: TrainingCase, fidelity: FidelityTable) -> None:
    arrays, (output, match) = case.recording.arrays, case.forward
    ours = np.array([assignments(match.queries[layer], match.objects[layer], 300) for layer in range(6)])
    theirs = np.vstack([arrays[f"{case.name}.assign.loc"], arrays[f"{case.name}.assign.filter"][None]])
    assert output.selected[0].tolist() == arrays[f"{case.name}.assign.filter_pos"].tolist()
    others = float((ours != theirs).sum())
    fidelity.measure("matching of 6 location layers: different assignments", case.column, others, 0)


def test_second_matching(case: TrainingCase, fidelity: FidelityTable) -> None:
    output, _ = case.forward
    chosen, things, masks = output.selected[0], case.image_targets.things, output.things.masks[-1][0]
    height, width = things.masks.shape[-2:]
    canvas = torch.zeros(len(things.masks), *output.canvas)
    canvas[:, :height, :width] = things.masks.float()
    second = match_masks(
        output.location.class_logits[-1, 0, chosen],
        output.location.boxes[-1, 0, chosen],
        masks,
        things,
        resize_masks(canvas, (masks.shape[-2], masks.shape[-1])),
    )
    ours = assignments(second.queries[0], second.objects[0], len(chosen))
    others = float((np.array(ours) != case.recording.arrays[f"{case.name}.assign.mask"]).sum())
    fidelity.measure("second matching, with masks: different assignments", case.column, others, 0)


def test_masks_in_training(case: TrainingCase, fidelity: FidelityTable) -> None:
    output, _ = case.forward
    for name, masks in (("things", output.things), ("stuff", output.stuff)):
        if masks.masks[-1].numel():
            off = case.recording.distance(f"{case.name}.{name}.mask", masks.masks[-1].flatten(2))
            fidelity.measure("final masks", case.column, off, 1e-4)


@pytest.mark.parametrize("without_class_losses", [False, True], ids=["all losses", "without class losses"])
def test_gradients(case: TrainingCase, without_class_losses: bool, fidelity: FidelityTable) -> None:
    """The full gradients of `plain` were recorded after clipping for its optimizer step."""
    prefix = f"{case.name}.nocls." if without_class_losses else f"{case.name}."
    notes, gradients = case.recording.notes, case.gradients(without_class_losses)
    clipped = case.name == "plain" and not without_class_losses
    scale = 0.1 / notes["plain.step.grad_norm_before_clip"] if clipped else 1.0
    norms = norm_differences(notes[f"{prefix}grad_norms"], gradients, case.is_swin)
    limit = NORM_LIMITS.get(case.name, NORM_LIMIT)
    fidelity.measure("gradient norm of every parameter, relative", case.column, but_for_a_kink(norms, limit), limit)
    total = sum(norm_of(gradient) ** 2 for gradient in gradients.values()) ** 0.5
    off = abs(total / notes[f"{prefix}grad_total_norm"] - 1)
    fidelity.measure("norm of the complete gradient, relative", case.column, off, 1e-4)
    limit = WHOLE_LIMITS.get(case.name, WHOLE_LIMIT)
    whole = whole_differences(case.recording, prefix, gradients, scale, case.is_swin)
    assert len(whole) >= 6
    fidelity.measure("gradients recorded in full", case.column, but_for_a_kink(whole, limit), limit)
    samples = sample_differences(case.recording, prefix, gradients, case.is_swin)
    assert len(samples) >= 200
    fidelity.measure("gradient of every parameter, sampled", case.column, but_for_a_kink(samples, limit), limit)


def test_one_optimizer_step(recordings: Path, inputs: dict[str, Tensor], fidelity: FidelityTable) -> None:
    model, recipe = filled_model("r50", train=True), TrainSettings()
    recording = Recording(recordings, "train_r50")
    case = TrainingCase.of("plain", "r50", recording, model, inputs)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, recipe)
    torch.stack(list(case.losses(case.counts).values())).sum().backward()
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm))
    assert norm == pytest.approx(recording.notes["plain.step.grad_norm_before_clip"], rel=1e-4)
    optimizer.step()
    after = dict(model.named_parameters())
    # AdamW moves every value by about the learning rate, even for tiny gradients, so these may differ.
    moved = {}
    for name, ours, theirs in recorded_by_own_name(recording.notes["plain.step.delta_norms"]):
        delta = float((after[ours].detach() - before[ours]).double().norm())
        moved[name] = abs(delta - (theirs or 0.0)) / theirs if theirs else delta
    fidelity.measure("one step: distance moved by every parameter, relative", "plain", moved, 2e-2)
    prefix, values = "plain.step.param:", {}
    for key in recording.arrays.files:
        own = own_name(key.removeprefix(prefix), is_swin=False) if key.startswith(prefix) else None
        if own is not None:
            values[key] = float(np.abs(after[own].detach().numpy() - recording.arrays[key]).max())
    assert len(values) >= 14
    fidelity.measure("one step: parameters recorded in full, absolute", "plain", values, 3e-5)


def test_only_sampling_offsets_of_a_single_layer_are_ignored() -> None:
    good = {"a.value_proj.weight": 0.001}
    one = {**good, "a.sampling_offsets.bias": 0.09, "a.sampling_offsets.weight": 0.08}
    assert but_for_a_kink(one, 0.002) == good
    others = {"b.sampling_offsets.bias": 0.09}, {"b.value_proj.weight": 0.09}, {"a.sampling_offsets.bias": 0.11}
    for other in others:
        assert but_for_a_kink(one | other, 0.002) == one | other
    assert but_for_a_kink({"a.norm.weight": 0.09}, 0.002) == {"a.norm.weight": 0.09}
    assert but_for_a_kink(one, 0.1) == one
