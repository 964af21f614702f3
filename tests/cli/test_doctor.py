"""`panformer doctor`: its output and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from panformer_cli.engine.doctor import doctor
from panformer_cli.engine.doctor.finding import Finding, Status
from tests.conftest import REPOSITORY
from tests.helpers import run


def find(monkeypatch: pytest.MonkeyPatch, *statuses: Status) -> None:
    """Let the command find things with these statuses."""
    found = [
        Finding("Versions", f"thing {number}", status, "1.0", "" if status == "ok" else f"pip install thing{number}")
        for number, status in enumerate(statuses)
    ]
    monkeypatch.setattr(doctor, "examine", lambda: iter(found))


def test_a_good_installation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find(monkeypatch, "ok", "missing", "warning")
    assert run("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Versions"
    assert lines[1].split() == ["ok", "thing", "0", "1.0"]
    assert lines[lines.index("To fix") + 1] == "  thing 2: pip install thing2"
    assert lines[lines.index("Optional") + 1] == "  thing 1: pip install thing1"
    assert lines[-1] == "Everything that panformer needs works."


def test_what_is_required_and_fails_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find(monkeypatch, "ok", "failed", "failed")
    assert run("doctor") == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 problems: thing 1, thing 2"
    assert run("doctor", "--json") == 1
    content = json.loads(capsys.readouterr().out)
    assert content["good"] is False
    assert content["findings"][1] == {
        "section": "Versions",
        "name": "thing 1",
        "status": "failed",
        "found": "1.0",
        "fix": "pip install thing1",
    }


@pytest.mark.slow
def test_it_works_without_torch_and_rich(tmp_path: Path) -> None:
    """Broken packages are a line each, and everything else is still examined."""
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: file too short')")
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ImportError('rich is broken')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    command = [sys.executable, "-m", "panformer_cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    found = {(one["section"], one["name"]): one for one in json.loads(done.stdout)["findings"]}
    torch = found["Versions", "torch"]
    assert torch["status"] == "failed"
    assert torch["found"].endswith("cannot be imported: libtorch.so: file too short")
    assert torch["fix"] == "pip install --force-reinstall 'torch>=2.6'"
    assert found["Versions", "rich"]["status"] == "failed"
    assert found["Versions", "numpy"]["status"] == found["Folders", "cache"]["status"] == "ok"
    assert found["Self-test", "PNG"]["status"] == "ok"
