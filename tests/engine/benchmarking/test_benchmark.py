"""The benchmark's counts and readings, compared with hand-computed values."""

from __future__ import annotations

import itertools
import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.scenes.generator import SceneOptions, generate_scene
from panformer_cli.data.transforms import normalize
from panformer_cli.engine.benchmarking import passes as benchmark_passes
from panformer_cli.engine.benchmarking.benchmark import Benchmark, BenchmarkRequest, benchmark, parse_size
from panformer_cli.engine.benchmarking.meters import (
    PeakMemory,
    Spread,
    flop_meter,
    matrix_products,
    matrix_rate,
    matrix_shape,
    metered,
)
from panformer_cli.engine.benchmarking.passes import (
    WARM_UP,
    Pipeline,
    count_flops,
    staged_pass,
    whole_pass,
)
from panformer_cli.engine.benchmarking.random_model import random_model
from panformer_cli.engine.inference import Predictor
from panformer_cli.errors import CheckpointError, DataError, PanformerError, RecipeError
from panformer_cli.models.layers.deformable_attention import DeformableAttention
from panformer_cli.models.layers.sampling.portable import grid_sampling
from panformer_cli.models.panoptic_segformer.output import InferenceOutput
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import recipe_to_yaml
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import DataSettings
from panformer_cli.visualization.drawing import save_image
from tests.engine.small import small_checkpoint
from tests.models.panoptic_segformer.small import SMALL, no_padding

CPU = torch.device("cpu")
PARTS = ("backbone", "neck", "encoder", "location_decoder", "thing_mask_decoder", "stuff_mask_decoder")
STAGES = ("decode", "prepare", *PARTS, "network_rest", "merging", "writing")
RECIPE = Recipe("small", model=SMALL, data=DataSettings(short_side=64, long_side=96))


def measure(model: str | Path, **options: Any) -> Benchmark:
    asked: dict[str, Any] = {"size": (64, 96), "device": "cpu", "repeat": 2}
    return benchmark(BenchmarkRequest(str(model), **(asked | options)), SilentReporter())


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(recipe_to_yaml(RECIPE), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def result(recipe_file: Path) -> Benchmark:
    return measure(recipe_file, batch=2)


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    image = generate_scene(SceneOptions(height=64, width=96), "val", 0)[0]
    save_image(tmp_path / "scene.jpg", image)
    predictor = Predictor(random_model(RECIPE, COCO), RECIPE, CPU)
    return Pipeline(predictor, [tmp_path / "scene.jpg"], tmp_path / "out")


@pytest.mark.parametrize(("text", "size"), [("800x1333", (800, 1333)), ("32x8192", (32, 8192)), ("064x64", (64, 64))])
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "800", "800x", "x800", "800X1333", "800 x 1333", "-64x64", "6.4x64", "64x64x3", "64x64\n", "٣٢x64"]
)
def test_invalid_sizes(text: str) -> None:
    with pytest.raises(PanformerError, match="expected HEIGHTxWIDTH in pixels, such as 800x1333"):
        parse_size(text)


@pytest.mark.parametrize("text", ["31x64", "64x31", "64x8193", "99999999x64"])
def test_sizes_that_are_too_small_or_too_large(text: str) -> None:
    with pytest.raises(PanformerError, match=f"{text}: expected sides of 32 to 8192 pixels"):
        parse_size(text)


def test_spread() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(median=3.0, least=1.0, lower_quartile=2.0, upper_quartile=4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 7.0)


def test_edges_of_modules() -> None:
    inner = nn.Identity()
    outer = nn.Sequential(inner, nn.Identity(), inner)
    ticks = itertools.count(10)
    with metered({"outer": outer, "inner": inner}, lambda: next(ticks)) as edges:
        outer(torch.zeros(1))
    # outer from 10 to 15, inner from 11 to 12 and from 13 to 14
    assert edges == {"outer": (10, 15, 5), "inner": (11, 14, 2)}
    outer(torch.zeros(1))
    assert next(ticks) == 16, "the hooks are gone"


def test_flops_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, kernel_size=3, padding=1, stride=2), nn.ReLU(), nn.Flatten(2), nn.Linear(6, 5)
    )
    model[0].bias.requires_grad_(False)
    with torch.inference_mode(), flop_meter(model) as read:
        assert read() == 0
        model(torch.zeros(2, 3, 4, 6))  # convolved to (2, 4, 2, 3)
        convolution = 2 * (2 * 4 * 2 * 3) * (3 * 3 * 3)
        linear = 2 * (2 * 4) * 6 * 5
        assert read() == convolution + linear
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False, True, True]


