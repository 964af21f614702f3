"""The folder of a run while it is trained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from panformer_cli.engine.claimed_run import new_run, resumed_run
from panformer_cli.errors import PanformerError
from panformer_cli.reporting import SilentReporter
from tests.conftest import REPOSITORY
from tests.engine.small import StopAfter

QUIET = SilentReporter()
REMAINS = (".last.safetensors.123.tmp", ".best.safetensors.7.tmp", ".recipe.yaml.1.tmp", ".metrics.jsonl.2.tmp")
"""Temporary files of killed processes."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a temporary folder, since `runs/` is in the current folder."""
    monkeypatch.chdir(tmp_path)


def file(path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return path


def test_a_new_run_has_a_folder_of_its_recipe_and_time() -> None:
    with new_run("mine", None, QUIET) as run:
        assert run.path.parent == Path("runs/mine")
        file(run.recipe)
    assert list(run.path.iterdir()) == [run.recipe]


def test_runs_that_start_in_the_same_second_have_different_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen:
        now = staticmethod(lambda: Frozen())
        strftime = staticmethod(lambda _: "2030-01-01_00-00-00")

    monkeypatch.setattr("panformer_cli.engine.claimed_run.datetime", Frozen)
    with new_run("mine", None, QUIET) as a, new_run("mine", None, QUIET) as b, new_run("mine", None, QUIET) as c:
        names = [run.path.name for run in (a, b, c)]
    assert names == ["2030-01-01_00-00-00", "2030-01-01_00-00-00-2", "2030-01-01_00-00-00-3"]


@pytest.mark.parametrize("out", [None, "new", "new/deeper"])
def test_a_run_that_writes_nothing_leaves_no_folder(out: str | None) -> None:
    with pytest.raises(PanformerError, match="a mistake"), new_run("mine", Path(out) if out else None, QUIET):
        raise PanformerError("a mistake")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "files",
    [
        [],
        ["recipe.yaml", "environment.json"],
        ["recipe.yaml", "metrics.jsonl", ".lock", "recipe-before-step-3.yaml"],
        ["recipe.yaml", "trackers/wandb.json", "tensorboard/events.out", "wandb/run-1/x", "profile/profile.json"],
        [*REMAINS, ".last.safetensors.123.parts.tmp/.tmpAb3xYz", ".tmpAb3xYz"],
    ],
)
def test_a_folder_without_a_checkpoint_can_be_reused(files: list[str]) -> None:
    Path("out").mkdir()
    for name in files:
        file(Path("out") / name)
    with new_run("mine", Path("out"), QUIET) as run:
        assert run.path == Path("out")
        assert {path.name for path in Path("out").iterdir()} == {
            name.partition("/")[0] for name in [*files, ".lock"] if ".tmp" not in name
        }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("out/last.safetensors", "--out out has another run; add --resume to continue that run, or choose a new"),
        ("out/step-3.safetensors", "--out out has another run"),
        ("out/letter.txt", "--out out is not empty; expected a new or empty folder; choose another folder"),
        ("out/.tmp", "--out out is not empty"),
        ("out/.letter.txt.12.tmp", "--out out is not empty"),
        ("out", "--out out is a file; expected a new or empty folder"),
    ],
)
def test_a_folder_in_use_is_refused(name: str, said: str) -> None:
    content = file(name)
    with pytest.raises(PanformerError, match=f"^{said}"), new_run("mine", Path("out"), QUIET):
        pass
    assert content.read_text() == "x"
    assert not Path("out/.lock").exists()


def test_only_temporary_files_are_removed_when_a_run_resumes() -> None:
    kept = ["last.safetensors", "step-1.safetensors", ".best-tuned.safetensors.5.tmp", ".tmp", ".tmpAb3xYz1", "notes"]
    for name in [*kept, *REMAINS, ".tmpAb3xYz", ".step-10.safetensors.4.tmp", ".last.safetensors.9.parts.tmp/x"]:
        file(Path("out") / name)
    with resumed_run("mine", Path("out"), QUIET):
        pass
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(kept)


def test_a_second_run_in_the_folder_is_refused_until_the_first_one_ends() -> None:
    file("out/last.safetensors")
    with resumed_run("mine", Path("out"), QUIET):
        for _ in range(2):  # a refused one releases nothing
            with (
                pytest.raises(PanformerError, match=rf"^out is being trained by process {os.getpid()} on .*, since 20"),
                resumed_run("mine", Path("out"), QUIET),
            ):
                pass
    with resumed_run("mine", Path("out"), QUIET):
        pass


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_free_at_once() -> None:
    code = (
        "import os, signal; from pathlib import Path\n"
        "from panformer_cli.storage.process_lock import process_lock\n"
        "with process_lock(Path('out/.lock')) as locked:\n"
        "    print(locked, flush=True)\n"
        "    input()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    file("out/last.safetensors")
    pipe = subprocess.PIPE
    other = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True, cwd=Path.cwd(),
                             env=os.environ | {"PYTHONPATH": str(REPOSITORY)})  # fmt: skip
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    with (
        pytest.raises(PanformerError, match=f"being trained by process {other.pid} on"),
        resumed_run("mine", Path("out"), QUIET),
    ):
        pass
    other.communicate("\n")
    assert Path("out/.lock").exists()
    with resumed_run("mine", Path("out"), QUIET):
        assert f"process {os.getpid()} " in Path("out/.lock").read_text()
    assert not Path("out/.lock").exists()


def test_a_file_system_without_locks_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    reporter = StopAfter()
    with new_run("mine", Path("out"), reporter):
        pass
    (warning,) = reporter.warnings
    assert warning == "out is on a file system without locks: nothing prevents a second training in this folder"
