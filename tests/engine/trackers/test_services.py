"""Weights & Biases, MLflow and trackio, against packages of the test that record the calls."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from panformer_cli.cli.train import TRACKERS
from panformer_cli.engine.trackers.names import check_installed, opener_of
from panformer_cli.engine.trackers.tracker import TrackedRun
from panformer_cli.errors import PanformerError

PICTURE = np.zeros((4, 4, 3), np.uint8)
SETTINGS = {f"train.setting{index}": "x" * 1000 for index in range(250)}


class Calls(list[tuple[str, tuple[Any, ...], dict[str, Any]]]):
    """A function for every name, which records its calls."""

    def __call__(self, name: str, result: Any = None) -> Any:
        def called(*arguments: Any, **keywords: Any) -> Any:
            self.append((name, arguments, keywords))
            return result

        return called

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(arguments, keywords) for called, arguments, keywords in self if called == name]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Install the three packages, which record calls."""
    calls = Calls()
    packages = {name: ModuleType(name) for name in ("wandb", "mlflow", "mlflow.entities", "trackio")}
    run = SimpleNamespace(
        id="abc", **{name: calls(name) for name in ("define_metric", "log", "mark_preempting", "finish")}
    )
    client = SimpleNamespace(
        get_experiment_by_name=calls("get_experiment_by_name"),
        create_experiment=calls("create_experiment", "7"),
        create_run=calls("create_run", SimpleNamespace(info=SimpleNamespace(run_id="abc"))),
        **{name: calls(name) for name in ("log_batch", "log_image", "set_terminated", "update_run")},
    )
    fill = {
        "wandb": {"init": calls("init", run), "Image": lambda image: image.shape},
        "mlflow": {"MlflowClient": lambda: client},
        "mlflow.entities": {"Param": lambda *values: values, "Metric": lambda *values: values},
        "trackio": {
            "init": calls("init", run),
            "log": calls("log"),
            "finish": calls("finish"),
            "Image": lambda image: image.shape,
        },
    }
    for name, package in packages.items():
        vars(package).update(fill[name])
        monkeypatch.setitem(sys.modules, name, package)
    return calls


def use(name: str, folder: Path, known: str | None = None) -> str | None:
    """Open a run, send values and a picture, and return the id of the run."""
    tracker = opener_of(name)(TrackedRun(folder, "tiny run", SETTINGS, 5, known))
    tracker.log({"train/loss": 2.0}, 6)
    tracker.images({"samples/0": PICTURE}, 6)
    tracker.finish("stopped")
    return tracker.id


def test_weights_and_biases(calls: Calls, tmp_path: Path) -> None:
    assert use("wandb", tmp_path) == use("wandb", tmp_path, "abc") == "abc"
    (_, first), (_, second) = calls.of("init")
    assert (first["id"], first["resume"], second["id"], second["resume"]) == (None, None, "abc", "allow")
    assert calls.of("define_metric")[:2] == [(("step",), {}), (("*",), {"step_metric": "step"})]
    assert calls.of("log")[:2] == [
        (({"train/loss": 2.0, "step": 6},), {}),
        (({"samples/0": (4, 4, 3), "step": 6},), {}),
    ]
    assert len(calls.of("mark_preempting")) == 2
    assert calls.of("finish")[0] == ((), {"exit_code": 130})


def test_mlflow_gets_settings_in_pieces_that_it_accepts(calls: Calls, tmp_path: Path) -> None:
    assert use("mlflow", tmp_path) == "abc"
    batches = [keywords["params"] for _, keywords in calls.of("log_batch") if "params" in keywords]
    assert [len(batch) for batch in batches] == [100, 100, 50]
    assert {len(value) for batch in batches for _, value in batch} == {500}
    assert calls.of("log_image")[0][1] == {"artifact_file": "samples/0/0000006.png"}
    assert calls.of("set_terminated") == [(("abc", "KILLED"), {})]


def test_mlflow_continues_a_run_without_sending_its_settings_again(calls: Calls, tmp_path: Path) -> None:
    assert use("mlflow", tmp_path, "abc") == "abc"
    assert calls.of("update_run") == [(("abc",), {"status": "RUNNING"})]
    assert not calls.of("create_run")
    ((_, keywords),) = calls.of("log_batch")
    ((name, value, _, step),) = keywords["metrics"]
    assert (name, value, step) == ("train/loss", 2.0, 6)


def test_trackio(calls: Calls, tmp_path: Path) -> None:
    assert use("trackio", tmp_path) == use("trackio", tmp_path, "tiny run") == "tiny run"
    assert [keywords["resume"] for _, keywords in calls.of("init")] == ["never", "allow"]
    assert calls.of("log")[:2] == [(({"train/loss": 2.0},), {"step": 6}), (({"samples/0": (4, 4, 3)},), {"step": 6})]
    assert len(calls.of("finish")) == 2


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("panformer_cli.engine.trackers.names.find_spec", lambda _: None)
    with pytest.raises(PanformerError, match=rf"--log {name} needs .* pip install 'panformer\[{name}\]'"):
        check_installed([name])
