"""How long a model takes from files to results, stage by stage, and how far that is from what the machine can do."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.images import read_image
from panformer_cli.data.scenes.generator import SceneOptions, generate_scene
from panformer_cli.data.scenes.options import LARGEST_SIDE
from panformer_cli.data.transforms import LEAST_SIDE, resized_size
from panformer_cli.engine.benchmarking.meters import device_name, matrix_shape
from panformer_cli.engine.benchmarking.passes import (
    WARM_UP,
    Figures,
    Passes,
    Pipeline,
)
from panformer_cli.engine.benchmarking.random_model import random_model
from panformer_cli.engine.checkpoints.checkpoint import load_model, read_checkpoint
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.environment import environment
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.precision import Precision, resolve_precision
from panformer_cli.engine.runs import find_checkpoint
from panformer_cli.errors import PanformerError
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.layers.sampling import SamplingName, check_sampling
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import built_in_recipes, load_recipe
from panformer_cli.reporting import Reporter
from panformer_cli.visualization.drawing import save_image


@dataclass(frozen=True)
class BenchmarkRequest:
    """What to measure.

    model: a recipe, by name or YAML file, which gets random weights, or else a checkpoint: a file or a run's folder.
    size: height and width of the network's input, pixels. batch: images in one forward pass, 1 or more.
    precision: of the network. device: `auto`, `cpu`, `cuda` or `cuda:1`.
    repeat: measured passes of each kind, 1 or more.
    sampling: who computes the inner step of deformable attention.
    image: a picture to use, fitted into `size` as prediction does; None for generated ones of just that size.
    """

    model: str
    size: tuple[int, int] = (800, 1333)
    batch: int = 1
    precision: Precision = "fp32"
    device: str = "auto"
    repeat: int = 5
    sampling: SamplingName = "auto"
    image: Path | None = None


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    weights: `random`, or the checkpoint's path. parameters: how many numbers they are.
    input_size, picture_size: height and width, pixels.
    segments: found in an image, on average.
    stages: by name, in the order they run, from passes in which the clock is read at the edge of every stage.
    network: the whole forward pass, and total: from files to results; from passes in which the clock is read only at
        the ends of both.
    peak_memory_mib: the most during those passes; None where the system does not tell. peak_memory_kind: what it is.
    matrix_gflops: 10^9 operations a second of a product of matrices of `matrix_size` (rows, inputs, outputs), at the
        same precision, measured between the passes.
    environment: device, threads, versions.
    """

    request: BenchmarkRequest
    weights: str
    parameters: int
    input_size: tuple[int, int]
    picture_size: tuple[int, int]
    segments: float
    stages: dict[str, Figures]
    network: Figures
    total: Figures
    peak_memory_mib: float | None
    peak_memory_kind: str
    matrix_gflops: float
    matrix_size: tuple[int, int, int]
    environment: dict[str, Any]

    @property
    def ms_per_image(self) -> float:
        return self.total.ms.median / self.request.batch

    @property
    def images_per_second(self) -> float:
        return 1000 / self.ms_per_image

    def to_json(self) -> dict[str, Any]:
        """All fields, with those of the request among them, and what follows from them."""
        content = asdict(self)
        request = content.pop("request")
        request["image"] = str(self.request.image) if self.request.image else None
        request["device"] = self.environment["device"]
        rates = {"ms_per_image": self.ms_per_image, "images_per_second": self.images_per_second}
        return {**request, "warm_up": WARM_UP, **content, **rates}


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from text such as `800x1333`.

    >>> parse_size("800x1333")
    (800, 1333)

    Raises:
        PanformerError: it is of another form, or a side is too short or too long.
    """
    found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
    if not found:
        raise PanformerError(f"--size is {text!r}: expected HEIGHTxWIDTH in pixels, such as 800x1333")
    height, width = int(found[1]), int(found[2])
    if min(height, width) < LEAST_SIDE or max(height, width) > LARGEST_SIDE:
        raise PanformerError(f"--size is {text}: expected sides of {LEAST_SIDE} to {LARGEST_SIDE} pixels")
    return height, width


def benchmark(request: BenchmarkRequest, reporter: Reporter) -> Benchmark:
    """Measure a model; files go to a temporary folder.

    Raises:
        PanformerError: model, device, precision, sampling or image cannot be used, or the memory of the GPU runs out.
    """
    device = _device(request)
    check_sampling(request.sampling, device.type)
    if request.image:
        read_image(request.image)  # what is wrong with it is told before anything takes time
    subject = _subject(request, reporter)
    try:
        with TemporaryDirectory(prefix="panformer-benchmark-") as folder:
            return _measure(request, subject, device, Path(folder), reporter)
    except torch.OutOfMemoryError as error:
        height, width = request.size
        raise PanformerError(
            f"the memory of the GPU ran out at --size {height}x{width} and --batch {request.batch}; take less of either"
        ) from error


@dataclass(frozen=True)
class _Subject:
    """The model to be measured, on the CPU."""

    model: PanopticModel
    recipe: Recipe
    weights: str


def _subject(request: BenchmarkRequest, reporter: Reporter) -> _Subject:
    path = Path(request.model)
    is_name = request.model in built_in_recipes() or not (path.suffix or path.exists())
    if is_name or path.suffix in (".yaml", ".yml"):
        recipe = load_recipe(request.model)
        return _Subject(random_model(recipe, COCO, request.sampling), recipe, "random")
    checkpoint = read_checkpoint(find_checkpoint(path, reporter))
    return _Subject(load_model(checkpoint, request.sampling), checkpoint.recipe, str(checkpoint.path))


def _device(request: BenchmarkRequest) -> torch.device:
    process = Process.single(request.device)
    if process.device.type not in ("cpu", "cuda"):
        raise PanformerError(f"--device is {request.device!r}, which cannot be timed; expected auto, cpu or cuda")
    resolve_precision(request.precision, process)
    return process.device


def _measure(
    request: BenchmarkRequest, subject: _Subject, device: torch.device, folder: Path, reporter: Reporter
) -> Benchmark:
    data = replace(subject.recipe.data, short_side=min(request.size), long_side=max(request.size))
    parameters = sum(parameter.numel() for parameter in subject.model.parameters())
    subject.model.optimize_for_inference()
    predictor = Predictor(subject.model, replace(subject.recipe, data=data), device, request.precision)
    files = _pictures(request, folder)
    height, width = read_image(files[0]).shape[:2]
    passes = Passes(Pipeline(predictor, files, folder), request.repeat, reporter)
    stages = {name: passes.figures([row[name] for row in passes.staged], name) for name in passes.staged[0]}
    peaks = [row.memory for row in passes.whole if row.memory is not None]
    return Benchmark(
        request=request,
        weights=subject.weights,
        parameters=parameters,
        input_size=resized_size(height, width, data.short_side, data.long_side),
        picture_size=(height, width),
        segments=passes.whole[-1].segments / request.batch,
        stages=stages,
        network=passes.figures([row.network for row in passes.whole], "network"),
        total=passes.figures([row.total for row in passes.whole], "total"),
        peak_memory_mib=max(peaks, default=None),
        peak_memory_kind=passes.memory.kind,
        matrix_gflops=passes.matrix_rate / 1e9,
        matrix_size=matrix_shape(device),
        environment={"device": str(device), "device_name": device_name(device), **environment()},
    )


def _pictures(request: BenchmarkRequest, folder: Path) -> list[Path]:
    """Files for one batch: the given image again and again, or generated scenes, written as JPEG."""
    if request.image:
        return [request.image] * request.batch
    options = SceneOptions(height=request.size[0], width=request.size[1])
    files = [folder / f"scene_{index}.jpg" for index in range(request.batch)]
    for index, file in enumerate(files):
        save_image(file, generate_scene(options, "val", index)[0])
    return files
