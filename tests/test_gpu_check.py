"""benchmarks/gpu_check.py, tested without a GPU: its parts, their time limits and its report."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from panformer_cli.engine.training.data_checks import check_length
from panformer_cli.recipe_checks import check_run
from panformer_cli.recipe_io import load_recipe
from panformer_cli.reporting import SilentReporter
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "gpu_check.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


check: Any = load()


def part(name: str, code: str, seconds: float = 30, **more: Any) -> Any:
    return check.Part(name, ["-c", code], seconds, more.pop("rows", check.last_line), **more)


def run(parts: list[Any], folder: Path, has_gpu: bool = True) -> tuple[Any, dict[str, Any], str]:
    report = check.Report(folder / "gpu.json")
    check.run_all(parts, report, has_gpu, folder)
    return report, json.loads((folder / "gpu.json").read_text()), (folder / "gpu.md").read_text()


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_other_parts_run_after_a_failure(tmp_path: Path) -> None:
    parts = [part("broken", "raise ValueError('no memory')"), part("good", "print('all fine')")]
    report, content, table = run(parts, tmp_path)
    broken, good = content["parts"]
    assert (broken["status"], broken["exit_code"]) == ("failed", 1)
    assert broken["reason"] == "exit code 1: ValueError: no memory"
    assert "Traceback" in broken["stderr"]
    assert (good["status"], good["rows"]) == ("passed", [["last line", "all fine"]])
    assert re.search(r"\| good \| last line \| all fine \|", table)
    assert report.exit_code == 1


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")
def test_a_part_is_killed_at_its_time_limit_with_its_child_processes(tmp_path: Path) -> None:
    child = "import time; time.sleep(60)"
    code = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True); {child}"
    )
    began = time.monotonic()
    report, content, _ = run([part("slow", code, seconds=2)], tmp_path)
    assert time.monotonic() - began < 30
    (outcome,) = content["parts"]
    assert (outcome["status"], outcome["reason"], outcome["exit_code"]) == ("timed out", "killed after 2 s", None)
    assert report.exit_code == 1
    grandchild = int(outcome["stdout"])
    deadline = time.monotonic() + 10
    while is_running(grandchild) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(grandchild)


def test_results_printed_before_the_limit_are_kept(tmp_path: Path) -> None:
    line = {"recipe": "r50", "size": [8, 9], "batch": 1, "precision": "fp32", "memory_format": "channels_last"}
    line |= {"ms": {"median": 12.5}, "images_per_second": 80.0, "peak_memory_mib": 100.0}
    incomplete = '{"recipe": "r5'
    code = f"import time; print({json.dumps(line)!r}); print({incomplete!r}, end='', flush=True); time.sleep(60)"
    _, content, table = run([part("inference", code, 2, rows=check.inference_rows)], tmp_path)
    assert content["parts"][0]["results"] == [line]
    assert "| inference | r50, 8x9, batch 1, fp32, channels last | 12.5 ms, 80.0 images/s, 100 MiB |" in table


def test_a_failed_option_is_a_row_and_the_others_are_too(tmp_path: Path) -> None:
    good = {"recipe": "r50", "size": [8, 9], "option": "bf16", "seconds": {"median": 0.125}, "first": 2.0, "loss": 7.5}
    lines = [good | {"peak_memory_mib": 100.0}, {"option": "fp16", "error": "OutOfMemoryError: no memory"}]
    code = "; ".join(f"print({json.dumps(line)!r})" for line in lines) + "; raise SystemExit(1)"
    _, content, table = run([part("options", code, rows=check.option_rows)], tmp_path)
    assert content["parts"][0]["status"] == "failed"
    assert "| options | r50, 8x9, bf16 | 125 ms (first step 2.0 s), 100 MiB, loss 7.500 |" in table
    assert "| options | fp16 | OutOfMemoryError: no memory |" in table


def test_the_rows_of_training_memory() -> None:
    row = {"checkpoint": "encoder", "peak": 300.0, "kept": {"encoder": 40.0, "losses": 2.0}, "gradient_difference": 0.0}
    row |= {"seconds": {"median": 0.25}, "ratio": {"median": 1.2}}
    content = {"recipe": "r50", "size": [8, 9], "precision": "fp32", "rows": [row]}
    expected = "250 ms (1.20), 300 MiB, of which 42 kept for the backward pass, gradients 0e+00"
    assert check.memory_rows(json.dumps(content, indent=2)) == [("r50, 8x9, fp32, encoder checkpointed", expected)]


def test_without_a_gpu_a_part_that_needs_one_is_skipped(tmp_path: Path) -> None:
    report, content, _ = run([part("kernels", "raise SystemExit(1)", needs_gpu=True)], tmp_path, has_gpu=False)
    assert (content["parts"][0]["status"], content["parts"][0]["reason"]) == ("skipped", "no GPU")
    assert report.exit_code == 0


def test_invalid_output_is_a_failure(tmp_path: Path) -> None:
    report, content, _ = run([part("step", "print('nothing')", rows=check.step_rows)], tmp_path)
    assert content["parts"][0]["status"] == "failed"
    assert content["parts"][0]["reason"].startswith("its output cannot be read (ValueError")
    assert report.exit_code == 1


@pytest.mark.parametrize(
    ("lines", "rows", "skipped"),
    [
        (
            ["t.py::one PASSED [ 50%]", "t.py::two[a b] PASSED"],
            [("tests", "2 passed, 0 failed, 0 skipped")],
            False,
        ),
        (["t.py::one SKIPPED (no GPU) [100%]"], [("tests", "0 passed, 0 failed, 1 skipped")], True),
        (["t.py::one FAILED [100%]"], [("tests", "0 passed, 1 failed, 0 skipped"), ("one", "failed")], False),
    ],
)
def test_finished_tests_are_counted(lines: list[str], rows: list[tuple[str, str]], skipped: bool) -> None:
    assert check.test_rows("\n".join(lines)) == rows
    assert all(check.SKIPPED.fullmatch(result) for _, result in rows) == skipped


def test_results_are_written_after_every_part(tmp_path: Path) -> None:
    """Both files are complete after every part, and no temporary file remains."""
    report = check.Report(tmp_path / "gpu.json")
    for number in range(3):
        report.add(check.Outcome(f"part {number}", "passed"))
        assert len(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == number + 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]


def test_the_time_limits_add_up_to_at_most_ten_minutes(tmp_path: Path) -> None:
    seconds = sum(part.seconds for part in check.parts(False, tmp_path))
    assert seconds + check.INSTALL + 2 * check.LOOK <= check.LONGEST == 600


@pytest.mark.parametrize("dry", [False, True])
def test_every_part_names_files_that_exist(dry: bool, tmp_path: Path) -> None:
    words = [word for part in check.parts(dry, tmp_path) for word in part.words]
    files = [word for word in words if word.endswith(".py")]
    assert {"tests/test_gpu.py", check.TRAINING_TESTS, check.SAMPLING_TESTS} <= set(files)
    assert all((REPOSITORY / name).is_file() for name in files)


@pytest.mark.parametrize(("dry", "images"), [(False, 800), (True, 8)])
def test_the_run_has_settings_that_training_accepts(dry: bool, images: int, tmp_path: Path) -> None:
    parts = {part.name: list(part.words) for part in check.whole_run(dry, tmp_path)}
    assert str(images) in parts["scenes"]
    words = parts["train"]
    recipe = load_recipe("tiny", [words[index + 1] for index, word in enumerate(words) if word == "--set"])
    assert check_run(recipe, is_new=True) == []
    check_length(recipe.train, images, images // recipe.train.batch_size, SilentReporter())


def test_no_package_is_missing_here() -> None:
    assert check.missing_packages() == []
    assert check.needed_here('zlib-ng >= 0.5.0 ; platform_machine in "nothing"') is None
    assert not check.is_installed("panformer-that-does-not-exist")


def test_an_installation_keeps_the_version_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def run_part(part: Any, folder: Path) -> Any:
        del folder
        seen.append((part, (tmp_path / "constraints.txt").read_text()))
        return check.Outcome(part.name, "failed", "exit code 1: no network")

    monkeypatch.setattr(check, "run_part", run_part)
    assert check.install({"torch": "2.9.0+cu130"}, tmp_path).status == "failed"
    ((pip, constraints),) = seen
    assert "torch==2.9.0+cu130\n" in constraints
    assert ["--constraint", str(tmp_path / "constraints.txt")] == list(pip.words[-4:-2])


@pytest.mark.slow
def test_a_python_without_torch_is_reported(tmp_path: Path) -> None:
    """A package `torch` that cannot be imported shadows the real one."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('no torch here')")
    command = [sys.executable, str(SCRIPT), "--json", str(tmp_path / "gpu.json")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "could not import torch" in done.stderr
    assert "no torch here" in json.loads((tmp_path / "gpu.json").read_text())["parts"][0]["reason"]


@pytest.mark.slow
def test_a_dry_run_of_one_part_passes(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--json", str(tmp_path / "gpu.json"), "--dry-run", "--no-install"]
    done = subprocess.run([*command, "--only", "inference r50"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (outcome,) = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert outcome["status"] == "passed"
    assert len(outcome["results"]) == 4
