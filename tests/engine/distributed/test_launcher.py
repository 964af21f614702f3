"""`--cpu-processes N`: one message per failure, exit codes, signals, and no process that outlives its launcher."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.agent.server.api import RunResult, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from panformer_cli.engine.distributed.launcher import _agent, _is_second_interrupt, launch
from panformer_cli.engine.distributed.layout import Layout
from panformer_cli.reporting import SilentReporter
from tests.conftest import REPOSITORY
from tests.data.coco.pair_files import Pairs, write_pairs
from tests.engine.ranks import start
from tests.helpers import run

SECONDS = 120


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    return write_pairs(tmp_path / "data", 4)


def patched(folder: Path, patch: str) -> Path:
    """Write a `sitecustomize.py` with which each rank runs the lines of `patch` before it counts an image.

    Lines see the rank of the process as `rank` and may import.
    """
    body = "\n    ".join(["rank = int(os.environ['RANK'])", *patch.splitlines(), "return compared(*arguments)"])
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, signal, sys, time\n"
        "if 'RANK' in os.environ:\n"
        "  import panformer_cli.engine.evaluation.evaluate_predictions as module\n"
        "  compared = module.compare\n"
        f"  def compare(*arguments):\n    {body}\n"
        "  module.compare = compare\n"
    )
    return folder


def words(pairs: Pairs, out: Path) -> list[str]:
    """Return the arguments that evaluate predictions in two processes."""
    files = {"--predictions": pairs.prediction.json, "--annotations": pairs.truth.json, "--out": out}
    named = [str(word) for option in files.items() for word in option]
    return ["evaluate", *named, "--json", "--cpu-processes", "2"]


@dataclass(frozen=True)
class Launched:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def evaluate(pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Evaluate in two processes that this one launches; `patch` as in `patched`."""

    def launched(out: Path, patch: str = "") -> Launched:
        path = [str(patched(tmp_path / "patch", patch)), str(REPOSITORY)]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        capfd.readouterr()
        code = run(*words(pairs, out))
        return Launched(code, *capfd.readouterr())

    return launched


Evaluate = Callable[..., Launched]


@pytest.mark.slow
def test_arguments_are_passed_unchanged_and_only_rank_0_prints_in_two_commands_at_once(
    evaluate: Evaluate, pairs: Pairs, tmp_path: Path
) -> None:
    """Each command uses a free port of its own."""
    outs = [tmp_path / folder / "a $$ ${local_rank}'s" for folder in ("one", "other")]
    for out in outs:
        out.parent.mkdir()
    other = start("panformer_cli", *words(pairs, outs[1]), patch=patched(tmp_path / "none", ""))
    done = evaluate(outs[0])
    printed, err = other.communicate(timeout=SECONDS)
    for launched in (done, Launched(other.returncode, printed, err)):
        assert launched.code == 0, launched.err
        assert launched.out.count('"panoptic"') == 1
        assert "Error" not in launched.err
    assert all((out / "metrics.json").is_file() for out in outs)


@pytest.mark.slow
def test_an_error_in_one_process_is_one_message(evaluate: Evaluate, pairs: Pairs, tmp_path: Path) -> None:
    pairs.prediction.png(1).unlink()
    done = evaluate(tmp_path / "out")
    assert done.code == 2, done.err
    assert done.err.count("Error: ") == 1
    assert "1.png is missing" in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["rank == 1", "True"])
def test_an_unexpected_exception_is_one_traceback(where: str, evaluate: Evaluate, tmp_path: Path) -> None:
    done = evaluate(tmp_path / "out", f"if {where}: raise ZeroDivisionError('our own mistake')")
    assert done.code == 1, done.err
    assert done.err.count("Traceback") == 1, done.err
    assert "our own mistake" in done.err


