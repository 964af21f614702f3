"""`panformer weights`, and names of published weights as checkpoints of other commands."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from panformer_cli.cli.main import main
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.checkpoints.published import PUBLISHED
from panformer_cli.engine.runs import find_checkpoint
from panformer_cli.reporting import SilentReporter
from tests.conftest import REPOSITORY
from tests.helpers import run
from tests.release_files import save_as_mmcv, small_file, stub_state
from tests.storage.file_server import CLOSED, FileServer, serve

R50 = "panoptic_segformer_r50_2x.pth"
KNET_PQ = {"knet_r50_1x": 44.3, "knet_r50": 47.1, "knet_r101": 48.4, "knet_swinl": 54.6}
PQ = {"r50_1x": 48.0, "r50": 49.6, "r101": 50.6, "pvtv2b5": 55.6, "swinl": 55.8, **KNET_PQ}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a mirror of the published weights, and a working directory without runs."""
    server.content = small_file()
    monkeypatch.setenv("PANFORMER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PANFORMER_WEIGHTS_URL", server.url)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()  # must exist, is never opened
    return tmp_path / "home"


@dataclass
class Stopped(Exception):
    """Raised in place of running; holds the request to the engine."""

    request: Any


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predicting, evaluating and training raise `Stopped` at once."""

    def stop(request: Any, *others: Any) -> None:
        raise Stopped(others[0] if hasattr(others[0], "init_from") else request)

    for function in ("predict.predict", "evaluation.evaluate.evaluate", "training.train.train"):
        monkeypatch.setattr(f"panformer_cli.engine.{function}", stop)


def requested(*arguments: str) -> Any:
    with pytest.raises(Stopped) as caught:
        main(arguments)
    return caught.value.request


def rows(out: str) -> dict[str, list[str]]:
    """The rows of the table, by name."""
    found = [line.split() for line in out.splitlines()]
    return {row[0]: row for row in found if row and row[0] in PQ}


def test_the_list(home: Path, server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("weights", "list") == 0
    out, err = capsys.readouterr()
    assert {name: float(row[2]) for name, row in rows(out).items()} == PQ
    assert rows(out)["r50"] == ["r50", "ResNet-50", "49.6", "54.4", "42.4", "≥", "203", "no", R50]
    assert rows(out)["knet_r50"][1:6] == ["ResNet-50", "47.1", "–", "–", "≥"]
    assert out.splitlines()[-2:] == [f"From: {server.url}", f"Cache: {home / 'weights'}"]
    assert err == ""
    assert server.paths == []


def test_the_list_shows_what_is_cached(server: FileServer, engine: None, capsys: pytest.CaptureFixture[str]) -> None:
    server.content = small_file(numbers=600_000)
    requested("evaluate", "r50")
    run("weights", "list")
    table = rows(capsys.readouterr().out)
    assert table["r50"][5:7] == ["2", "yes"]
    assert table["r101"][5:8] == ["≥", "279", "no"]


def test_the_list_as_json(home: Path, server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    file = home / "weights" / R50
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    assert run("weights", "list", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["pq"] for row in content} == PQ
    assert content[1] == {
        "name": "r50",
        "backbone": "ResNet-50",
        "pq": 49.6,
        "pq_things": 54.4,
        "pq_stuff": 42.4,
        "size": None,
        "least_size": 202_800_000,
        "cached": True,
        "address": f"{server.url}/{R50}",
        "path": str(file),
    }


def test_the_list_imports_no_torch() -> None:
    code = (
        "import sys\nfrom panformer_cli.cli.main import main\ntry:\n    main(['weights', 'list'])\n"
        "except SystemExit as exit:\n    assert not exit.code\n"
        "print([name for name in ('torch', 'numpy', 'timm', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.splitlines()[-1] == "[]"


def test_predict_without_a_run_uses_r50(
    home: Path, server: FileServer, engine: None, capsys: pytest.CaptureFixture[str]
) -> None:
    request = requested("predict", "photos", "--out", "viz")
    assert request.checkpoint == home / "weights" / R50
    assert request.checkpoint.read_bytes() == server.content
    out, err = capsys.readouterr()
    why = f"the published weights r50, since there is no run in {Path('runs').resolve()}"
    assert out.splitlines()[0] == f"Checkpoint: {home / 'weights' / R50} ({why})"
    assert err.splitlines()[0] == f"Downloading {server.url}/{R50} to {home / 'weights' / R50}"


def test_predict_with_a_run_uses_the_run(server: FileServer, engine: None) -> None:
    checkpoint = Path("runs/mine/a/best.safetensors")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert requested("predict", "photos", "--out", "viz").checkpoint == checkpoint
    assert server.paths == []


def test_a_name_can_be_used_anywhere_a_checkpoint_is_expected(home: Path, engine: None) -> None:
    file = home / "weights" / R50
    assert requested("predict", "photos", "--out", "viz", "--checkpoint", "r50").checkpoint == file
    assert requested("train", "tiny", "--init-from", "r50", "--set", "data.root=data").init_from == file
    request = requested("evaluate", "r50")
    assert (request.checkpoint, request.out) == (file, Path("evaluation/r50"))
    assert requested("evaluate", "r50", "--out", "here").out == Path("here")


def test_an_invalid_device_is_reported_before_the_download(
    server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("predict", "photos", "--out", "viz", "--device", "cudda") == 2
    assert "cudda" in capsys.readouterr().err
    assert server.paths == []


@pytest.mark.parametrize("command", [["evaluate", "swinl"], ["predict", "photos", "--out", "viz"]])
def test_a_failed_download_is_one_line(
    command: list[str], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PANFORMER_WEIGHTS_URL", CLOSED)
    assert run(*command) == 2
    [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    file = "panoptic_segformer_swinl_2x.pth" if "swinl" in command else R50
    assert error.startswith(f"Error: cannot download {CLOSED}/{file}: ")
    assert f"put the file at {home / 'weights' / file} yourself, or " in error


@pytest.mark.parametrize(("source", "recipe"), [("r50", "r50"), ("mine.pth", None)])
def test_import_passes_its_options_on(
    source: str, recipe: str | None, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.pth").touch()
    calls: list[tuple[Any, ...]] = []

    def import_weights(*arguments: Any) -> Path:
        calls.append(arguments[:-1])
        return Path("out/model.safetensors")

    monkeypatch.setitem(
        sys.modules, "panformer_cli.engine.checkpoints.import_official", SimpleNamespace(import_weights=import_weights)
    )
    file = home / "weights" / R50 if source == "r50" else Path("mine.pth")
    assert run("weights", "import", source, "--out", "out") == 0
    assert capsys.readouterr().out == "Checkpoint: out/model.safetensors\n"
    assert run("weights", "import", source, "--out", "out", "--recipe", "r101", "--categories", "a.json") == 0
    assert calls == [(file, Path("out"), recipe, None), (file, Path("out"), "r101", Path("a.json"))]


@pytest.mark.slow
def test_a_name_is_imported_after_an_interrupted_download(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("panformer_cli.storage.download.RETRY_WAITS", (0.0,))
    server.content = save_as_mmcv(stub_state("r50"), Path("release.pth")).read_bytes()
    server.answers = [serve(cut=100_000)]
    assert run("weights", "import", "r50_1x", "--out", "mine") == 0
    assert server.ranges == [None, "bytes=100000-"]
    assert server.paths == ["/release/panoptic_segformer_r50_1x.pth"] * 2
    assert capsys.readouterr().out == "Checkpoint: mine/model.safetensors\n"
    checkpoint = read_checkpoint(find_checkpoint(Path("mine"), SilentReporter()))
    assert (checkpoint.recipe.name, len(checkpoint.categories)) == ("r50_1x", 133)


def test_missing_inputs_are_reported_before_weights_are_downloaded(
    server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("predict", "fotos", "--out", "viz") == 2
    assert capsys.readouterr().err.startswith("Error: no such image, video, folder or pattern: fotos")
    assert server.paths == []


def test_download(home: Path, server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.content = small_file(numbers=600_000)
    assert run("weights", "download", "r50", "r101", "r50") == 0
    out, err = capsys.readouterr()
    folder = home / "weights"
    files = {"r50": R50, "r101": R50.replace("r50", "r101")}
    assert out.splitlines() == [f"{name}: {folder / file}" for name, file in files.items()]
    assert [(folder / file).read_bytes() for file in files.values()] == [server.content] * 2
    lines = err.splitlines()
    assert lines[:2] == ["r50: 2 MB", "r101: 2 MB"]
    assert lines[2].startswith("To download: 5 MB; free: ")
    server.paths.clear()
    assert run("weights", "download", "r50", "--json", "--quiet") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == [{"name": "r50", "path": str(folder / R50), "size": len(server.content)}]
    assert (err, server.paths) == ("", []), "it is in the cache"


def test_download_all(server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in KNET_PQ:  # the server's file has another hash
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], sha256=None))
    assert run("weights", "download", "all") == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == list(PQ)
    assert len(server.paths) == len(PQ)


def test_the_size_is_a_lower_bound_if_the_server_does_not_report_it(
    server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reports_sizes = False
    assert run("weights", "download", "r50") == 0
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first == "r50: ≥ 203 MB"
    assert second.startswith("To download: at least 203 MB; ")


def test_nothing_is_downloaded_if_the_space_is_too_small(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = len(server.content) * 2 - 1
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    assert run("weights", "download", "r50", "swinl") == 2
    assert "Error: r50, swinl: 0.00 GB are to be downloaded to " in capsys.readouterr().err
    assert server.paths == []


def test_a_download_resumes(
    home: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("panformer_cli.storage.download.RETRY_WAITS", ())
    server.content = small_file(numbers=600_000)
    server.answers = [serve(cut=1_000_000)]
    assert run("weights", "download", "r50") == 2
    capsys.readouterr()
    assert run("weights", "download", "r50") == 0
    assert "To download: 1 MB; " in capsys.readouterr().err
    assert server.ranges == [None, "bytes=1000000-"]
    assert (home / "weights" / R50).read_bytes() == server.content


def test_an_unknown_name(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("weights", "download", "r50", "swin-l") == 2
    assert capsys.readouterr().err.startswith(
        "Error: no published weights 'swin-l'; did you mean swinl? expected r50_1x, "
    )
    assert server.heads == server.paths == []
