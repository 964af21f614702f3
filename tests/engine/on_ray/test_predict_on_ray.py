"""Predictions on Ray have the results of the plain command, whatever is killed, corrupt or repeated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panformer_cli.engine.inputs.find import find_images
from panformer_cli.engine.on_ray.actor import BlockActor, Job
from panformer_cli.engine.on_ray.blocks import FOLDER, blocks_of
from panformer_cli.engine.on_ray.options import USUAL, RayOptions
from panformer_cli.engine.on_ray.predict import predict_on_ray
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.predict import PredictRequest, predict
from panformer_cli.errors import PanformerError
from panformer_cli.reporting import SilentReporter
from tests.engine.small import ALONE, small_checkpoint
from tests.engine.test_predict import picture

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install 'panformer[ray]'")
pytestmark = pytest.mark.slow

IMAGES = 20
MODES = ("RGB", "L", "RGBA")
BAD = "07.png"


@pytest.fixture(scope="module")
def checkpoint(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors", scenes)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of images of three modes and five sizes, one of which is corrupt."""
    folder = tmp_path / "photos"
    for number in range(IMAGES):
        size = (60 + 16 * (number % 5), 50 + 8 * (number % 5))
        picture(folder / f"{number:02d}.png", size, MODES[number % 3])
    (folder / BAD).write_bytes(b"no image")
    return folder


def request_of(checkpoint: Path, photos: Path, out: Path, **options: Any) -> PredictRequest:
    return PredictRequest([str(photos)], checkpoint, out, output=OutputOptions(USUAL), **options)


def plain_results(checkpoint: Path, photos: Path, out: Path) -> dict[str, tuple[bytes, bytes]]:
    """Return the panoptic PNG and the segments JSON that the plain command writes for each image that it can read."""
    predict(request_of(checkpoint, photos, out), ALONE, SilentReporter())
    return {
        f"{png.stem}.png": (png.read_bytes(), (out / "segments" / f"{png.stem}.json").read_bytes())
        for png in (out / "panoptic").iterdir()
    }


def rows_in(out: Path) -> list[dict[str, Any]]:
    """Return the rows of all files, in the order of the files."""
    files = sorted((out / FOLDER).iterdir())
    assert all(path.suffix == ".parquet" for path in files)  # no temporary file remains
    return [row for path in files for row in parquet.read_table(path).to_pylist()]


def check_equal(rows: list[dict[str, Any]], expected: dict[str, tuple[bytes, bytes]]) -> None:
    """Check that every image has one row, of its own results, and that only the corrupt one has an error."""
    assert [row["image"] for row in rows] == [f"{number:02d}.png" for number in range(IMAGES)]
    assert [row["image"] for row in rows if row["error"]] == [BAD]
    assert {row["device"] for row in rows} == {"cpu"}
    found = {row["image"]: (row["panoptic"], row["segments"].encode()) for row in rows if not row["error"]}
    assert found == expected
    for name, (_, segments) in found.items():
        assert json.loads(segments)["image"]["file_name"] == name