@pytest.mark.slow
def test_flops_of_deformable_attention_by_hand() -> None:
    queries, cells, dim, heads, levels, points = 3, 20, 8, 2, 2, 3
    attention = DeformableAttention(dim, heads, levels, points)
    shapes = [(4, 4), (2, 2)]
    tensors = torch.zeros(1, queries, dim), torch.zeros(1, queries, levels, 2), torch.zeros(1, cells, dim)
    with torch.inference_mode(), flop_meter(attention) as read:
        attention(*tensors, shapes, torch.zeros(1, cells, dtype=torch.bool))
        found = read()
    samples = heads * levels * points
    linears = cells * dim * dim + queries * dim * (2 * samples + samples + dim)  # value; offsets, weights, output
    sampling = queries * samples * (dim // heads) * 5  # four corners and a weight
    assert found == 2 * (linears + sampling)


@pytest.mark.slow
def test_flops_of_the_network_are_split_among_its_parts(pipeline: Pipeline) -> None:
    found = count_flops(pipeline)
    assert list(found) == [*PARTS, "network_rest"]
    channels = pipeline.model.backbone.channels
    cells = [8 * 12, 4 * 6, 2 * 3]
    neck = sum(2 * count * width * 32 for count, width in zip(cells, channels, strict=True))
    neck += 2 * (1 * 2) * channels[-1] * 9 * 32
    assert found["neck"] == neck
    # The rest: one class branch of stuff per block, from 32 channels to one logit for 53 queries.
    assert found["network_rest"] == 2 * 2 * 53 * 32


@pytest.mark.slow
def test_the_stages_cover_the_whole_pass(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    readings: list[int] = []

    def clock_of(_: torch.device) -> Any:
        def read() -> int:
            readings.append(100 + len(readings))
            return readings[-1]

        return read

    monkeypatch.setattr(benchmark_passes, "clock_of", clock_of)
    stages = staged_pass(pipeline)
    assert list(stages) == list(STAGES)
    assert sum(stages.values()) == readings[-1] - readings[0]
    assert stages["decode"] == stages["prepare"] == stages["merging"] == stages["writing"] == 1
    assert all(stages[part] == 1 for part in PARTS)
    # Between the parts of the network, and before and after them, the clock is read once each.
    assert stages["network_rest"] == len(PARTS) + 1

    readings.clear()
    whole = whole_pass(pipeline, PeakMemory(CPU))
    assert (whole.total, whole.network) == (3, 1)
    assert len(readings) == 4, "nothing is measured inside"


@pytest.mark.slow
def test_precision_and_sampling_reach_the_network(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    values = DeformableAttention.values  # every layer samples once, whole or in chunks

    def spy(self: DeformableAttention, *arguments: Any) -> torch.Tensor:
        output = values(self, *arguments)
        seen.append((output.dtype, self.sampling))
        return output

    monkeypatch.setattr(DeformableAttention, "values", spy)
    measure(recipe_file, repeat=1, precision="bf16", sampling="portable")
    layers = SMALL.encoder_layers + SMALL.location_layers
    assert seen[:layers] == [(torch.float32, grid_sampling)] * layers, "random weights are the same for every precision"
    assert seen[layers:] == [(torch.bfloat16, grid_sampling)] * layers * (WARM_UP + 2)


@pytest.mark.slow
def test_a_pass_writes_what_prediction_writes(pipeline: Pipeline, tmp_path: Path) -> None:
    whole_pass(pipeline, PeakMemory(CPU))
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert [name for name in written if not name.startswith(".")] == ["overlays/0.jpg", "panoptic/0.png"]


@pytest.mark.slow
def test_random_weights_predict_segments() -> None:
    state = torch.get_rng_state()
    model = random_model(RECIPE, COCO)
    assert torch.equal(torch.get_rng_state(), state), "the random state is left alone"
    image = normalize(generate_scene(SceneOptions(height=256, width=256), "val", 0)[0])[None]
    with torch.inference_mode():
        output = model.infer(image, no_padding(image))
    assert isinstance(output, InferenceOutput)
    threshold = MergingSettings().score_threshold
    (classes,) = output.scores
    assert classes[19] >= threshold - 1e-4 > classes[20] - 2e-4
    assert classes[99] == pytest.approx(threshold / 5, abs=1e-3)
    stuff = output.stuff_scores.flatten().sort(descending=True).values
    assert stuff[9] == pytest.approx(threshold, abs=1e-3)
    for masks in (output.masks, output.stuff_masks):
        foreground = masks[masks > 0.5]
        assert len(foreground) / masks.numel() == pytest.approx(0.2, abs=0.01)
        assert foreground.mean() == pytest.approx(1.0, abs=0.01)


@pytest.mark.slow
def test_random_weights_are_reproducible() -> None:
    one, other = (random_model(RECIPE, COCO).state_dict() for _ in range(2))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    another = random_model(RECIPE, COCO, seed=1).state_dict()
    assert not torch.equal(one["neck.levels.0.conv.weight"], another["neck.levels.0.conv.weight"])


def test_peak_memory() -> None:
    memory = PeakMemory(CPU)
    if "since its start" in memory.kind:
        pytest.skip("this system does not forget a peak")
    before = memory.mib()
    pages = mmap.mmap(-1, 96 * 2**20)  # from the system, since an allocator may keep freed memory
    np.frombuffer(pages, np.uint8)[:] = 1
    with_array = memory.mib()
    pages.close()
    still = memory.mib()
    memory.reset()
    after = memory.mib()
    assert before is not None
    assert with_array is not None
    assert with_array - before > 60
    assert still == pytest.approx(with_array, abs=1)
    assert after is not None
    assert after < with_array - 60


def test_the_matrix_rate_is_that_of_one_product() -> None:
    linear, convolution = (product() for product in matrix_products(CPU, torch.float32))
    assert linear.shape == (matrix_shape(CPU)[0], matrix_shape(CPU)[2])
    torch.testing.assert_close(linear, convolution, rtol=1e-4, atol=1e-3)
    assert 0 < matrix_rate(CPU, torch.float32, repeat=1) < math.inf


@pytest.mark.slow
def test_every_stage_has_measurements(result: Benchmark) -> None:
    assert list(result.stages) == list(STAGES)
    for figures in [*result.stages.values(), result.network, result.total]:
        assert 0 <= figures.ms.least <= figures.ms.lower_quartile <= figures.ms.median <= figures.ms.upper_quartile
    counted = {name for name, figures in result.stages.items() if figures.gflop is not None}
    assert counted == {*PARTS, "network_rest"}
    gflop = sum(result.stages[name].gflop or 0 for name in counted)
    assert gflop == pytest.approx(result.network.gflop)
    assert gflop == pytest.approx(result.total.gflop)
    assert result.network.ms.least < result.total.ms.least


@pytest.mark.slow
def test_shares_and_rates(result: Benchmark) -> None:
    encoder = result.stages["encoder"]
    assert encoder.gflop is not None
    at_the_limit_ms = encoder.gflop / result.matrix_gflops * 1000
    assert encoder.limit_share == pytest.approx(at_the_limit_ms / encoder.ms.median)
    assert result.stages["merging"].limit_share is None
    assert result.ms_per_image * 2 == result.total.ms.median
    assert result.images_per_second == pytest.approx(2 / (result.total.ms.median / 1000))


@pytest.mark.slow
def test_json(result: Benchmark, recipe_file: Path) -> None:
    content = result.to_json()
    expected = {"model": str(recipe_file), "weights": "random", "size": (64, 96), "input_size": (64, 96), "batch": 2}
    expected |= {"picture_size": (64, 96), "precision": "fp32", "device": "cpu", "repeat": 2, "image": None}
    assert {key: content[key] for key in expected} == expected
    assert list(content["stages"]) == list(STAGES)
    assert set(content["stages"]["neck"]) == {"ms", "gflop", "limit_share"}
    assert set(content["total"]["ms"]) == {"median", "least", "lower_quartile", "upper_quartile"}
    assert content["parameters"] == sum(tensor.numel() for tensor in random_model(RECIPE, COCO).parameters())
    assert content["environment"]["threads"] == torch.get_num_threads()
    assert content["peak_memory_mib"] > 50
    assert content["ms_per_image"] == content["total"]["ms"]["median"] / 2


@pytest.mark.slow
def test_a_checkpoint_and_an_image(scenes: Path, tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path / "run" / "last.safetensors", scenes)
    save_image(tmp_path / "photo.png", np.zeros((50, 100, 3), np.uint8))
    result = measure(path, size=(64, 64), repeat=1, image=tmp_path / "photo.png")
    assert result.weights == str(path)
    assert (result.picture_size, result.input_size) == ((50, 100), (32, 64))
    assert measure(path.parent, size=(64, 64), repeat=1).weights == str(path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "r5O"}, RecipeError, "the recipe 'r5O' does not exist.*did you mean r50?"),
        ({"model": "no.yaml"}, RecipeError, "the recipe 'no.yaml' does not exist"),
        ({"model": "no.safetensors"}, CheckpointError, "checkpoint no.safetensors: no such file"),
        ({"device": "gpu"}, PanformerError, "--device is 'gpu', which is not available here"),
        ({"device": "meta"}, PanformerError, "--device is 'meta', which cannot be benchmarked; expected auto"),
        ({"precision": "fp16"}, PanformerError, "--precision fp16 needs a GPU"),
        ({"sampling": "triton"}, PanformerError, "sampling 'triton'"),
        ({"image": Path("no.jpg")}, DataError, "the image no.jpg is missing"),
    ],
)
def test_errors(
    options: dict[str, Any], error: type[PanformerError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        measure(**({"model": "tiny"} | options))


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder without best, last or model.safetensors"):
        measure(tmp_path)


@pytest.mark.slow
def test_a_recipe_name_has_priority_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert measure("tiny", size=(32, 32), repeat=1).weights == "random"
