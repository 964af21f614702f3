"""The average of checkpoints: by name, by dtype, and only of one model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.checkpoints.average import _Mean, average_checkpoints
from panformer_cli.engine.checkpoints.checkpoint import (
    MODEL,
    TrainProgress,
    load_model,
    read_checkpoint,
    read_tensors,
    save_checkpoint,
)
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import CheckpointError, PanformerError
from tests.engine.small import categories_of, small_checkpoint
from tests.helpers import run

RUNNING = ("running_mean", "running_var")


def mean_of(*states: dict[str, Tensor]) -> dict[str, Tensor]:
    mean = _Mean(states[0])
    for state in states[1:]:
        mean.add(state)
    return mean.result()


def test_whole_numbers_and_half_precision_keep_their_dtype() -> None:
    """2049 is not a half; the sum of 1025 and 1024 in half precision would be 2048."""
    one = {"count": torch.tensor(3), "w": torch.tensor([1.0, 1025.0]).half(), "on": torch.tensor([True, False])}
    two = {"count": torch.tensor(4), "w": torch.tensor([2.0, 1024.0]).half(), "on": torch.tensor([False, False])}
    mean = mean_of(one, two)
    assert mean["count"].dtype == torch.int64 and mean["count"] == 4
    assert mean["w"].dtype == torch.float16 and mean["w"].tolist() == [1.5, 1024.0]  # rounded once, to even
    assert mean["on"].dtype == torch.bool and mean["on"].tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equal_tensors_are_unchanged_bit_for_bit(dtype: torch.dtype) -> None:
    state = {"w": torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype) * 1e-3}
    for count in (2, 3, 7):
        assert torch.equal(mean_of(*[state] * count)["w"], state["w"])


def test_the_mean_is_rounded_once() -> None:
    states = [{"w": torch.randn(500, generator=torch.Generator().manual_seed(seed))} for seed in range(5)]
    expected = torch.stack([state["w"] for state in states]).double().mean(0).float()
    assert torch.equal(mean_of(*states)["w"], expected)


@pytest.fixture(scope="module")
def first(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("first") / "first.safetensors", scenes)


@pytest.mark.slow
def test_the_average_of_equal_files_is_the_file(first: Path, tmp_path: Path) -> None:
    out = average_checkpoints([first, first, first], tmp_path / "out.safetensors")
    assert out.read_bytes() == first.read_bytes()


@pytest.mark.slow
def test_two_checkpoints_are_averaged_by_name(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = read_checkpoint(first)
    model = load_model(checkpoint)
    with torch.no_grad():
        for index, tensor in enumerate(model.state_dict().values()):
            tensor += index % 7
    second, out = tmp_path / "second.safetensors", tmp_path / "out.safetensors"
    save_checkpoint(second, model, checkpoint.recipe, checkpoint.categories, TrainProgress(step=9))
    assert run("weights", "average", str(first), str(second), "--out", str(out)) == 0
    assert capsys.readouterr().out == f"Checkpoint: {out}\n"
    one, two, mean = (read_tensors(path, MODEL) for path in (first, second, out))
    assert mean.keys() == one.keys()
    for name, tensor in mean.items():
        assert tensor.dtype == one[name].dtype
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (one[name] + two[name]) / 2, msg=name)
        else:
            assert torch.equal(tensor, two[name]), name
    assert any(name.endswith(RUNNING) for name in mean)
    result = read_checkpoint(out)
    assert (result.progress.step, result.training_state) == (9, False)
    assert not load_model(result).training


@pytest.mark.slow
def test_different_models_and_categories_are_rejected(first: Path, scenes: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other.safetensors", tmp_path / "out.safetensors"
    small_checkpoint(other, scenes, "model.thing_queries=11")
    with pytest.raises(CheckpointError, match=r"of different models: model.thing_queries is 10 and 11; expected"):
        average_checkpoints([first, other], out)
    checkpoint = read_checkpoint(first)
    rows = [{**row, "name": f"new {row['name']}"} for row in categories_of(scenes).to_coco()]
    renamed = CategoryTable.from_coco(rows, "test")
    save_checkpoint(other, load_model(checkpoint), checkpoint.recipe, renamed, TrainProgress())
    with pytest.raises(CheckpointError, match="are of different models: their categories differ"):
        average_checkpoints([first, other], out)
    assert not out.exists()


def test_outputs_and_numbers_of_checkpoints_are_checked(tmp_path: Path) -> None:
    existing = tmp_path / "there.safetensors"
    existing.touch()
    with pytest.raises(PanformerError, match="already exists; expected a new file, such as average.safetensors"):
        average_checkpoints([existing, existing], existing)
    with pytest.raises(PanformerError, match=r"does not end in .safetensors; expected a new file"):
        average_checkpoints([existing, existing], tmp_path / "out.pth")
    with pytest.raises(PanformerError, match="expected two or more checkpoints to average, not 1"):
        average_checkpoints([existing], tmp_path / "out.safetensors")


@pytest.mark.slow
def test_the_best_checkpoints_of_a_run_are_averaged(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One weight is the step in each file. `best` and step 3 are the same model; step 5 was not evaluated."""
    run_folder, checkpoint = RunFolder(tmp_path / "run"), read_checkpoint(first)
    run_folder.path.mkdir()
    model = load_model(checkpoint)
    name, weight = next((name, weight) for name, weight in model.named_parameters() if "bias" in name)
    files = [(run_folder.best, 3, 45.0), (run_folder.last, 9, 44.0)]
    files += [(run_folder.step_checkpoint(step), step, pq) for step, pq in ((3, 45.0), (4, 44.5), (5, 46.0), (7, 10.0))]
    for path, step, pq in files:
        weight.detach().fill_(step)
        progress = TrainProgress(step, evaluated_step=4 if step == 5 else step, evaluated_pq=pq)
        save_checkpoint(path, model, checkpoint.recipe, checkpoint.categories, progress)
    out = tmp_path / "out.safetensors"
    assert run("weights", "average", str(run_folder.path), "--best", "3", "--out", str(out)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == (
        "Best of the run: best.safetensors (PQ 45.0), step-4.safetensors (PQ 44.5), last.safetensors (PQ 44.0)"
    )
    assert float(read_tensors(out, MODEL)[name].mean()) == pytest.approx((3 + 4 + 9) / 3)
    assert read_checkpoint(out).progress.step == 9
    assert read_checkpoint(out).progress.pq is None
    for words, expected in (
        (
            (str(run_folder.path), "--best", "5"),
            "4 evaluated checkpoints of different steps, expected 5; use a smaller",
        ),
        ((str(run_folder.best), "--best", "2"), "expected its folder as CHECKPOINT"),
        ((str(run_folder.path), "--best", "1"), "'--best': 1 is not in the range"),
    ):
        assert run("weights", "average", *words, "--out", str(tmp_path / "other.safetensors")) == 2
        assert expected in " ".join(capsys.readouterr().err.split())
