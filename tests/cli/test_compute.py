"""`--gpus`, `--cpu-processes` and `--device`: starting processes, and the command that resumes a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from panformer_cli.cli.main import main
from panformer_cli.cli.options import Compute
from panformer_cli.cli.train import _stopped
from panformer_cli.engine.distributed.layout import Layout
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.train import RunResult
from panformer_cli.reporting import Reporter
from tests.helpers import set_worker


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({}, "panformer train 'a b'"),
        ({"gpus": 8}, "panformer train 'a b' --gpus 8"),
        ({"cpu_processes": 2}, "panformer train 'a b' --cpu-processes 2"),
        ({"device": "cpu", "sampling": "portable"}, "panformer train 'a b' --device cpu --sampling portable"),
    ],
)
def test_the_command_has_the_same_options(options: dict[str, Any], command: str) -> None:
    assert Compute(**options).command("train", "a b") == command


def test_the_command_of_a_torchrun_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    set_worker(monkeypatch, 0, 2)
    assert Compute().command("train") == "torchrun --nproc-per-node 2 -m panformer_cli train"
    assert Compute(gpus=2).command("train") == "panformer train --gpus 2"
    set_worker(monkeypatch, 0, 6)
    several_nodes = "torchrun --nnodes 3 ... --nproc-per-node 2 -m panformer_cli train"
    assert Compute().command("train") == several_nodes
    assert Compute(gpus=2).command("train") == f"{several_nodes} --gpus 2"


def test_a_stopped_run_prints_how_to_resume() -> None:
    stopped = RunResult(RunFolder(Path("a run")), ended=False, saved_step=1, total_steps=4)
    command = "panformer train --resume 'a run' --gpus 2"
    assert _stopped(stopped, Compute(gpus=2)) == f"Stopped; step 1 of 4 is saved; resume with: {command}"
    nothing = RunResult(RunFolder(Path("run")), ended=False, saved_step=None, total_steps=4)
    assert _stopped(nothing, Compute()) == "Stopped before a checkpoint was saved; rerun the same command to start over"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Layout]]:
    """Command lines that would have been started in several processes."""
    seen: list[tuple[list[str], Layout]] = []

    def launch(words: list[str], layout: Layout, reporter: Reporter) -> int:
        seen.append((words, layout))
        return 7

    monkeypatch.setattr("panformer_cli.engine.distributed.launcher.launch", launch)
    return seen


@pytest.mark.parametrize(
    "name",
    [
        ["train", "tiny", "--set", "data.root=scenes"],
        ["predict", "a.jpg", "--out", "x"],
        ["evaluate"],
        ["evaluate", "tune"],
    ],
)
def test_the_whole_command_line_is_started_and_its_exit_code_returned(
    name: list[str], launched: list[tuple[list[str], Layout]]
) -> None:
    words = [*name, "--cpu-processes", "3"]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 7
    assert launched == [(words, Layout(3))]


def test_wrong_usage_and_missing_gpus_are_reported_before_any_process_starts(
    launched: list[tuple[list[str], Layout]], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["train", "--cpu-processes", "2"], ["train", "tiny", "--gpus", "1000"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
    assert "Missing argument" in capsys.readouterr().err
    assert launched == []


@pytest.mark.parametrize(
    "words",
    [
        ["prepare-data", "scenes", "--out", "scenes"],
        ["evaluate", "compare", "a", "b"],  # neither exists: rank 0 reports that
        ["evaluate", "check-submission", "a.zip"],
    ],
)
def test_commands_for_one_process_run_only_on_rank_0(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    set_worker(monkeypatch, 1, 2)
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")
