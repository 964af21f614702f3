"""The program: help, exit codes, and one line per error."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

from panformer_cli import __version__
from panformer_cli.cli.groups import COMMANDS, LazyGroup
from panformer_cli.cli.main import main
from panformer_cli.cli.prepare_data.scenes import SCENE_HELP
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.errors import PanformerError, WriteError
from tests.conftest import REPOSITORY
from tests.helpers import in_new_process, run

HEAVY = ("torch", "torchvision", "timm", "numpy", "scipy", "cv2", "PIL", "pycocotools", "rich", "yaml", "einops")


def use(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    """Let `panformer train` call `function`."""
    command = click.Command("train", callback=function)
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: command)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["prepare-data", "--help"],
        ["weights", "--help"],
        ["evaluate", "--help"],
        [],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    loaded = in_new_process(
        "import sys\nfrom panformer_cli.cli.main import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit as exit:\n    assert not exit.code\n"
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules])"
    )
    assert loaded.splitlines()[-1] == "loaded: []"


@pytest.mark.slow
def test_evaluating_saved_predictions_imports_no_backbones() -> None:
    loaded = in_new_process(
        "import sys\nimport panformer_cli.engine.evaluation.evaluate_predictions\n"
        "print([name for name in ('timm', 'torchvision', 'torch._dynamo', 'numba') if name in sys.modules])"
    )
    assert loaded.splitlines()[-1] == "[]"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    for name, summary in COMMANDS.items():
        assert re.search(rf"^  {name} +{summary[:20]}", text, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: panformer {name} ")
    assert "--help" in out


@pytest.mark.parametrize("arguments", [[], ["prepare-data"]])
def test_without_a_command_help_is_shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 0
    out, err = capsys.readouterr()
    assert "Commands:" in out
    assert err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"panformer {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'? See `panformer --help`."),
        (["xyz"], "No such command 'xyz'. Expected one of demo, prepare-data, train, recipes, evaluate, predict, vis"),
        (["prepare-data", "coc"], "No such command 'coc'. Did you mean 'coco'? See `panformer prepare-data --help`."),
        (["--verison"], "No such option"),
        (["train", "r50", "--gpu"], "--gpus"),
        (["train"], "Missing argument 'RECIPE'; it can be omitted only with --resume RUN. See"),
        (["train", "r50", "--gpus", "0"], "0 is not in the range x>=1"),
        (["train", "r50", "--gpus", "many"], "'many' is not a valid integer"),
        (["train", "r50", "--gpus", "2", "--cpu-processes", "2"], "--gpus and --cpu-processes cannot be used together"),
        (["train", "r50", "--gpus", "2", "--device", "cpu"], "--device cannot be used with --gpus"),
        (["train", "r5O"], "the recipe 'r5O' does not exist"),
        (["train", "r50", "--set", "train.lrr=1"], "unknown key train.lrr; did you mean train.lr?"),
        (["train", "r50", "--set", "train.lr"], "--set train.lr: expected key=value"),
        (["evaluate", "--metrics", "panoptic,ap"], "unknown 'ap': expected all or some of panoptic,boundary,"),
        (["evaluate", "--batch-size", "0"], "0 is not in the range x>=1"),
        (["predict", "a.jpg", "--out", "x", "--batch-size", "-1"], "-1 is not in the range x>=1"),
        (["predict", "--out", "x"], "Missing argument 'INPUT...'"),
        (["predict", "a.jpg"], "Missing option '--out'"),
        (
            ["evaluate", "swin-l"],
            "checkpoint swin-l: no such file; did you mean swinl? give a checkpoint, the folder of a run",
        ),
        (["weights", "lst"], "No such command 'lst'. Did you mean 'list'? See `panformer weights --help`."),
        (["weights", "import", "r50"], "Missing option '--out'"),
        (["prepare-data", "scenes"], "Missing option '--out'"),
        (["prepare-data", "coco", "--root", "/no/such"], "the data folder /no/such does not exist"),
    ],
)
def test_invalid_usage_is_one_line_and_exit_code_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_the_installed_program_prints_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train: {lr: fast}\nmodel: {headz: 8}\n")
    command = [sys.executable, "-m", "panformer_cli", "train", str(tmp_path / "mine.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (done.returncode, done.stdout) == (2, "")
    loading, heading, *problems = done.stderr.splitlines()
    assert loading == f"Loading {tmp_path / 'mine.yaml'} ..."
    assert heading == f"Error: {tmp_path / 'mine.yaml'} has 2 problems:"
    assert sorted(problems) == [
        "  train.lr is 'fast': expected a number",
        "  unknown key model.headz; did you mean model.heads?",
    ]


def test_an_error_of_the_engine_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise PanformerError("a [b] c")

    use(monkeypatch, fail)
    assert run("train") == 2
    assert capsys.readouterr() == ("", "Error: a [b] c\n")


@pytest.mark.parametrize(
    ("error", "restarts", "allowed", "code"),
    [
        (WriteError, "0", "2", 1),
        (WriteError, "1", "2", 1),
        (WriteError, "2", "2", 2),  # used up: the code is that of a command without restarts
        (WriteError, "0", "0", 2),
        (PanformerError, "0", "2", 2),
    ],
)
def test_only_what_can_pass_is_started_again(
    error: type[PanformerError], restarts: str, allowed: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher starts no process again that ends with 2."""

    def fail() -> None:
        raise error("the disk is full")

    use(monkeypatch, fail)
    monkeypatch.setenv("PANFORMER_LAUNCHER", "1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", allowed)
    assert run("train") == code


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, click.Abort])
def test_ctrl_c_is_exit_code_130(
    interrupt: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise interrupt

    use(monkeypatch, stop)
    assert run("train") == 130
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("", "Stopped.")


def test_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    use(monkeypatch, fail)
    with pytest.raises(ZeroDivisionError):
        main(["train"])
    use(monkeypatch, lambda: (_ for _ in ()).throw(OSError(errno.EIO, "input/output error")))
    with pytest.raises(OSError, match="input/output"):
        main(["train"])


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1), ("text", 0)])
def test_a_command_returns_its_exit_code(result: object, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, lambda: result)
    assert run("train") == code


