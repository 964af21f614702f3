"""Predictions on the user's images: finding images, written files, and corrupt images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.inputs.find import find_images
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.predict import PredictRequest, PredictResult, predict
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import CheckpointError, DataError, PanformerError
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.models.panoptic_segformer.output import InferenceOutput
from panformer_cli.reporting import Progress, SilentReporter
from panformer_cli.visualization.colors import Palette, with_colors
from panformer_cli.visualization.drawing import DrawOptions, draw_panoptic
from tests.engine.small import ALONE, StopAfter


def picture(path: Path, size: tuple[int, int] = (48, 40), mode: str = "RGB", **options: Any) -> Path:
    """Write an image of noise of `size` (width, height), and return its path."""
    rng = np.random.default_rng(sum(map(ord, path.name)))
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), np.uint8), "RGBA")
    noise.convert(mode).save(path, **options)
    return path


def rotated(path: Path, size: tuple[int, int]) -> Path:
    """Write an image of `size` whose EXIF data says that it is rotated by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(path, size, exif=exif)


def run(trained: RunFolder, out: Path, *inputs: Path | str, batch_size: int = 1) -> PredictResult:
    request = PredictRequest([str(given) for given in inputs], trained.best, out, batch_size=batch_size)
    return predict(request, ALONE, SilentReporter())


def decoded(path: Path) -> np.ndarray[Any, Any]:
    """Return the ids of a panoptic PNG, by its definition."""
    image = Image.open(path)
    assert image.mode == "RGB"
    red, green, blue = np.moveaxis(np.asarray(image).astype(int), -1, 0)
    return np.asarray(red + 256 * green + 256 * 256 * blue)


def names(inputs: Sequence[str | Path]) -> list[str]:
    return [image.name for image in find_images([str(given) for given in inputs], Path("nowhere")).images]


