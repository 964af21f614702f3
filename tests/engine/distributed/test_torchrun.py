"""Commands started by torchrun: several processes act as one and give the same results."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.metrics.evaluator import MetricName
from panformer_cli.recipe_io import recipe_to_yaml
from panformer_cli.reporting import SilentReporter
from tests.engine.distributed.test_distributed import evaluate_in, train_in
from tests.engine.ranks import in_processes, torchrun
from tests.engine.small import ALONE, small_recipe
from tests.helpers import files_of

pytestmark = pytest.mark.slow

SECONDS = 300


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port: int = listener.getsockname()[1]
    return port


def logged(run: RunFolder) -> list[dict[str, Any]]:
    """Return the rows that a run logged, without the times."""
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in ("seconds", "speed")} for row in rows]


@pytest.mark.usefixtures("equal_threads")
def test_training_gives_the_same_weights_as_other_launched_processes(scenes: Path, tmp_path: Path) -> None:
    """Dropout is on, so each process needs the right random state."""
    recipe = small_recipe(scenes, "train.max_steps=2", "train.images_per_forward=2", "model.dropout=0.2")
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    own, given = RunFolder(tmp_path / "own"), RunFolder(tmp_path / "given")
    process = torchrun("train", tmp_path / "recipe.yaml", "--out", given.path)
    in_processes(2, train_in, recipe, TrainOptions(own.path))
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert out == f"Best checkpoint: {given.best}\n"
    assert err.count("Run folder") == 1
    for name in ("last.safetensors", "best.safetensors"):
        one, other = load_file(own.path / name), load_file(given.path / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert logged(given) == logged(own)


@pytest.mark.usefixtures("equal_threads")
def test_evaluation_gives_the_same_files_as_one_process(trained: RunFolder, tmp_path: Path) -> None:
    """Three processes on one machine, and one each on two."""
    words = ("evaluate", trained.best, "--metrics", "all", "--out")
    port = free_port()
    nodes = [torchrun(*words, tmp_path / "two", nproc=1, nodes=2, port=port) for _ in range(2)]
    metrics: tuple[MetricName, ...] = ("panoptic", "boundary", "semantic", "bbox", "segm")
    evaluate(EvaluateRequest(trained.best, tmp_path / "one", metrics=metrics), ALONE, SilentReporter())
    printed = [node.communicate(timeout=SECONDS) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    assert sorted(bool(out) for out, _ in printed) == [False, True]
    in_processes(3, evaluate_in, EvaluateRequest(trained.best, tmp_path / "three", metrics=metrics))
    one = files_of(tmp_path / "one")
    assert {"metrics.json", "panoptic.json", "records.jsonl", "panoptic/000003.png"} <= set(one)
    assert files_of(tmp_path / "two") == files_of(tmp_path / "three") == one


def test_an_error_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    process = torchrun("evaluate", tmp_path / "nowhere")
    _, err = process.communicate(timeout=SECONDS)
    assert err.count("Error: checkpoint") == 1
    assert err.count("exitcode  : 2") == 1  # in torchrun's own report, which follows
    assert "[rank" not in err, "so torch marks the traceback of a worker"
    assert process.returncode == 1


def test_a_stopped_run_is_saved_and_can_be_resumed(scenes: Path, tmp_path: Path) -> None:
    """torchrun forwards SIGTERM to the data loader workers, too."""
    settings = ("train.epochs=5000", "train.evaluate_every=5000", "train.images_per_forward=2", "data.workers=1")
    recipe = small_recipe(scenes, *settings)
    run = RunFolder(tmp_path / "run")
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    process = torchrun("train", tmp_path / "recipe.yaml", "--out", run.path)
    while process.poll() is None and not run.metrics.is_file():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=SECONDS)
    assert err.count("Stopped; step") == 1, err
    assert f"resume with: torchrun --nproc-per-node 2 -m panformer_cli train --resume {run.path}" in err
    step = read_checkpoint(run.last).progress.step
    assert step >= 1
    recipe = small_recipe(scenes, *settings, f"train.max_steps={step + 1}")
    train(recipe, TrainOptions(run.path, resume=True), ALONE, SilentReporter())  # with any number of processes
    assert [row["step"] for row in logged(run) if row["kind"] == "train"] == list(range(1, step + 2))
