"""`panformer demo` with a very small model."""

from __future__ import annotations

from pathlib import Path

import pytest

from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from tests.engine.small import SMALL
from tests.helpers import run
from tests.pages.html import Html

pytestmark = pytest.mark.slow


def demo(out: Path, *settings: str) -> int:
    overrides = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    return run("demo", "--out", str(out), "--images", "8", *overrides)


def test_the_demo_writes_all_results_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert demo(out, "train.max_steps=2") == 0
    printed, messages = capsys.readouterr()
    for line in (
        f"Scenes:       {out}/scenes",
        f"Gallery:      {out}/gallery/index.html",
        f"Report:       {out}/report/index.html",
    ):
        assert line in printed
    assert "PQ" in printed
    for name in ("scenes/annotations/panoptic_val.json", "run/best.safetensors", "evaluation/metrics.json"):
        assert (out / name).is_file()
    report = Html.of_file(out / "report" / "index.html")
    assert "Panoptic quality" in report.text and str(tmp_path) not in (out / "report" / "index.html").read_text()
    [link] = [link["href"] or "" for link in report.all("a") if "gallery" in (link.get("href") or "")]
    gallery = Html.of_file(out / "report" / link)
    assert "Panoptic quality" in gallery.text
    shown = list((out / "gallery" / "overlays").glob("*.jpg"))
    assert len(shown) == len(list((out / "predictions" / "overlays").glob("*.jpg"))) == 24
    assert "validation scenes are in" in messages

    scene = out / "scenes" / "images" / "train" / "000000.jpg"
    written = scene.stat().st_mtime_ns
    assert demo(out, "train.max_steps=3") == 0
    assert "Resuming after step 2 of 3" in capsys.readouterr().err
    assert read_checkpoint(out / "run" / "last.safetensors").progress.step == 3
    assert scene.stat().st_mtime_ns == written, "the scenes are not generated again"
