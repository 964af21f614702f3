"""Measure how long a model takes from image files to result files, and compare it with the machine's peak rate."""

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
from panformer_cli.data.transforms import LEAST_SIDE
from panformer_cli.engine.benchmarking.meters import device_name, matrix_shape
from panformer_cli.engine.benchmarking.passes import (
    WARM_UP,
    Figures,
    Passes,
    Pipeline,
)
from panformer_cli.engine.benchmarking.random_model import random_model
from panformer_cli.engine.checkpoints.checkpoint import load_model, read_checkpoint
from panformer_cli.engine.checkpoints.model_folders import is_reference
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

    Attributes:
        model: A recipe (name or YAML file), which gets random weights, or a checkpoint (file or folder of a run).
        size: Height and width of the network's input, pixels.
        batch: Images per forward pass, 1 or more.
        precision: Precision of the network.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        repeat: Measured passes of each kind, 1 or more.
        sampling: Implementation of the sampling step of deformable attention.
        image: Image file, which is resized to fit `size` as in prediction; None for generated images of that size.
        mask_layers: Number of layers of each mask decoder; None for all.
    """

    model: str
    size: tuple[int, int] = (800, 1333)
    batch: int = 1
    precision: Precision = "fp32"
    device: str = "auto"
    repeat: int = 5
    sampling: SamplingName = "auto"
    image: Path | None = None
    mask_layers: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """The result of a benchmark.

    Attributes:
        request: What was measured.
        weights: `random`, or the path of the checkpoint.
        parameters: Number of parameters.
        input_size: Height and width of the network's input, pixels.
        picture_size: Height and width of the image file, pixels.
        segments: Mean number of predicted segments per image.
        stages: Timings by stage, in the order they run, from passes that read the clock at each stage's start and end.
        network: The whole forward pass, from passes that read the clock only around it and around the whole pass.
        total: From image files to result files, from the same passes as `network`.
        peak_memory_mib: Peak memory in those passes; None if the system does not report it.
        peak_memory_kind: What the peak memory includes, in words.
        matrix_gflops: GFLOP/s of a matrix product of `matrix_size` at the same precision, measured between the passes.
        matrix_size: Rows, inputs and outputs of that product.
        environment: Device, threads and versions.
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
        """Return all fields, those of the request, and the derived rates."""
        content = asdict(self)
        request = content.pop("request")
        request["image"] = str(self.request.image) if self.request.image else None
        request["device"] = self.environment["device"]
        rates = {"ms_per_image": self.ms_per_image, "images_per_second": self.images_per_second}
        return {**request, "warm_up": WARM_UP, **content, **rates}


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width from text such as `800x1333`.

    >>> parse_size("800x1333")
    (800, 1333)

    Raises:
        PanformerError: The text has another form, or a side is too short or too long.
    """
    found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
    if not found:
        raise PanformerError(f"--size is {text!r}: expected HEIGHTxWIDTH in pixels, such as 800x1333")
    height, width = int(found[1]), int(found[2])
    if min(height, width) < LEAST_SIDE or max(height, width) > LARGEST_SIDE:
        raise PanformerError(f"--size is {text}: expected sides of {LEAST_SIDE} to {LARGEST_SIDE} pixels")
    return height, width


def benchmark(request: BenchmarkRequest, reporter: Reporter) -> Benchmark:
    """Benchmark a model; result files are written to a temporary folder.

    Raises:
        PanformerError: Model, device, precision, sampling or image cannot be used, or the GPU runs out of memory.
    """
    device = _device(request)
    check_sampling(request.sampling, device.type)
    if request.image:
        read_image(request.image)  # report an invalid image before the slow steps
    subject = _subject(request, reporter)
    try:
        with TemporaryDirectory(prefix="panformer-benchmark-") as folder:
            return _measure(request, subject, device, Path(folder), reporter)
    except torch.OutOfMemoryError as error:
        height, width = request.size
        raise PanformerError(
            f"the GPU ran out of memory at --size {height}x{width} and --batch {request.batch}; reduce one of them"
        ) from error


@dataclass(frozen=True)
class _Subject:
    """The model to measure, on the CPU."""

    model: PanopticModel
    recipe: Recipe
    weights: str


def _subject(request: BenchmarkRequest, reporter: Reporter) -> _Subject:
    path = Path(request.model)
    is_name = request.model in built_in_recipes() or not (path.suffix or path.exists() or is_reference(path))
    if is_name or path.suffix in (".yaml", ".yml"):
        recipe = load_recipe(request.model)
        return _Subject(random_model(recipe, COCO, request.sampling), recipe, "random")
    checkpoint = read_checkpoint(find_checkpoint(path, reporter, announce=reporter.message))
    return _Subject(load_model(checkpoint, request.sampling), checkpoint.recipe, str(checkpoint.path))


def _device(request: BenchmarkRequest) -> torch.device:
    process = Process.single(request.device)
    if process.device.type not in ("cpu", "cuda", "mps"):
        raise PanformerError(
            f"--device is {request.device!r}, which cannot be benchmarked; expected auto, cpu, cuda or mps"
        )
    resolve_precision(request.precision, process)
    return process.device


def _measure(
    request: BenchmarkRequest, subject: _Subject, device: torch.device, folder: Path, reporter: Reporter
) -> Benchmark:
    data = replace(subject.recipe.data, short_side=min(request.size), long_side=max(request.size))
    if request.mask_layers is not None:
        subject.model.use_mask_layers(request.mask_layers)
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
        input_size=predictor.input_size((height, width)),
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
    """Return the files of one batch: the given image repeated, or generated scenes, written as JPEG."""
    if request.image:
        return [request.image] * request.batch
    options = SceneOptions(height=request.size[0], width=request.size[1])
    files = [folder / f"scene_{index}.jpg" for index in range(request.batch)]
    for index, file in enumerate(files):
        save_image(file, generate_scene(options, "val", index)[0])
    return files
