"""Calls of a model: the forms of its input, order, laziness, threads, batches and copies in other processes."""

from __future__ import annotations

import gc
import hashlib
import io
import multiprocessing
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from panformer_cli.api.model import Model, load
from panformer_cli.api.result import Result
from panformer_cli.errors import CheckpointError, DataError, PanformerError, RecipeError
from tests.color_family import HEIGHT, WIDTH, noise, street
from tests.engine.small import small_checkpoint, small_scenes
from tests.storage.file_server import FileServer


def same(first: Result, second: Result) -> bool:
    """Return whether two results are the same segmentation of the same image."""
    return (
        np.array_equal(first.segment_ids, second.segment_ids)
        and first.segments == second.segments
        and np.array_equal(first.image, second.image)
    )


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Write an image without loss, in which the order of the channels matters."""
    path = tmp_path / "photo.png"
    Image.fromarray(street()).save(path)
    return path


FORMS: dict[str, Callable[[Path], Any]] = {
    "text": str,
    "Path": Path,
    "bytes": Path.read_bytes,
    "file": lambda path: io.BytesIO(path.read_bytes()),
    "Pillow": Image.open,
    "array": lambda path: street(),
    "flipped twice": lambda path: street()[::-1, ::-1].copy()[::-1, ::-1],
    "tensor": lambda path: torch.from_numpy(street()).permute(2, 0, 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_image_gives_the_same_result(model: Model, photo: Path, form: str) -> None:
    result = model(FORMS[form](photo))
    assert isinstance(result, Result)
    assert same(result, model(photo))
    assert [segment.name for segment in result.segments] == ["red", "sky"]
    assert result.source == (str(photo) if form in ("text", "Path") else None)


def test_bgr_gives_the_same_result_with_its_option_and_another_one_without(model: Model, photo: Path) -> None:
    frame = street()[..., ::-1]
    assert same(model(frame, color="bgr"), model(photo))
    assert not same(model(frame), model(photo))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_segmented_as_it_is_shown(model: Model, tmp_path: Path, orientation: int) -> None:
    path, exif = tmp_path / "photo.png", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(street()).save(path, exif=exif)
    results = model([path, path.read_bytes(), Image.open(path)])
    assert results[0].size == ((WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH))
    assert same(results[0], results[1]) and same(results[0], results[2])


def test_a_list_gives_a_list_and_a_generator_an_iterator(model: Model) -> None:
    images = [noise(number) for number in range(3)]
    expected = [model(image) for image in images]
    for given in (images, tuple(images)):
        results = model(given)
        assert isinstance(results, list)
        assert all(map(same, results, expected))
    streamed = model(image for image in images)
    assert not isinstance(streamed, list)
    assert all(map(same, streamed, expected))
    assert model([]) == []
    assert list(model(iter(()))) == []


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_results_keep_the_order_and_do_not_depend_on_the_batch(model: Model, batch_size: int) -> None:
    """Sizes alternate, so a batch has images that do not share a forward pass."""
    sizes = [(48, 64), (64, 48), (48, 64), (30, 90), (64, 48), (48, 64), (30, 90)]
    images = [noise(number, *size) for number, size in enumerate(sizes)]
    expected = [model(image) for image in images]
    assert [result.size for result in expected] == sizes
    assert all(map(same, model(images, batch_size=batch_size), expected))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_iterator_reads_one_batch_at_a_time(model: Model, batch_size: int) -> None:
    read = 0

    def frames() -> Iterator[np.ndarray[Any, Any]]:
        nonlocal read
        while True:
            read += 1
            yield noise(read)

    results = model(frames(), batch_size=batch_size)
    assert read == 0
    for number in range(1, 8):
        next(results)
        assert read == -(-number // batch_size) * batch_size


def test_a_stream_of_images_keeps_none_of_them(model: Model) -> None:
    """Counted instead of measured: at any time there are the arrays of one result."""
    alive: list[int] = []
    for result in model(noise(0) for _ in range(6)):
        del result
        gc.collect()
        alive.append(sum(isinstance(item, Result) for item in gc.get_objects()))
    assert max(alive) <= 1


def test_an_image_that_cannot_be_read_is_reported_at_its_place(model: Model, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    images: list[Any] = [noise(0), noise(1), tmp_path / "broken.png", noise(2)]
    results = model(iter(images), batch_size=4)
    assert same(next(results), model(noise(0)))
    assert same(next(results), model(noise(1)))
    with pytest.raises(DataError, match="broken.png cannot be decoded"):
        next(results)
    with pytest.raises(DataError, match="image 1 has the dtype float64"):
        model([noise(0), noise(1) / 255.0])
    with pytest.raises(DataError, match="the image has the dtype float64"):
        model(noise(1) / 255.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "an object of type NoneType cannot be segmented"),
        (3, "an object of type int cannot be segmented"),
        ({"image": noise(0)}, "an object of type dict cannot be segmented"),
        ([[1, 2]], "image 0 is a list; expected a path"),
        (np.stack([noise(0)] * 2), r"shape \(2, 48, 64, 3\).*list\(batch\)"),
        ("missing.jpg", "missing.jpg"),
        (".", r"\. can have several images; iterate over them with `model.stream\('\.'\)`"),
        ("photos.zip", r"photos.zip can have several images; iterate over them with `model.stream"),
        ("photos/*.jpg", r"photos/\*.jpg can have several images; iterate over them with `model.stream"),
        ("clip.mp4", r"clip.mp4 is a video; iterate over its frames with `model.track\('clip.mp4'\)`"),
    ],
)
def test_what_is_no_image_is_named(model: Model, given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        model(given)


def test_invalid_arguments_of_a_call_are_reported_before_an_image_is_read(model: Model) -> None:
    with pytest.raises(PanformerError, match="batch_size is 0; expected 1 or more"):
        model(iter([]), batch_size=0)
    with pytest.raises(DataError, match="color is 'RGB'; expected 'rgb'"):
        model(iter([]), color="RGB")  # type: ignore[call-overload]


def test_a_folder_and_a_pattern_are_streamed(model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b/2.png", "b/1.png", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(street()).save(tmp_path / name)
    expected = [str(tmp_path / name) for name in ("b/1.png", "b/2.png")]
    for given in (tmp_path / "b", str(tmp_path / "b" / "*.png"), [tmp_path / "b" / "1.png", tmp_path / "b" / "2.png"]):
        assert [result.source for result in model.stream(given, batch_size=2)] == expected
    (tmp_path / "b" / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="1.png cannot be decoded"):
        list(model.stream(tmp_path / "b"))
    caplog.clear()
    assert [result.source for result in model.stream(tmp_path / "b", skip_bad_images=True)] == expected[1:]
    assert [(record.levelname, "1.png cannot be decoded" in record.message) for record in caplog.records] == [
        ("WARNING", True)
    ]
    for given in (tmp_path / "nothing", str(tmp_path / "*.gif")):
        with pytest.raises(DataError, match="no such image, video, folder or pattern"):
            model.stream(given)


def test_a_stream_of_arrays_is_refused(model: Model) -> None:
    with pytest.raises(PanformerError, match="call the model with images"):
        model.stream([street()])  # type: ignore[list-item]


def test_the_image_at_an_address_is_segmented(model: Model, photo: Path, server: FileServer) -> None:
    server.content = photo.read_bytes()
    url = f"{server.url}/street.png?size=large"
    result = model(url)
    assert same(result, model(photo))
    assert result.source == url
    assert [same(streamed, result) for streamed in model.stream([url])] == [True]
    with pytest.raises(DataError, match="ftp"):
        model("ftp://127.0.0.1/street.png")


@pytest.mark.slow
def test_threads_get_the_results_of_their_own_images(model: Model) -> None:
    images = [noise(1), noise(2, 64, 48)]
    expected = [model(image) for image in images]
    barrier = threading.Barrier(8)

    def work(number: int) -> bool:
        barrier.wait()
        return all(same(model(images[number % 2]), expected[number % 2]) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_inputs_are_not_changed_and_results_are_independent(model: Model) -> None:
    image = noise(3)
    before = hashlib.sha256(image.tobytes()).digest()
    first = model(image)
    kept = first.segment_ids.copy()
    first.plot()
    assert hashlib.sha256(image.tobytes()).digest() == before
    first.segment_ids[:] = 0
    first.image[:] = 0
    assert hashlib.sha256(image.tobytes()).digest() == before
    second = model(image)
    assert np.array_equal(second.segment_ids, kept)
    assert np.array_equal(second.image, image)
    image[:] = 0
    assert second.image.any()


def test_a_model_and_its_results_can_be_pickled(run: Path) -> None:
    model = load(run, device="cpu", inference={"min_score": 0.3}, min_area=100)
    copy: Model = pickle.loads(pickle.dumps(model))
    assert same(copy(noise(4)), model(noise(4)))
    assert (copy.checkpoint, copy.device, copy.precision) == (model.checkpoint, "cpu", "fp32")
    result = model(noise(4))
    assert same(pickle.loads(pickle.dumps(result)), result)


def ids_of(model: Model, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return model(image).segment_ids


@pytest.mark.slow
def test_a_real_model_is_the_same_in_threads_batches_and_other_processes(tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path / "model.safetensors", small_scenes(tmp_path / "scenes"))
    model = load(path, device="cpu")
    images = [noise(1), noise(2, 64, 48), noise(3), noise(4, 90, 30)]
    expected = [model(image) for image in images]
    assert any(map(len, expected))
    for batch_size in (2, 4):
        for found, alone in zip(model(images, batch_size=batch_size), expected, strict=True):
            assert np.array_equal(found.segment_ids, alone.segment_ids)
            scores = [[segment.score for segment in result.segments] for result in (found, alone)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    tiled = load(path, device="cpu", tile=64, tile_overlap=16, tta=["flip"], mask_layers=1)
    with ThreadPoolExecutor(4) as threads:
        alone = tiled(noise(5, 100, 90))
        assert all(same(found, alone) for found in threads.map(tiled, [noise(5, 100, 90)] * 4))
        assert all(threads.map(lambda number: same(model(images[number % 4]), expected[number % 4]), range(16)))
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # each process imports PyTorch
        for ids, alone in zip(pool.starmap(ids_of, [(model, image) for image in images]), expected, strict=True):
            assert np.array_equal(ids, alone.segment_ids)


def test_a_path_a_run_folder_and_the_newest_run_are_loaded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent.parent)
    for given in (run, str(run), run / "model.safetensors", "runs/colors", None):
        model = load(given, device="cpu")
        assert model.checkpoint == run / "model.safetensors"
        assert repr(model).endswith("model.safetensors, 3 categories, cpu, fp32)")


def test_settings_of_inference_can_be_set(run: Path) -> None:
    model, strict = load(run, device="cpu"), load(run, device="cpu", inference={"min_score": 2.0})
    assert len(model(street())) == 2
    assert len(strict(street())) == 0
    assert not strict(street()).segment_ids.any()
    assert len(load(run, device="cpu", threshold=0.8)(street())) == 1
    small = load(run, device="cpu", max_size=32)
    assert small(street()).size == (HEIGHT, WIDTH)
    assert len(small(street())) == 2


def test_the_colors_of_overlays_can_be_chosen(run: Path) -> None:
    standard, safe = (load(run, device="cpu", colors=name) for name in ("standard", "safe"))
    assert (standard(street()).plot() != safe(street()).plot()).any()
    assert standard.names == safe.names


def test_segments_can_be_selected(run: Path) -> None:
    for arguments in ({"classes": "sky"}, {"classes": ["SKY"]}, {"classes": [5]}, {"min_area": 1000}):
        result = load(run, device="cpu", **arguments)(street())
        assert [segment.name for segment in result.segments] == ["sky"]
        assert (result.segment_ids > 0).sum() == result.segments[0].area


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"checkpoint": "R50"}, CheckpointError, "R50: no such file; did you mean r50"),
        ({"precision": "fp8"}, PanformerError, "precision is 'fp8'; expected auto, fp32, bf16, fp16, fast"),
        ({"precision": "fp16"}, PanformerError, "fp16 needs a GPU"),
        ({"device": "tpu"}, PanformerError, "device is 'tpu', which is not available here"),
        ({"inference": {"min_scor": 1}}, RecipeError, "inference.min_scor.*did you mean"),
        ({"train": {"lr": 1}}, RecipeError, "train.lr cannot be set when a model is loaded"),
        ({"devise": "cpu"}, RecipeError, "devise cannot be set when a model is loaded; expected an argument of `load`"),
        ({"threshold": 1.5}, PanformerError, "threshold is 1.5; expected 0 to 1"),
        ({"checkpoint": object()}, PanformerError, "checkpoint is an object of type object; expected a file"),
        ({"threshold": "0.5"}, PanformerError, "threshold is '0.5'; expected a number"),
        ({"tta": True}, PanformerError, "tta is True; expected views such as 'flip'"),
        ({"classes": []}, PanformerError, "classes is empty, so no segment would be kept"),
        ({"max_size": 8}, PanformerError, "max_size is 8; expected 32 or more"),
        ({"min_area": -1}, PanformerError, "min_area is -1; expected 0 or more"),
        ({"mask_layers": 0}, PanformerError, "mask_layers is 0; expected 1 or more"),
        ({"tile": 8}, PanformerError, "^tile is 8: expected 64 pixels or more"),
        ({"tile_overlap": 8}, PanformerError, "^tile_overlap needs tile N, the side of a tile"),
        ({"classes": "rde"}, PanformerError, "no category 'rde' .did you mean red"),
        ({"colors": "blue"}, PanformerError, "colors is 'blue'; expected standard or safe"),
        ({"tile_overlap": 8}, PanformerError, "tile_overlap needs tile"),
        ({"tta": "flop"}, PanformerError, "tta is 'flop'"),
        ({"tile": 512}, PanformerError, "the model family color does not predict scored masks"),
        ({"inference": {"min_score": object()}}, RecipeError, "min_score is a object: expected a number"),
    ],
)
def test_invalid_arguments_of_load_are_reported(
    run: Path, arguments: dict[str, Any], error: type[PanformerError], message: str
) -> None:
    arguments = {"checkpoint": run, "device": "cpu", **arguments}
    with pytest.raises(error, match=message):
        load(**arguments)


class Payload:
    """An object whose pickle creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "extra": Payload(tmp_path / "ran")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="a.pth"):
        load(tmp_path / "a.pth", device="cpu")
    assert not (tmp_path / "ran").exists()