def test_an_actor_writes_the_results_of_the_plain_command(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    """Blocks arrive in reverse order and several in a batch, which Ray is free to do."""
    files = tmp_path / "out" / FOLDER
    request = request_of(checkpoint, photos, tmp_path / "out")
    blocks = list(blocks_of(find_images([str(photos)], tmp_path / "out").images, 6))
    rows = [block.to_row() for block in reversed(blocks)]
    batch = {key: np.array([row[key] for row in rows], object) for key in ("name", "images")}
    actor = BlockActor(Job(request, str(Path.cwd()), files, "cpu", 1))
    reports = [json.loads(text) for text in actor(batch)["report"]]
    assert [report["images"] for report in reports] == [2, 6, 6, 6]
    assert [failure["file_name"] for report in reports for failure in report["failures"]] == [BAD]
    assert len({report["actor"] for report in reports}) == 1
    check_equal(rows_in(tmp_path / "out"), plain_results(checkpoint, photos, tmp_path / "plain"))

    types = {str(field.type) for path in files.iterdir() for field in parquet.read_schema(path)}
    assert types == {"string", "large_binary"}

    picture(photos / BAD)
    before = {path: path.stat().st_mtime_ns for path in files.iterdir()}
    again = json.loads(actor({key: values[2:3] for key, values in batch.items()})["report"][0])  # the corrupt image's
    assert again["failures"] == []
    assert [path.name for path, stamp in before.items() if path.stat().st_mtime_ns != stamp] == [blocks[1].name]
    assert not any(row["error"] for row in rows_in(tmp_path / "out"))


def test_an_actor_that_cannot_start_reports_why(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    request = request_of(checkpoint, photos, tmp_path / "out")
    block = next(blocks_of(find_images([str(photos)], tmp_path / "out").images, 6)).to_row()
    batch = {key: np.array([value], object) for key, value in block.items()}
    report = json.loads(BlockActor(Job(request, str(tmp_path / "none"), tmp_path, "cpu", 1))(batch)["report"][0])
    assert "cannot use the folder" in report["fatal"]


def test_results_of_others_are_kept(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    """They are reported before a cluster is started."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'panformer[ray]'")
    out = tmp_path / "out"
    request = request_of(checkpoint, photos, out)
    other = out / FOLDER / "part-00000000-0123456789ab.parquet"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"other")
    with pytest.raises(PanformerError, match="which describes them, is missing"):
        predict_on_ray(request, RayOptions(), SilentReporter())
    assert other.read_bytes() == b"other"
    (out / "panoptic").mkdir()
    (out / "panoptic.json").write_text("{}")
    with pytest.raises(PanformerError, match="has results of a prediction without --engine ray"):
        predict_on_ray(request, RayOptions(), SilentReporter())


@pytest.fixture
def cluster() -> Iterator[None]:
    """A cluster of this machine with two CPUs."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'panformer[ray]'")
    ray.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


KILL_ONE = """
import os, signal, sys, time
from pathlib import Path

root, files, deadline = int(sys.argv[1]), Path(sys.argv[2]), time.monotonic() + 120


def own_actors():
    parents, actors = {}, []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if b"BlockActor" in (folder / "cmdline").read_bytes():
                    actors.append(int(folder.name))
            except OSError:
                continue

    def is_own(process):
        return process == root or (process in parents and is_own(parents[process]))

    return [process for process in actors if process != os.getpid() and is_own(process)]


actors = []
while time.monotonic() < deadline:
    actors = actors if len(actors) == 2 else own_actors()
    if actors and any(files.glob("*.parquet")):
        os.kill(actors[0], signal.SIGKILL)
        print(actors[0])
        break
    time.sleep(0.005)
"""
"""Kills one of the two actors of a process as soon as the first file exists, and prints its process id.

It is a process of its own, because a thread waits for the busy main thread each time it reads a file.
"""


@pytest.mark.usefixtures("cluster")
def test_a_killed_actor_loses_and_repeats_nothing(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = RayOptions(actors=2, cpus=1, block_size=2, device="cpu")
    killer = subprocess.Popen(
        [sys.executable, "-c", KILL_ONE, str(os.getpid()), str(out / FOLDER)], stdout=subprocess.PIPE, text=True
    )
    result = predict_on_ray(request_of(checkpoint, photos, out), options, SilentReporter())
    assert killer.communicate()[0].strip().isdecimal()
    assert (result.images, [failure["file_name"] for failure in result.failures]) == (IMAGES, [BAD])
    assert result.models_loaded in (2, 3)  # two actors, and the one that replaced the killed one
    check_equal(rows_in(out), plain_results(checkpoint, photos, tmp_path / "plain"))
    stored = json.loads((out / "predict.json").read_text())
    assert stored["failures"] == result.failures

    files = sorted((out / FOLDER).iterdir())
    before = {path.name: path.stat().st_mtime_ns for path in files}
    files[0].unlink()
    picture(photos / BAD)
    request = request_of(checkpoint, photos, out, resume=True)
    with pytest.raises(PanformerError, match="different settings"):
        predict_on_ray(request, RayOptions(actors=2, block_size=3), SilentReporter())
    assert predict_on_ray(request, options, SilentReporter()).failures == []
    changed = [path.name for path in files if path.stat().st_mtime_ns != before[path.name]]
    assert changed == [files[0].name, files[3].name]  # the missing one, and the one of the corrupt image
    assert not any(row["error"] for row in rows_in(out))