@pytest.fixture(scope="module")
def result(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the results folder and the JSON for images of several formats and sizes."""
    photos, out = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("out")
    picture(photos / "plain.png", (70, 50))
    picture(photos / "gray.png", (33, 65), "L")
    picture(photos / "clear.png", (64, 64), "RGBA")
    picture(photos / "deep" / "down" / "PHOTO.JPG", (90, 40))
    rotated(photos / "turned.jpg", (50, 30))
    return out, run(trained, out, photos).content


@pytest.mark.slow
def test_every_image_has_its_own_size(result: tuple[Path, dict[str, Any]]) -> None:
    out, content = result
    sizes = {image["file_name"]: (image["width"], image["height"]) for image in content["images"]}
    assert sizes == {
        "clear.png": (64, 64),
        "deep/down/PHOTO.JPG": (90, 40),
        "gray.png": (33, 65),
        "plain.png": (70, 50),
        "turned.jpg": (30, 50),
    }
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        assert annotation["image_id"] == image["id"]
        for folder, suffix in (("overlays", ".jpg"), ("panoptic", ".png")):
            path = (out / folder / image["file_name"]).with_suffix(suffix)
            assert Image.open(path).size == (image["width"], image["height"])
    assert [image["id"] for image in content["images"]] == [1, 2, 3, 4, 5]


def test_the_png_matches_the_json(result: tuple[Path, dict[str, Any]]) -> None:
    out, content = result
    found = 0
    for annotation in content["annotations"]:
        ids = decoded(out / "panoptic" / annotation["file_name"])
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(np.unique(ids)) - {0} == set(segments)
        for number, segment in segments.items():
            rows, columns = np.nonzero(ids == number)
            x, y, width, height = segment["bbox"]
            assert segment["area"] == len(rows)
            assert (x, x + width, y, y + height) == (
                columns.min(), columns.max() + 1, rows.min(), rows.max() + 1,
            )  # fmt: skip
            assert 0 <= segment["score"] <= 1
        found += len(segments)
    assert found, "without any segment nothing was tested"


def test_segments_name_their_category(result: tuple[Path, dict[str, Any]]) -> None:
    out, content = result
    table = {row["id"]: (row["name"], row["isthing"]) for row in content["categories"]}
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            assert (segment["category_name"], segment["isthing"]) == table[segment["category_id"]]
    assert json.loads((out / "panoptic.json").read_text()) == content


def test_no_other_files_are_in_the_folder(result: tuple[Path, dict[str, Any]]) -> None:
    assert {path.name for path in result[0].iterdir()} == {"overlays", "panoptic", "panoptic.json", "predict.json"}


@pytest.mark.slow
def test_metrics_of_an_earlier_evaluation_are_deleted(trained: RunFolder, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(image)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("analysis.json", "records.jsonl", "notes.txt"):
        (out / name).write_text("{}")
    (out / "metrics.json").write_text('{"images": 3, "panoptic": {"all": {"pq": 50.0}}}')
    run(trained, out, image)
    assert {path.name for path in out.iterdir()} == {
        "overlays",
        "panoptic",
        "panoptic.json",
        "predict.json",
        "notes.txt",
    }


@pytest.mark.slow
@pytest.mark.parametrize("content", ['{"accuracy": 0.9}', "[1]", "not JSON"])
def test_a_metrics_json_of_another_program_is_kept(trained: RunFolder, tmp_path: Path, content: str) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(image)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("metrics.json", "analysis.json"):
        (out / name).write_text(content)
    run(trained, out, image)
    assert [(out / name).read_text() for name in ("metrics.json", "analysis.json")] == [content, content]


@pytest.mark.slow
def test_a_corrupt_image_is_reported_and_the_others_are_predicted(trained: RunFolder, tmp_path: Path) -> None:
    photos, reporter = tmp_path / "photos", StopAfter()
    picture(photos / "a.png")
    whole = picture(photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(whole[: len(whole) // 2])
    (photos / "c.jpg").write_bytes(b"")
    (photos / "d.jpg").write_text("not an image")
    picture(photos / "e.png")
    result = predict(PredictRequest([str(photos)], trained.best, tmp_path / "out"), ALONE, reporter)
    assert [image["file_name"] for image in result.content["images"]] == ["a.png", "e.png"]
    assert [image["id"] for image in result.content["images"]] == [1, 5]
    assert len(result.failures) == 3
    for failure, name in zip(result.failures, ("b.png", "c.jpg", "d.jpg"), strict=True):
        assert str(photos / name) in failure
        assert "\n" not in failure
    assert reporter.warnings == result.failures
    assert sorted(path.name for path in (tmp_path / "out" / "panoptic").iterdir()) == ["a.png", "e.png"]


class _Counting(StopAfter):
    """Records the calls of the progress bar `Predicting`."""

    def __init__(self) -> None:
        super().__init__()
        self.totals: list[int] = []
        self.done: list[str] = []

    def progress(self, what: str, total: int, done: int = 0) -> AbstractContextManager[Progress]:
        del what, done
        self.totals.append(total)
        return nullcontext(self)

    def advance(self, steps: int = 1, status: str = "") -> None:
        self.done += steps * [status]


def scores_apart(content: dict[str, Any]) -> tuple[dict[str, Any], list[float]]:
    """Return a JSON without its scores, and the scores."""
    rest: dict[str, Any] = json.loads(json.dumps(content))
    rows = [segment for annotation in rest["annotations"] for segment in annotation["segments_info"]]
    return rest, [segment.pop("score") for segment in rows]


def batches_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that collects the number of images in every batch."""
    seen: list[int] = []
    infer = PanopticSegFormer.infer

    def counted(model: PanopticSegFormer, images: Tensor, padding_mask: Tensor) -> InferenceOutput:
        seen.append(len(images))
        return infer(model, images, padding_mask)

    monkeypatch.setattr(PanopticSegFormer, "infer", counted)
    return seen


@pytest.mark.slow
def test_batches_give_the_same_files(trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixed sizes with corrupt images in between; the model's inputs have at most 64 pixels per side."""
    photos, results, seen = tmp_path / "photos", {}, batches_seen(monkeypatch)
    sizes = [(70, 50), (64, 64), (40, 40), (50, 70), (140, 100), (64, 64), (30, 30), (90, 40), (50, 70), (64, 64)]
    for number, size in enumerate(sizes):
        picture(photos / f"{number}.png", size)
    for name in ("0_damaged.png", "4_damaged.png", "9_damaged.png"):
        (photos / name).write_text("no image")
    for batch_size, batches in ((1, [1] * 10), (3, [1, 2, 2, 2, 3]), (8, [1, 2, 2, 5])):
        out, reporter = tmp_path / str(batch_size), _Counting()
        request = PredictRequest([str(photos)], trained.best, out, batch_size=batch_size)
        results[batch_size] = predict(request, ALONE, reporter)
        assert sorted(seen) == batches
        seen.clear()
        assert reporter.totals == [13]
        assert sorted(reporter.done) == sorted(path.name for path in photos.iterdir())
        assert json.loads((out / "panoptic.json").read_text()) == results[batch_size].content
    rest, scores = scores_apart(results[1].content)
    assert [image["file_name"] for image in rest["images"]] == [f"{number}.png" for number in range(10)]
    assert scores, "without any segment nothing was tested"
    for batch_size in (3, 8):
        other_rest, other_scores = scores_apart(results[batch_size].content)
        assert other_rest == rest
        assert other_scores == pytest.approx(scores, abs=1e-5)
        assert results[batch_size].failures == results[1].failures
        for annotation in rest["annotations"]:
            png = Path("panoptic", annotation["file_name"])
            assert np.array_equal(decoded(tmp_path / str(batch_size) / png), decoded(tmp_path / "1" / png))
        overlays = {path.name for path in (tmp_path / str(batch_size) / "overlays").iterdir()}
        assert overlays == {f"{number}.jpg" for number in range(10)}


@pytest.mark.slow
def test_overlays_have_the_chosen_colors(trained: RunFolder, tmp_path: Path) -> None:
    photo, overlays = tmp_path / "a.png", {}
    Image.new("RGB", (90, 64), (120, 120, 120)).save(photo)
    for palette in get_args(Palette):
        output = OutputOptions(palette=palette)
        request = PredictRequest([str(photo)], trained.best, tmp_path / palette, output=output)
        (annotation,) = predict(request, ALONE, SilentReporter()).content["annotations"]
        overlays[palette] = np.asarray(Image.open(tmp_path / palette / "overlays" / "a.jpg")).astype(int)
    ids = decoded(tmp_path / "safe" / "panoptic" / "a.png").astype(np.int32)
    keys = ("id", "category_id", "area", "bbox", "score")
    segments = tuple(Segment(**{key: row[key] for key in keys}) for row in annotation["segments_info"])
    (table,) = with_colors(read_checkpoint(trained.best).categories, palette="safe")
    image = np.asarray(Image.open(photo))
    expected = draw_panoptic(image, PanopticMap(ids, segments), table, DrawOptions(scores=True))
    assert segments and np.abs(overlays["safe"] - expected).mean() < 6
    assert np.abs(overlays["standard"] - expected).mean() > 10


@pytest.mark.slow
def test_a_batch_of_only_corrupt_images(trained: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    result = run(trained, tmp_path / "out", tmp_path / "a.png", batch_size=8)
    assert (result.content["images"], len(result.failures)) == ([], 1)


def test_folders_files_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/b.png", "x/a.JPEG", "x/in/c.webp", "x/notes.txt", "y/d.png"):
        picture(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    assert names(["x"]) == ["a.JPEG", "b.png", "in/c.webp"]
    assert names(["y/d.png", "x"]) == ["d.png", "a.JPEG", "b.png", "in/c.webp"]
    assert names(["x/*.png", "*/*.png"]) == ["b.png", "d.png"]
    assert names(["**/*.webp"]) == ["c.webp"]
    assert names(["../" + tmp_path.name + "/x/b.png"]) == ["b.png"]


def test_a_file_name_can_look_like_a_pattern(tmp_path: Path) -> None:
    picture(tmp_path / "a[1].png")
    assert names([tmp_path / "a[1].png"]) == ["a[1].png"]


def test_equal_names_get_separate_results(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "A.bmp", "other/a.png", "a_2.png"):
        picture(tmp_path / name)
    inputs = [tmp_path / name for name in ("a.png", "a.jpg", "A.bmp", "other/a.png", "a_2.png")]
    found = names(inputs)
    stems = {str(Path(name).with_suffix("")).lower() for name in found}
    assert len(stems) == 5, "also where capitals do not count"
    assert found[0] == "a.png"


def test_an_image_given_twice_is_predicted_once(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert names([tmp_path / "a.png", tmp_path]) == ["a.png"]


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        (["000000000139.png", "7.png"], [7, 139]),
        (["007.png", "7.png"], [1, 2]),
        (["12.png", "b.png"], [1, 2]),
    ],
)
def test_numbers_in_names_are_ids_where_all_differ(files: list[str], ids: list[int], tmp_path: Path) -> None:
    for name in files:
        picture(tmp_path / name)
    assert sorted(image.id for image in find_images([str(tmp_path)], tmp_path / "out").images) == ids


@pytest.mark.parametrize("given", ["none.png", "*.nothing", "empty"])
def test_inputs_without_an_image_are_named(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(DataError, match=r"no such image, video, folder or pattern|the folder empty has no images"):
        find_images([given], tmp_path / "out")


def test_earlier_results_are_not_inputs(tmp_path: Path) -> None:
    for name in ("a.png", "out/overlays/a.jpg", "out/panoptic/a.png"):
        picture(tmp_path / name)
    for given in (str(tmp_path), str(tmp_path / "**" / "*.*g")):
        assert [image.name for image in find_images([given], tmp_path / "out").images] == ["a.png"]


def test_results_stay_in_the_out_folder(trained: RunFolder, tmp_path: Path) -> None:
    """The results of an image have a name in the results folder, whatever its path."""
    picture(tmp_path / "here" / "a.png")
    out = tmp_path / "there" / "out"
    before = set(tmp_path.rglob("*"))
    result = run(trained, out, tmp_path / "here" / ".." / "here" / "a.png")
    assert [image["file_name"] for image in result.content["images"]] == ["a.png"]
    new = set(tmp_path.rglob("*")) - before - {out.parent}
    assert all(path.is_relative_to(out) for path in new)
    assert (out / "panoptic" / "a.png").is_file()


@pytest.mark.parametrize(
    ("checkpoint", "out", "error", "message"),
    [
        (lambda run: run.path / "none.safetensors", lambda run: run.path / "x", CheckpointError, "no such file"),
        (lambda run: run.best, lambda run: run.path, PanformerError, "has a training run; choose another folder"),
        (lambda run: run.best, lambda run: run.recipe, PanformerError, r"recipe\.yaml is a file; expected a folder"),
    ],
)
def test_invalid_inputs_are_reported_before_predicting(
    checkpoint: Callable[[RunFolder], Path],
    out: Callable[[RunFolder], Path],
    error: type[PanformerError],
    message: str,
    trained: RunFolder,
    tmp_path: Path,
) -> None:
    image = picture(tmp_path / "a.png")
    with pytest.raises(error, match=message):
        predict(PredictRequest([str(image)], checkpoint(trained), out(trained)), ALONE, SilentReporter())


def test_names_with_separators_of_other_systems(tmp_path: Path) -> None:
    picture(tmp_path / "a:b.png")
    picture(tmp_path / "c\\d.png")
    found = find_images([str(tmp_path)], tmp_path / "out").images
    assert [(image.source.path.name, image.name) for image in found] == [
        ("a:b.png", "a_b.png"),
        ("c\\d.png", "c_d.png"),
    ]
