"""An interrupted prediction resumes, failures are listed, and two processes never share a folder of results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from panformer_cli.engine.claimed_folder import claimed
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.predict import PredictRequest, PredictResult, predict
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import PanformerError
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.reporting import SilentReporter
from tests.engine.ranks import in_processes
from tests.engine.small import ALONE, StopAfter


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (64, 64), (40 * number, 90, 200)).save(folder / f"{number}.png")
    return folder


def request(trained: RunFolder, photos: Path, out: Path, **others: Any) -> PredictRequest:
    return PredictRequest([str(photos)], trained.best, out, **others)


def run(requested: PredictRequest, reporter: SilentReporter | None = None) -> PredictResult:
    return predict(requested, ALONE, reporter or SilentReporter())


def run_in(process: Process, requested: PredictRequest) -> PredictResult:
    return predict(requested, process, SilentReporter())


def files(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder but the manifest, whose settings have the time of the checkpoint."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name != "predict.json"}


def interrupted(monkeypatch: pytest.MonkeyPatch, requested: PredictRequest, after: int) -> None:
    """Stop a prediction in the forward pass of image `after`, counted from 0."""
    seen: list[int] = []
    infer = PanopticSegFormer.infer

    def stop(model: PanopticSegFormer, *inputs: Any) -> Any:
        if len(seen) == after:
            raise KeyboardInterrupt
        seen.append(1)
        return infer(model, *inputs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PanopticSegFormer, "infer", stop)
        run(requested)


class _Totals(StopAfter):
    """Keeps the number of images that each progress bar announces."""

    def __init__(self) -> None:
        super().__init__()
        self.totals: list[int] = []

    def progress(self, what: str, total: int, done: int = 0) -> Any:
        self.totals.append(total)
        return super().progress(what, total, done)


@pytest.mark.slow
def test_an_interrupted_prediction_resumes(
    trained: RunFolder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the missing images are predicted, and the files are those of a run without interruption."""
    run(request(trained, photos, tmp_path / "whole"))
    out = tmp_path / "out"
    interrupted(monkeypatch, request(trained, photos, out), after=3)
    assert not (out / "panoptic.json").exists() and len(list((out / "panoptic").iterdir())) == 3
    (out / "panoptic" / "1.png").unlink()
    result = run(request(trained, photos, out, resume=True), reporter := _Totals())
    assert (reporter.totals, result.failures) == ([3], [])
    assert files(out) == files(tmp_path / "whole")
    assert [image["file_name"] for image, _ in result.rows()] == [f"{number}.png" for number in range(5)]

    again = run(request(trained, photos, out, resume=True), reporter := _Totals())
    assert (again.content, reporter.totals) == (result.content, [])
    assert reporter.messages == [f"The prediction in {out} is already complete; showing its results"]
    assert (again.images, result.images) == (5, 5)


@pytest.mark.slow
def test_a_complete_prediction_without_json_counts_its_images(trained: RunFolder, photos: Path, tmp_path: Path) -> None:
    out, output = tmp_path / "out", OutputOptions(("semantic",))
    assert run(request(trained, photos, out, output=output)).images == 5
    again = run(request(trained, photos, out, output=output, resume=True), reporter := _Totals())
    assert (again.images, again.content["images"], reporter.totals) == (5, [], [])
    assert reporter.messages == [
        f"The prediction in {out} is already complete; its segments are not shown, since json was not saved"
    ]


@pytest.mark.slow
def test_other_inputs_or_settings_are_not_resumed(
    trained: RunFolder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    interrupted(monkeypatch, request(trained, photos, out), after=2)
    before = files(out)
    for changes, what in (({"precision": "bf16"}, "precision"), ({}, "inputs")):
        if not changes:
            Image.new("RGB", (64, 64)).save(photos / "5.png")
        with pytest.raises(PanformerError, match=rf"out was started with a different {what} \(see .*; use the same to"):
            run(request(trained, photos, out, resume=True, **changes))
    assert files(out) == before
    run(request(trained, photos, out))
    assert len(run(request(trained, photos, out, resume=True)).content["images"]) == 6
    with pytest.raises(PanformerError, match=r"out has predictions with different settings \(precision\); --resume"):
        run(request(trained, photos, out, resume=True, precision="bf16"))


@pytest.mark.slow
def test_failures_are_listed_and_retried(trained: RunFolder, photos: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", (photos / "2.png").read_bytes()
    (photos / "2.png").write_bytes(b"no image")
    assert len(run(request(trained, photos, out)).failures) == 1
    manifest = json.loads((out / "predict.json").read_text())
    assert (manifest["images"], manifest["settings"]["precision"]) == (5, "fp32")
    (failure,) = manifest["failures"]
    assert {key: failure[key] for key in ("input", "file_name", "id")} == {
        "input": str(photos / "2.png"),
        "file_name": "2.png",
        "id": 2,
    }
    assert "cannot be decoded" in failure["problem"]
    (out / "overlays" / "2.jpg").write_text("mine")
    with pytest.raises(PanformerError, match=r"overlays/2\.jpg is not a result of panformer and would be replaced"):
        run(request(trained, photos, out, resume=True))
    (out / "overlays" / "2.jpg").unlink()
    (photos / "2.png").write_bytes(whole)
    result = run(request(trained, photos, out, resume=True), reporter := _Totals())
    assert (reporter.totals, result.failures) == ([1], [])
    assert [image["id"] for image in result.content["images"]] == [0, 1, 2, 3, 4]
    assert json.loads((out / "predict.json").read_text())["failures"] == []
    assert not (out / ".parts").exists()


def test_a_folder_is_written_by_one_process(trained: RunFolder, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (
        claimed(out, "written", "a second prediction", SilentReporter()),
        pytest.raises(
            PanformerError, match=r"out is being written by process \d+ .*; wait for it to finish, stop it, or"
        ),
    ):
        run(request(trained, photos, out))
    assert list(out.iterdir()) == []


def test_a_manifest_of_another_program_is_kept(trained: RunFolder, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predict.json").write_text("{}")
    with pytest.raises(PanformerError, match=r"predict\.json is not a result of panformer and would be replaced"):
        run(request(trained, photos, tmp_path / "out"))


@pytest.mark.slow
def test_any_number_of_processes_resumes(
    trained: RunFolder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process begins, two continue with a corrupt image, and one ends; rank 1 does not have its images alone."""
    out, whole = tmp_path / "out", (photos / "3.png").read_bytes()
    run(request(trained, photos, tmp_path / "whole"))
    interrupted(monkeypatch, request(trained, photos, out), after=1)
    (photos / "3.png").write_bytes(b"no image")
    ranks = in_processes(2, run_in, request(trained, photos, out, resume=True))
    assert [len(result.failures) for result in ranks] == [1, 1]
    (photos / "3.png").write_bytes(whole)
    assert run(request(trained, photos, out, resume=True)).failures == []
    assert files(out) == files(tmp_path / "whole")
