"""A run in several processes with data workers: signals, killed launchers, and a killed machine of two."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.train import TrainOptions
from panformer_cli.recipe_io import recipe_to_yaml
from tests.engine.distributed.test_distributed import train_in
from tests.engine.distributed.test_torchrun import free_port
from tests.engine.ranks import in_processes, start
from tests.engine.small import small_recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the list of processes in /proc"),
]
SECONDS = 400


def processes_with(word: str) -> list[int]:
    """Return the ids of all processes with a word in their command lines, except zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in path.read_bytes().decode(errors="replace").split("\0"):
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def unrelated() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with the run."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_a_run_saves_after_a_signal_to_all_and_ends_completely_when_its_launcher_is_killed(
    scenes: Path, tmp_path: Path, unrelated: subprocess.Popen[bytes]
) -> None:
    settings = ("train.epochs=5000", "train.evaluate_every=5000", "train.images_per_forward=2", "data.workers=1")
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(small_recipe(scenes, *settings)))
    run = RunFolder(tmp_path / "run")
    words = ("panformer_cli", "train", tmp_path / "recipe.yaml", "--out", run.path, "--resume", "auto")

    first = start(*words, "--cpu-processes", 2)
    wait_until(run.metrics.is_file, first)
    ids = processes_with(str(run.path))
    assert len(ids) >= 5, "the launcher, two ranks with a worker each"
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):  # as batch systems do
        for pid in ids:
            os.kill(pid, number)
    _, err = first.communicate(timeout=SECONDS)
    assert first.returncode == 130, err
    saved = read_checkpoint(run.last).progress.step
    assert saved >= 1
    assert err.count("Stopped; step") == 1
    command = f"panformer train --resume {run.path} --cpu-processes 2"
    assert re.fullmatch(rf"Stopped; step {saved} of \d+ is saved; resume with: {command}", err.splitlines()[-1])
    assert "Traceback" not in err

    second = start(*words, "--cpu-processes", 2)
    rows = len(run.metrics.read_text().splitlines())
    wait_until(lambda: len(run.metrics.read_text().splitlines()) > rows, second)
    assert len(processes_with(str(run.path))) >= 5
    second.kill()
    second.wait()
    end = time.monotonic() + 15
    while processes_with(str(run.path)):
        assert time.monotonic() < end, processes_with(str(run.path))
        time.sleep(0.1)
    assert read_checkpoint(run.last).progress.step >= saved
    assert unrelated.poll() is None


@pytest.mark.usefixtures("equal_threads")
def test_two_machines_of_which_one_is_killed_and_started_again_give_the_undisturbed_weights(
    scenes: Path, tmp_path: Path
) -> None:
    settings = ("train.max_steps=6", "train.epochs=9", "train.images_per_forward=2", "model.dropout=0.2")
    recipe = small_recipe(scenes, *settings)
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    endpoint = f"127.0.0.1:{free_port()}"

    def machine(rank: int, out: Path) -> subprocess.Popen[str]:
        words = ("train", tmp_path / "recipe.yaml", "--out", out, "--resume", "auto", "--cpu-processes", 1)
        nodes = ("--nodes", 2, "--node-rank", rank, "--rendezvous", endpoint, "--max-restarts", 1)
        return start("panformer_cli", *words, *nodes)

    disturbed, whole = RunFolder(tmp_path / "disturbed"), RunFolder(tmp_path / "whole")
    first, second = machine(0, disturbed.path), machine(1, disturbed.path)
    wait_until(disturbed.last.is_file, first)
    second.kill()
    second.wait()
    again = machine(1, disturbed.path)
    assert [process.communicate(timeout=SECONDS) and process.returncode for process in (first, again)] == [0, 0]
    in_processes(2, train_in, recipe, TrainOptions(whole.path))
    one, other = load_file(disturbed.last), load_file(whole.last)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
