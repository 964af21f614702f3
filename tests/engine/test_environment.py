"""The record of what a run depends on."""

from __future__ import annotations

import hashlib
import json
import platform
from datetime import datetime
from pathlib import Path

import pytest
import torch

from panformer_cli.engine import environment as module
from panformer_cli.engine.environment import environment, fingerprints


def test_the_environment_is_json_with_time_host_versions_and_commit() -> None:
    facts = json.loads(json.dumps(environment()))
    assert datetime.fromisoformat(facts["time"]).tzinfo is not None
    assert (facts["host"], facts["libraries"]["torch"]) == (platform.node(), torch.__version__.partition("+")[0])
    assert facts["commit"] is None or len(facts["commit"].removesuffix("-dirty")) == 40


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["commit"] is None


def test_a_repository_that_only_contains_the_installed_package_is_not_its_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = {"describe": "f" * 40, "ls-files": None}
    monkeypatch.setattr(module, "_output", lambda *command: outputs.get(command[3] if len(command) > 3 else ""))
    assert environment()["commit"] is None


def test_files_are_identified_by_their_content(tmp_path: Path) -> None:
    path = tmp_path / "panoptic.json"
    path.write_bytes(b"{}")
    assert fingerprints({"train": path}) == {
        "train": {"path": str(path), "bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    }
