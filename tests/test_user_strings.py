"""tools/user_strings.py lists help texts, messages and page texts, and finds words to avoid."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # every file of the project is read

TOOL = Path(__file__).parent.parent / "tools" / "user_strings.py"


def lines_of(tmp_path: Path, *options: str) -> list[str]:
    out = tmp_path / "strings.txt"
    subprocess.run([sys.executable, TOOL, "--out", out, *options], check=True)
    return out.read_text(encoding="utf-8").splitlines()


def test_strings_of_every_kind_are_listed(tmp_path: Path) -> None:
    lines = lines_of(tmp_path)
    for where, kind, text in (
        ("cli/train.py", "help of panformer train --resume", "--out"),
        ("engine/training/trainer.py", "progress", "Training"),
        ("engine/training/train.py", "error", "--resume and --init-from are both given"),
        ("pages/templates/report.html", "page", "All images"),
        ("pages/templates/viewer.js", "script", "Ground truth"),
    ):
        assert [line for line in lines if f"{where}:" in line and f": {kind}: " in line and text in line], text


def test_words_to_avoid_are_counted(tmp_path: Path) -> None:
    marked = "the release"
    lines = lines_of(tmp_path, "--words")
    found = [line for line in lines if f": {marked} -> " in line]
    [count] = [line for line in lines if line.startswith(" ") and f" {marked} -> " in line]
    assert int(count.split()[0]) == len(found) and any("test_user_strings.py:" in line for line in found)