@pytest.mark.slow
def test_a_killed_process_is_explained(evaluate: Evaluate, tmp_path: Path) -> None:
    done = evaluate(tmp_path / "out", "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)")
    assert done.code == 2, done.err
    assert "Error: process 1 of 2 was killed, possibly because the system ran out of memory" in done.err
    assert done.err.count("Error") == 1
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("given", "threads"), [(None, "3"), ("5", "5")])
def test_processes_share_the_cores_unless_the_environment_sets_threads(
    given: str | None, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given or "")
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    monkeypatch.setattr("panformer_cli.engine.distributed.launcher._agent", lambda *_: _Agent())
    assert launch(["train"], Layout(2), SilentReporter()) == 0
    assert os.environ["OMP_NUM_THREADS"] == threads


class _Agent:
    """An agent whose workers end immediately."""

    def run(self) -> RunResult:
        return RunResult(WorkerState.SUCCEEDED)


class Warnings(SilentReporter):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


@pytest.mark.parametrize(
    ("exit_codes", "warning"),
    [
        ({0: 130, 1: -15}, None),
        ({0: 2, 1: -15}, None),
        ({1: -9, 0: -15}, "process 1 of 2 was killed, possibly because the system ran out of memory"),
        ({0: 1}, "process 0 of 2 failed with exit code 1"),
        ({0: -11}, "process 0 of 2 was terminated by SIGSEGV"),
    ],
)
def test_what_failed_is_restarted_and_what_was_stopped_or_is_invalid_is_not(
    exit_codes: dict[int, int], warning: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = {rank: ProcessFailure(rank, 1, code, os.devnull) for rank, code in exit_codes.items()}
    result = RunResult(WorkerState.FAILED, failures=failures)
    monkeypatch.setattr(LocalElasticAgent, "_monitor_workers", lambda self, group: result)
    reporter = Warnings()
    agent = _agent(["train"], Layout(2, max_restarts=2), 2, reporter)
    assert agent._monitor_workers(agent.get_worker_group()) is result
    assert agent._remaining_restarts == (0 if warning is None else 2)
    expected = [] if warning is None else [f"{warning}; restarting all processes (1 of 2)"]
    assert reporter.texts == expected


def test_a_second_ctrl_c_is_not_the_same_one_twice() -> None:
    first, same, second = (signal.SIGINT, 1.0), (signal.SIGINT, 1.1), (signal.SIGINT, 2.0)
    warned = (signal.SIGUSR1, 0.0)
    sequences = [[first], [first, same], [warned, first], [first, warned]]
    assert [_is_second_interrupt(signals) for signals in sequences] == 4 * [False]
    assert _is_second_interrupt([first, second])
    assert _is_second_interrupt([first, same, second])


def waiting(pairs: Pairs, out: Path, *before: str) -> subprocess.Popen[str]:
    """Start an evaluation, and return once both processes wait for a signal."""
    lines = [*before, "sys.stderr.write('waiting;')", "time.sleep(600)"]
    process = start("panformer_cli", *words(pairs, out), patch=patched(out.with_name("patch"), "\n".join(lines)))
    assert process.stderr is not None
    seen = ""
    while seen.count("waiting;") < 2:
        letter = process.stderr.read(1)
        assert letter, f"it ended before both processes waited: {seen}"
        seen += letter
    return process


@pytest.mark.slow
def test_ctrl_c_ends_all_processes(pairs: Pairs, tmp_path: Path) -> None:
    """All signals are forwarded alike; test_runtime.py has what each does in a process."""
    process = waiting(pairs, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert err.split() == ["Stopped."]


@pytest.mark.slow
def test_a_second_ctrl_c_kills_processes_that_ignore_the_first(pairs: Pairs, tmp_path: Path) -> None:
    listens_to_none = "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)"
    process = waiting(pairs, tmp_path / "out", listens_to_none)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.split() == ["Stopped."]


@pytest.mark.slow
def test_workers_end_when_their_launcher_ends_in_any_way(pairs: Pairs, tmp_path: Path) -> None:
    process = waiting(pairs, tmp_path / "out")
    assert process.stdout is not None
    process.kill()
    # The pipe stays open as long as a process is alive.
    assert select.select([process.stdout], [], [], 20)[0]
    assert os.read(process.stdout.fileno(), 1) == b""
    process.communicate()