def test_a_closed_pipe_prints_no_error() -> None:
    code = (
        "import click\nfrom panformer_cli.cli.groups import LazyGroup\nfrom panformer_cli.cli.main import main\n"
        "LazyGroup.get_command = lambda *_: click.Command('train', callback=lambda: print('x' * 1_000_000))\n"
        "main(['train'])"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    with writer:
        writer.stdout.read(10)
        writer.stdout.close()
        assert writer.stderr.read() == ""
    assert writer.returncode == 1


def test_every_scene_option_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(SCENE_HELP) == [field.name for field in fields(SceneOptions)]
    assert run("prepare-data", "scenes", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in fields(SceneOptions):
        assert re.search(
            rf"--{field.name.replace('_', '-')} \S+ {SCENE_HELP[field.name]} \[default: {field.default}\]", text
        )


def test_prepare_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scenes"
    arguments = ["--out", str(out), "--train-images", "2", "--val-images", "1", "--height", "64", "--width", "80"]
    assert run("prepare-data", "scenes", *arguments) == 0
    assert len(list(out.glob("images/train/*.jpg"))) == 2
    assert capsys.readouterr().out == f"Next: panformer train tiny --set data.root={out}\n"


@pytest.mark.slow
def test_prepare_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = tmp_path / "scenes"
    run("prepare-data", "scenes", "--out", str(scenes), "--train-images", "2", "--val-images", "1")
    capsys.readouterr()
    assert run("prepare-data", "coco", "--root", str(scenes), "--split", "val", "--out", str(tmp_path / "json")) == 0
    written = tmp_path / "json" / "panoptic_val_detection_format.json"
    assert written.is_file()
    out = capsys.readouterr().out
    assert str(written) in out
    assert "train" not in out.replace(str(tmp_path), "")


def test_metrics_have_a_fixed_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from panformer_cli.cli.evaluate.checkpoint import checkpoint

    parsed = checkpoint.make_context("checkpoint", ["--metrics", "segm, panoptic"]).params["metrics"]
    assert parsed == ("panoptic", "segm")


@pytest.mark.parametrize(("name", "module"), [("predict", "predict"), ("evaluate", "evaluation.evaluate")])
@pytest.mark.parametrize(("given", "expected"), [([], 1), (["--batch-size", "8"], 8)])
def test_the_batch_size_reaches_the_engine(
    name: str, module: str, given: list[str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Any] = []

    def keep(request: Any, *_: object) -> None:
        requests.append(request)
        raise PanformerError("not run in this test")

    monkeypatch.setattr(f"panformer_cli.engine.{module}.{name}", keep)
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.touch()
    image = tmp_path / "a.jpg"
    image.touch()
    inputs = [str(image), "--checkpoint", str(checkpoint)] if name == "predict" else [str(checkpoint)]
    assert run(name, *inputs, "--out", str(tmp_path / "out"), *given) == 2
    assert [request.batch_size for request in requests] == [expected]
