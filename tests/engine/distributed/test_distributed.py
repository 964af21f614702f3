"""Several processes (gloo, on the CPU) give the same results as one: gradients, evaluation, prediction, stops."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from panformer_cli.engine.checkpoints.checkpoint import OPTIMIZER, read_checkpoint, read_tensors
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.predict import PredictRequest, PredictResult, predict
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.start import StartRequest, plan_start
from panformer_cli.engine.training.train import RunResult, TrainOptions, train
from panformer_cli.engine.training.trainer import Trainer
from panformer_cli.metrics.evaluator import MetricName
from panformer_cli.models.base import LossCounts
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import SilentReporter
from tests.engine.ranks import in_processes
from tests.engine.small import ALONE, StopAfter, run_small, small_recipe
from tests.helpers import files_of

pytestmark = pytest.mark.slow

ONE_STEP = ("train.max_steps=1", "train.batch_size=2", "train.images_per_forward=1", "model.frozen_batch_norm=true")


def gradients_of_a_step(process: Process, recipe: Recipe, out: Path) -> None:
    """Run the first training step, and write the gradients before clipping and the counts."""
    trainer = Trainer(process, recipe, RunFolder(out / f"run{process.world_size}"), SilentReporter())
    batches = next(iter(trainer.loader.epoch(0)))
    counts = trainer.step.count(batches)
    trainer.step.accumulate(batches, counts)
    tensors = {n: p.grad.contiguous() for n, p in trainer.model.named_parameters() if p.grad is not None}
    tensors["counts"] = torch.tensor([counts.things, counts.stuff], dtype=torch.float64)
    save_file(tensors, out / f"{process.world_size}_{process.rank}.safetensors")


def assert_equal_gradients(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5 * float(value.abs().max()), msg=name)


@pytest.fixture(scope="module")
def gradients(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """Return gradients of the same two images: `1_0` one process, `2_0` and `2_1` two processes with one image each."""
    out = tmp_path_factory.mktemp("gradients")
    recipe = small_recipe(scenes, *ONE_STEP)
    gradients_of_a_step(ALONE, recipe, out)
    in_processes(2, gradients_of_a_step, recipe, out)
    return {path.stem: load_file(path) for path in out.glob("*.safetensors")}


def test_checkpointed_parts_give_the_same_gradients_in_two_processes(
    scenes: Path, tmp_path: Path, gradients: dict[str, dict[str, Tensor]]
) -> None:
    parts = "train.checkpoint=[encoder,stuff_masks,thing_masks,location_decoder,backbone]"
    in_processes(2, gradients_of_a_step, small_recipe(scenes, *ONE_STEP, parts), tmp_path)
    for rank in range(2):
        actual, expected = load_file(tmp_path / f"2_{rank}.safetensors"), gradients[f"2_{rank}"]
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_two_processes_with_an_image_each_give_the_gradients_of_one_with_two(
    gradients: dict[str, dict[str, Tensor]],
) -> None:
    assert set(gradients) == {"1_0", "2_0", "2_1"}
    assert_equal_gradients(gradients["1_0"], gradients["2_0"])
    assert any(float(value.abs().max()) > 0 for name, value in gradients["1_0"].items() if "backbone" in name)


def test_all_processes_have_the_same_gradients(gradients: dict[str, dict[str, Tensor]]) -> None:
    for name, value in gradients["2_0"].items():
        assert torch.equal(gradients["2_1"][name], value), name


def test_the_counts_are_averaged_over_the_processes(
    gradients: dict[str, dict[str, Tensor]], scenes: Path, tmp_path: Path
) -> None:
    """The counts are the mean over both images, which have different segment counts (docs/model.md, "Training")."""
    recipe = small_recipe(scenes, *ONE_STEP)
    trainer = Trainer(Process(0, 1, torch.device("cpu")), recipe, RunFolder(tmp_path), SilentReporter())
    labels = [target.labels for batch in next(iter(trainer.loader.epoch(0))) for target in batch.targets]
    things = [int((image < trainer.categories.num_things).sum()) for image in labels]
    stuff = [len(set(image.tolist()) - set(range(trainer.categories.num_things))) for image in labels]
    assert len(labels) == 2
    assert things[0] != things[1] or stuff[0] != stuff[1], "equal images would not tell a mean from a single count"
    for case in gradients.values():
        assert case["counts"].tolist() == [sum(things) / 2, sum(stuff) / 2]


def test_the_gradients_are_those_of_the_losses_with_averaged_counts(
    gradients: dict[str, dict[str, Tensor]], scenes: Path, tmp_path: Path
) -> None:
    """Expected: the mean of the gradients of each image alone, computed with the mean counts."""
    trainer = Trainer(
        Process(0, 1, torch.device("cpu")), small_recipe(scenes, *ONE_STEP), RunFolder(tmp_path), SilentReporter()
    )
    model = trainer.model
    counts = LossCounts(*gradients["1_0"]["counts"].tolist())
    total: dict[str, Tensor] = {}
    for batch in next(iter(trainer.loader.epoch(0))):
        model.zero_grad()
        losses = model(batch, counts)
        sum(losses.values(), torch.zeros(())).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] = total.get(name, 0) + parameter.grad / 2
    total["counts"] = gradients["2_0"]["counts"]
    assert_equal_gradients(total, gradients["2_0"])


def train_in(process: Process, recipe: Recipe, options: TrainOptions) -> RunResult:
    return train(recipe, options, process, SilentReporter())


def test_a_whole_run_in_two_processes(scenes: Path, tmp_path: Path) -> None:
    """Each process accumulates two images; the first moment is a tenth of the clipped gradient."""
    recipe = small_recipe(
        scenes, "train.max_steps=1", "train.images_per_forward=1", "model.frozen_batch_norm=true", "data.workers=1"
    )
    one = RunFolder(run_small(recipe, tmp_path / "one"))
    two = RunFolder(tmp_path / "two")
    assert in_processes(2, train_in, recipe, TrainOptions(two.path)) == 2 * [RunResult(two, True, 1, 1)]
    moments = [read_tensors(run.last, OPTIMIZER) for run in (one, two)]
    assert_equal_gradients(*({n: v for n, v in part.items() if n.endswith("exp_avg")} for part in moments))
    losses, evaluations = ([json.loads(run.metrics.read_text().splitlines()[i]) for run in (one, two)] for i in (0, 1))
    assert [row["kind"] for row in (*losses, *evaluations)] == ["train", "train", "eval", "eval"]
    assert read_checkpoint(two.best).progress.step == 1


def test_images_without_things_or_stuff(scenes: Path, tmp_path: Path) -> None:
    """Every parameter must get a gradient; otherwise the processes would wait forever."""
    data = tmp_path / "data"
    (data / "annotations").mkdir(parents=True)
    (data / "images").symlink_to(scenes / "images")
    for split in ("train", "val"):
        (data / "annotations" / f"panoptic_{split}").symlink_to(scenes / "annotations" / f"panoptic_{split}")
        content = json.loads((scenes / "annotations" / f"panoptic_{split}.json").read_text())
        is_thing = {row["id"]: bool(row["isthing"]) for row in content["categories"]}
        for index, annotation in enumerate(content["annotations"]):
            for segment in annotation["segments_info"]:
                # 8 images: things and stuff, only stuff, only things, nothing; twice
                segment["iscrowd"] = int(index % 4 == 3 or index % 4 == (1 if is_thing[segment["category_id"]] else 2))
        (data / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content))
    recipe = small_recipe(data, "train.max_steps=4", "train.batch_size=2", "train.images_per_forward=1")
    first, _ = in_processes(2, train_in, recipe, TrainOptions(tmp_path / "run"))
    assert read_checkpoint(first.run.last).progress.step == 4


def evaluate_in(process: Process, request: EvaluateRequest) -> dict[str, Any]:
    return evaluate(request, process, SilentReporter())


def test_evaluation_does_not_depend_on_the_processes(trained: RunFolder, tmp_path: Path) -> None:
    metrics: tuple[MetricName, ...] = ("panoptic", "bbox", "segm")
    requests = [EvaluateRequest(trained.best, tmp_path / name, metrics=metrics) for name in ("one", "two")]
    alone = evaluate(requests[0], ALONE, SilentReporter())
    assert in_processes(2, evaluate_in, requests[1]) == [alone, alone]
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert {"metrics.json", "panoptic.json", "panoptic/000003.png"} <= set(one)
    assert one == two


def predict_in(process: Process, request: PredictRequest) -> tuple[PredictResult, list[str]]:
    """Return the result and the warnings of rank 0."""
    reporter = StopAfter()
    return predict(request, process, reporter), reporter.warnings


def test_prediction_does_not_depend_on_the_processes(trained: RunFolder, scenes: Path, tmp_path: Path) -> None:
    bad = [tmp_path / f"{number}.png" for number in range(2)]
    for path in bad:
        path.write_text("no image")
    inputs = [*map(str, bad), str(scenes / "images" / "val")]
    alone, warnings = predict_in(ALONE, PredictRequest(inputs, trained.best, tmp_path / "one"))
    ranks = in_processes(2, predict_in, PredictRequest(inputs, trained.best, tmp_path / "two"))
    for result, _ in ranks:
        assert (result.content, result.failures) == (alone.content, alone.failures)
    assert len(alone.failures) == 2
    assert warnings == ranks[0][1] == alone.failures
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    logs = {name for name in one | two if name.startswith(".parts/")}  # kept, since images failed
    assert {name: one[name] for name in one.keys() - logs} == {name: two[name] for name in two.keys() - logs}
    assert {"panoptic.json", "predict.json"} <= one.keys() - logs


def stopped_in(process: Process, recipe: Recipe, options: TrainOptions, rank: int) -> RunResult:
    """Train; the process with `rank` gets SIGTERM after the first step."""
    reporter = StopAfter(1, signal_to_self) if process.rank == rank else SilentReporter()
    return train(recipe, options, process, reporter)


def signal_to_self() -> None:
    signal.raise_signal(signal.SIGTERM)


def stopped_and_resumed_in(process: Process, out: Path, recipe: Recipe, rank: int) -> tuple[RunResult, int, RunResult]:
    """Return the stopped run, the step that it saved, and the same run after `--resume auto`."""
    stopped = stopped_in(process, recipe, TrainOptions(out), rank)
    saved = read_checkpoint(stopped.run.last).progress.step
    assert set(read_tensors(stopped.run.last, "random.")) == {"0.cpu", "1.cpu"}
    request = StartRequest(str(stopped.run.recipe), ("train.max_steps=2",), out, resume="auto")
    with hidden(out, from_rank=1, process=process):
        start = process.on_first(lambda: plan_start(request, SilentReporter()))
        return stopped, saved, train(start.recipe, start.options, process, SilentReporter())


@contextmanager
def hidden(folder: Path, from_rank: int, process: Process) -> Iterator[None]:
    """Let one rank see nothing in a folder, as a network file system may; it can read the last checkpoint."""

    def sees(look: Callable[[Path], bool], path: Path) -> bool:
        return look(path) and (folder not in (path, *path.parents) or path.name == "last.safetensors")

    with pytest.MonkeyPatch.context() as patch:
        if process.rank == from_rank:
            patch.setattr(RunFolder, "is_resumable", False)
            for name in ("exists", "is_file", "is_dir"):
                patch.setattr(Path, name, partialmethod(lambda path, look: sees(look, path), getattr(Path, name)))
        yield


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_in_one_process_stops_all_and_a_rank_that_does_not_see_the_run_resumes_it(
    rank: int, scenes: Path, tmp_path: Path
) -> None:
    recipe = small_recipe(scenes, "train.max_steps=50", "train.epochs=1000", "train.images_per_forward=2")
    run = RunFolder(tmp_path / "run")
    expected = (RunResult(run, False, 1, 50), 1, RunResult(run, True, 2, 2))
    assert in_processes(2, stopped_and_resumed_in, run.path, recipe, rank) == [expected, expected]
    random = read_tensors(run.last, "random.")
    assert set(random) == {"0.cpu", "1.cpu"}
    assert not torch.equal(random["0.cpu"], random["1.cpu"])
