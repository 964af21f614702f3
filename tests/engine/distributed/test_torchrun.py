"""Commands that torchrun starts in several processes: they act as one, and give what one process gives."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.distributed.runtime import ProcessOptions
from panformer_cli.engine.distributed.team import Team, check_options
from panformer_cli.engine.distributed.torchrun import Place, program_words
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.train import TrainOptions, train
from panformer_cli.errors import PanformerError
from panformer_cli.metrics.evaluator import MetricName
from panformer_cli.recipe_io import recipe_to_yaml
from panformer_cli.reporting import SilentReporter
from tests.engine.small import small_recipe


def set_place(monkeypatch: pytest.MonkeyPatch, rank: str, world: str, local: str = "0", local_world: str = "2") -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name, value in zip(names, (rank, world, local, local_world, "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)


def test_the_place_is_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Place.of_this_process() is None
    assert program_words() == ["panformer"]
    set_place(monkeypatch, "1", "2", "1")
    assert Place.of_this_process() == Place(1, 2, 1, 2)
    assert program_words() == ["torchrun", "--nproc-per-node", "2", "-m", "panformer_cli"]
    set_place(monkeypatch, "5", "6", "1")
    assert program_words() == ["torchrun", "--nnodes", "3", "...", "--nproc-per-node", "2", "-m", "panformer_cli"]
    monkeypatch.delenv("MASTER_PORT")
    assert Place.of_this_process() is None


@pytest.mark.parametrize(
    ("rank", "world", "local"), [("2", "2", "0"), ("-1", "2", "0"), ("x", "2", "0"), ("0", "2", "2")]
)
def test_a_place_that_cannot_be_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, rank: str, world: str, local: str
) -> None:
    set_place(monkeypatch, rank, world, local)
    with pytest.raises(PanformerError, match=f"the environment has RANK={rank}, WORLD_SIZE={world}.*; unset these"):
        Place.of_this_process()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"gpus": 3},
            "--gpus is 3, but torchrun started 2 processes on this machine; give torchrun --nproc-per-node 3",
        ),
        ({"cpu_processes": 1}, "--cpu-processes is 1, but torchrun started 2 processes on this machine"),
        ({"device": "cuda:1"}, "--device is 'cuda:1', one device, but torchrun started 2 processes"),
        ({"gpus": 2}, None),
        ({"cpu_processes": 2}, None),
        ({"device": "cpu"}, None),
        ({}, None),
    ],
)
def test_options_have_to_agree_with_torchrun(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], said: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr("panformer_cli.engine.distributed.runtime.check_device", lambda name: None)
    options = ProcessOptions(**asked)
    check_options(options)  # without torchrun, all is well
    set_place(monkeypatch, "1", "4", "1")
    if said is None:
        check_options(options)
    else:
        with pytest.raises(PanformerError, match=said):
            check_options(options)


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    set_place(monkeypatch, "1", "2", "1")
    with pytest.raises(PanformerError, match="2 processes on this machine, which has 1 GPU; give torchrun --nproc-per"):
        check_options(ProcessOptions())
    check_options(ProcessOptions(device="cpu"))


def team_of(size: int) -> list[Team]:
    distributed: Any = torch.distributed  # its types do not name the stores
    store = distributed.HashStore()
    return [Team(Place(rank, size, rank, size), store) for rank in range(size)]


def code_after(team: Team, error: BaseException) -> object:
    """The exit code that a failure in the work leads to; the failure itself where it is to be told."""
    try:
        with team._one_message():
            raise error
    except SystemExit as end:
        return end.code
    except BaseException as told:
        return told


def test_the_first_to_fail_is_told_of_and_the_others_end_with_its_code() -> None:
    mistake, lost = PanformerError("a mistake"), RuntimeError("connection closed by peer")
    first, second, third = team_of(3)
    assert code_after(second, mistake) is mistake
    assert code_after(first, lost) == 2
    assert code_after(third, PanformerError("the same mistake")) == 2


def test_a_bug_is_told_once() -> None:
    bug = ZeroDivisionError("our own mistake")
    first, second = team_of(2)
    assert code_after(first, bug) is bug
    assert code_after(second, RuntimeError("connection closed by peer")) == 1


def test_an_interrupt_is_told_by_the_first_process() -> None:
    first, second, third = team_of(3)
    assert code_after(third, KeyboardInterrupt()) == 130
    assert isinstance(code_after(first, RuntimeError("connection closed by peer")), KeyboardInterrupt)
    assert code_after(second, KeyboardInterrupt()) == 130


def test_the_others_end_with_the_code_of_the_first() -> None:
    first, second = team_of(2)
    first._give(7)
    assert second.help() == 7


def torchrun(*words: object, nproc: int = 2, nodes: int = 1, port: int = 0) -> subprocess.Popen[str]:
    """Start `torchrun ... panformer WORDS`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={nproc}"]
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", f"--rdzv-id=test-{port}"]
    command = [*launcher, *meeting, "-m", "panformer_cli", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port: int = listener.getsockname()[1]
    return port


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def equal_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many threads in a worker as here: the last digit of a float sum depends on how threads share it."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


def logged(run: RunFolder) -> list[dict[str, Any]]:
    """All that a run logged, but for the time it took."""
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.slow
@pytest.mark.usefixtures("equal_threads")
def test_training_gives_the_weights_of_processes_that_the_program_started(scenes: Path, tmp_path: Path) -> None:
    """Dropout is on, so that each process has to have the right random state."""
    recipe = small_recipe(scenes, "train.max_steps=2", "train.images_per_forward=2", "model.dropout=0.2")
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    own, given = RunFolder(tmp_path / "own"), RunFolder(tmp_path / "given")
    process = torchrun("train", tmp_path / "recipe.yaml", "--out", given.path)
    train(recipe, TrainOptions(own.path, processes=ProcessOptions(cpu_processes=2)), SilentReporter())
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out == f"Best checkpoint: {given.best}\n"
    assert err.count("Run folder") == 1
    for name in ("last.safetensors", "best.safetensors"):
        one, other = load_file(own.path / name), load_file(given.path / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert logged(given) == logged(own)


@pytest.mark.slow
@pytest.mark.usefixtures("equal_threads")
def test_evaluation_gives_the_bytes_of_one_process(trained: RunFolder, tmp_path: Path) -> None:
    """Three processes on one machine, and one each on two."""
    words = ("evaluate", trained.best, "--metrics", "all", "--out")
    port = free_port()
    nodes = [torchrun(*words, tmp_path / "two", nproc=1, nodes=2, port=port) for _ in range(2)]
    metrics: tuple[MetricName, ...] = ("panoptic", "boundary", "semantic", "bbox", "segm")
    evaluate(EvaluateRequest(trained.best, tmp_path / "one", metrics=metrics), SilentReporter())
    printed = [node.communicate() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    assert sorted(bool(out) for out, _ in printed) == [False, True]
    three = torchrun(*words, tmp_path / "three", nproc=3)
    three.communicate()
    one = files_of(tmp_path / "one")
    assert {"metrics.json", "panoptic.json", "records.jsonl", "panoptic/000003.png"} <= set(one)
    assert files_of(tmp_path / "two") == files_of(tmp_path / "three") == one


@pytest.mark.slow
def test_a_mistake_is_one_message_and_exit_code_2_of_all(tmp_path: Path) -> None:
    process = torchrun("evaluate", tmp_path / "nowhere")
    _, err = process.communicate()
    assert err.count("Error: checkpoint") == 1
    assert err.count("exitcode  : 2") == 2  # in torchrun's own report
    assert "[rank" not in err, "so torch marks the traceback of a worker"
    assert process.returncode == 1


@pytest.mark.slow
def test_a_stop_is_saved_and_can_be_gone_on_from(scenes: Path, tmp_path: Path) -> None:
    """SIGTERM, which torchrun hands on to the processes that read images too."""
    settings = ("train.epochs=5000", "train.evaluate_every=5000", "train.images_per_forward=2", "data.workers=1")
    recipe = small_recipe(scenes, *settings)
    run = RunFolder(tmp_path / "run")
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    process = torchrun("train", tmp_path / "recipe.yaml", "--out", run.path)
    while process.poll() is None and not run.metrics.is_file():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert err.count("Stopped; step") == 1, err
    assert (
        f"go on with: torchrun --nproc-per-node 2 -m panformer_cli train {run.recipe} --resume --out {run.path}" in err
    )
    step = read_checkpoint(run.last).progress.step
    assert step >= 1
    recipe = small_recipe(scenes, *settings, f"train.max_steps={step + 1}")
    train(recipe, TrainOptions(run.path, resume=True), SilentReporter())  # by any number of processes
    assert [row["step"] for row in logged(run) if row["kind"] == "train"] == list(range(1, step + 2))
