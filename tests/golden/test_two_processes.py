"""Recorded steps of two processes with one image each, with averaged counts and gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from panformer_cli.data.structures import Batch, Targets
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.training.step import distributed
from panformer_cli.models.base import LossCounts, count_segments
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from tests.engine.ranks import in_processes
from tests.golden.recordings import FidelityTable, Recording, recorded_inputs
from tests.golden.release import THINGS, filled_model, unfilled_model
from tests.golden.training_cases import (
    TrainingCase,
    but_for_a_kink,
    loss_differences,
    norm_differences,
    norm_of,
    sample_differences,
    whole_differences,
)

pytestmark = pytest.mark.slow

PAIRS = ("plain+padded", "plain_padded+padded", "no_things+padded")


def cases_of(pair: str, folder: Path, model: PanopticSegFormer) -> list[TrainingCase]:
    """Return the cases of a pair; `plain_padded` is `plain` on the canvas of `padded`."""
    recording, inputs = Recording(folder, "train_r50"), recorded_inputs(folder)
    height, width = recording.notes["padded.case"]["batch_input_shape"]
    return [
        TrainingCase.of("plain", "r50", recording, model, inputs, canvas=(height, width))
        if name == "plain_padded"
        else TrainingCase.of(name, "r50", recording, model, inputs)
        for name in Recording(folder, "train_r50_ddp2").notes[f"{pair}.cases"]
    ]


def steps_of_every_pair(process: Process, folder: Path, out: Path) -> None:
    """Run a step of every pair, with one image per process, and write the losses and the synchronized gradients."""
    model = filled_model("r50", train=True)
    parallel = distributed(model)
    for pair in PAIRS:
        case = cases_of(pair, folder, model)[process.rank]
        own = torch.tensor(count_segments([case.targets], THINGS))
        things, stuff = (process.sum(own).double() / process.world_size).tolist()
        losses = parallel(Batch(case.images, case.padding, [case.targets]), LossCounts(things, stuff))
        model.zero_grad()
        kept = case.without_dropped(losses)
        # Losses that the reference drops are multiplied by zero: every process must contribute to all gradients.
        total = torch.stack([loss if name in kept else 0 * loss for name, loss in losses.items()]).sum()
        total.backward()
        tensors = {f"loss:{name}": loss.detach() for name, loss in kept.items()}
        tensors |= {n: p.grad.contiguous() for n, p in model.named_parameters() if p.grad is not None}
        save_file(tensors, out / f"{pair}_{process.rank}.safetensors")


@pytest.fixture(scope="module")
def steps(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """Return losses (`loss:<name>`) and gradients, by `<pair>_<rank>`."""
    out = tmp_path_factory.mktemp("steps")
    in_processes(2, steps_of_every_pair, recordings, out)
    return {path.stem: load_file(path) for path in out.glob("*.safetensors")}


def split(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    losses = {name.removeprefix("loss:"): x for name, x in tensors.items() if name.startswith("loss:")}
    return losses, {name: x for name, x in tensors.items() if not name.startswith("loss:")}


@pytest.mark.parametrize("pair", PAIRS)
def test_two_processes(
    pair: str, steps: dict[str, dict[str, Tensor]], recordings: Path, fidelity: FidelityTable
) -> None:
    recording = Recording(recordings, "train_r50_ddp2")
    for rank in range(2):
        losses, gradients = split(steps[f"{pair}_{rank}"])
        recorded = {name: x for name, x in recording.notes[f"{pair}.losses_rank{rank}"].items() if name != "TOTAL"}
        fidelity.measure("losses of both processes, relative", pair, loss_differences(recorded, losses), 1e-4)
    everything = dict.fromkeys(parameter_names()) | gradients
    compare_gradients(pair, recording, everything, fidelity)


def compare_gradients(
    pair: str, recording: Recording, gradients: dict[str, Tensor | None], fidelity: FidelityTable
) -> None:
    """Compare with the limits of `padded`, which is in every pair."""
    norms = norm_differences(recording.notes[f"{pair}.grad_norms"], gradients)
    fidelity.measure("gradient norm of every parameter, relative", pair, but_for_a_kink(norms, 1.8e-3), 1.8e-3)
    total = sum(norm_of(gradient) ** 2 for gradient in gradients.values()) ** 0.5
    off = abs(total / recording.notes[f"{pair}.grad_total_norm"] - 1)
    fidelity.measure("norm of the complete gradient, relative", pair, off, 1e-4)
    whole = whole_differences(recording, f"{pair}.", gradients)
    assert len(whole) >= 10
    fidelity.measure("gradients recorded in full", pair, but_for_a_kink(whole, 2.1e-2), 2.1e-2)
    samples = sample_differences(recording, f"{pair}.", gradients)
    assert len(samples) >= 200
    fidelity.measure("gradient of every parameter, sampled", pair, but_for_a_kink(samples, 2.1e-2), 2.1e-2)


def parameter_names() -> list[str]:
    with torch.device("meta"):
        return [name for name, _ in unfilled_model("r50").named_parameters()]


def test_a_batch_of_two_in_one_process(recordings: Path, fidelity: FidelityTable) -> None:
    """Both images on one canvas give the results of the two recorded processes."""
    pair, model = "plain_padded+padded", filled_model("r50", train=True)
    first, second = cases_of(pair, recordings, model)
    targets: list[Targets] = [first.targets, second.targets]
    things, stuff = count_segments(targets, THINGS)
    images, padding = torch.cat([first.images, second.images]), torch.cat([first.padding, second.padding])
    losses = model(Batch(images, padding, targets), LossCounts(things / 2, stuff / 2))
    torch.stack(list(losses.values())).sum().backward()
    recording = Recording(recordings, "train_r50_ddp2")
    ranks = [recording.notes[f"{pair}.losses_rank{rank}"] for rank in range(2)]
    means = {name: (ranks[0][name] + ranks[1][name]) / 2 for name in ranks[0] if name != "TOTAL"}
    fidelity.measure("one process with a batch of two: losses, relative", pair, loss_differences(means, losses), 1e-4)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    norms = norm_differences(recording.notes[f"{pair}.grad_norms"], gradients)
    fidelity.measure(
        "one process with a batch of two: gradient norms, relative", pair, but_for_a_kink(norms, 1.8e-3), 1.8e-3
    )
    samples = sample_differences(recording, f"{pair}.", gradients)
    fidelity.measure(
        "one process with a batch of two: gradients, sampled", pair, but_for_a_kink(samples, 2.1e-2), 2.1e-2
    )
