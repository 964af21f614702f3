"""Tests that need a GPU; skipped if there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_png import read_panoptic_png
from panformer_cli.data.scenes.generator import SceneOptions, write_scenes
from panformer_cli.data.structures import Batch
from panformer_cli.engine.benchmarking.random_model import random_model
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, save_checkpoint
from panformer_cli.engine.distributed.group import joined
from panformer_cli.engine.distributed.runtime import Process, ProcessOptions
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.models.base import LossCounts
from panformer_cli.models.build import build_model
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.recipe_io import load_recipe
from panformer_cli.reporting import SilentReporter
from tests.models.panoptic_segformer.small import images_of, no_padding, scramble, table, targets_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]

SIZE = (96, 128)


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """Disable TF32: by default, PyTorch rounds the inputs of float32 convolutions to it."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def model_of(recipe: str) -> PanopticSegFormer:
    """Return a model with random weights whose outputs all depend on the image."""
    torch.manual_seed(0)
    loaded = load_recipe(recipe, ["model.backbone_weights=none"])
    model = build_model(loaded.model, loaded.inference, table(things=3, stuff=2))
    assert isinstance(model, PanopticSegFormer)
    scramble(model)
    return model.eval()


def outputs(model: PanopticSegFormer, images: Tensor) -> dict[str, Tensor]:
    """Return outputs that do not depend on the order of queries with nearly equal scores."""
    padding_mask = no_padding(images).to(images.device)
    memory = model.encode(images, padding_mask)
    location = model.location_decoder(memory)
    things, _, _ = model.decode_masks(memory, location.queries[:, :5], every_mask=False)
    output = model.infer(images, padding_mask)
    return {
        "class logits": location.class_logits,
        "boxes": location.boxes,
        "thing masks": things.masks[-1],
        "thing scores": output.scores,
        "stuff scores": output.stuff_scores,
        "stuff masks": output.stuff_masks,
    }


def losses_and_gradients(model: PanopticSegFormer, batch: Batch) -> dict[str, Tensor]:
    model.zero_grad()
    losses = model(batch, LossCounts(1.0, 1.0))
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {**losses, **gradients}


def assert_near(on_gpu: dict[str, Tensor], on_cpu: dict[str, Tensor], tolerance: float) -> None:
    """Compare tensors by the norm of their difference, relative to their own norm."""
    assert on_gpu.keys() == on_cpu.keys()
    far = {}
    for name, expected in on_cpu.items():
        difference = float((on_gpu[name].detach().cpu() - expected.detach()).norm())
        if not difference <= tolerance * float(expected.detach().norm()) + 1e-6:
            far[name] = difference
    assert not far


@contextmanager
def no_synchronization() -> Iterator[None]:
    """Let operations that synchronize with the GPU raise RuntimeError."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("recipe", ["tiny", "r50"])
def test_outputs_on_a_gpu_match_the_cpu(recipe: str) -> None:
    model, images = model_of(recipe), images_of(2, SIZE)
    with torch.inference_mode():
        on_cpu = outputs(model, images)
        on_gpu = outputs(model.cuda(), images.cuda())
    assert_near(on_gpu, on_cpu, tolerance=1e-3)


def test_losses_and_gradients_on_a_gpu_match_the_cpu() -> None:
    model = model_of("tiny")
    targets = [targets_of(SIZE, (0, (8, 8, 40, 60)), (2, (50, 20, 90, 80)), (4, (0, 0, 128, 50))), targets_of(SIZE)]
    batch = Batch(images_of(2, SIZE), torch.zeros(2, *SIZE, dtype=torch.bool), targets)
    on_cpu = losses_and_gradients(model, batch)
    on_gpu = losses_and_gradients(model.cuda(), batch.to("cuda"))
    assert_near(on_gpu, on_cpu, tolerance=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_forward_pass_does_not_synchronize(dtype: torch.dtype) -> None:
    """A forward pass that waits for the GPU leaves it idle."""
    model, images = model_of("tiny").cuda(), images_of(1, SIZE).cuda()
    padding_mask = no_padding(images).cuda()
    with torch.inference_mode(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        model.infer(images, padding_mask)  # the first call compiles the kernels
        with no_synchronization():
            output = model.infer(images, padding_mask)
    assert all(bool(tensor.isfinite().all()) for tensor in output)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_runs_on_a_gpu_and_resumes(tmp_path: Path, precision: str) -> None:
    write_scenes(tmp_path / "scenes", SceneOptions(train_images=8, val_images=2), SilentReporter())
    overrides = [f"data.root={tmp_path / 'scenes'}", f"train.precision={precision}", "data.workers=0"]
    for steps in (2, 4):
        options = TrainOptions(out=tmp_path / "run", resume=steps == 4)
        recipe = load_recipe("tiny", [*overrides, f"train.max_steps={steps}"])
        with joined(ProcessOptions(gpus=1)) as process:
            result = train(recipe, options, process, SilentReporter())
    assert result.ended
    assert result.run.best.is_file()


def random_checkpoint(path: Path, scenes: Path, categories: CategoryTable) -> Path:
    """Write a checkpoint with random weights that detects segments."""
    recipe = load_recipe("tiny", [f"data.root={scenes}"])
    save_checkpoint(path, random_model(recipe, categories), recipe, categories, TrainProgress())
    return path


def test_an_evaluation_on_a_gpu_matches_the_cpu(tmp_path: Path) -> None:
    """With a GPU, several threads finish the results; on the CPU, one does."""
    scenes = tmp_path / "scenes"
    write_scenes(scenes, SceneOptions(train_images=1, val_images=6), SilentReporter())
    data = CocoPanoptic(scenes, "val")
    checkpoint = random_checkpoint(tmp_path / "random.safetensors", scenes, data.categories)
    contents = []
    for device in ("cpu", "cuda"):
        request = EvaluateRequest(
            checkpoint,
            tmp_path / device,
            metrics=("panoptic", "boundary", "semantic"),
            batch_size=4,
        )
        contents.append(evaluate(request, Process.single(device), SilentReporter()))
    assert contents[0]["images"] == contents[1]["images"] == 6
    for group in ("all", "things", "stuff"):
        assert contents[1]["panoptic"][group]["pq"] == pytest.approx(contents[0]["panoptic"][group]["pq"], abs=1)
    assert contents[1]["semantic"]["accuracy"] == pytest.approx(contents[0]["semantic"]["accuracy"], abs=1)
    on_cpu, on_gpu = (segmented(tmp_path / device) for device in ("cpu", "cuda"))
    assert (on_cpu > 0).mean() > 0.1
    assert (on_cpu == on_gpu).mean() > 0.95


def segmented(results: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """Return the category of every pixel of all images, sorted by file name; 0 is void."""
    rows = json.loads((results / "panoptic.json").read_text(encoding="utf-8"))["annotations"]
    maps = []
    for row in sorted(rows, key=lambda row: str(row["file_name"])):
        ids = read_panoptic_png(results / "panoptic" / row["file_name"])
        categories = np.zeros(ids.max() + 1, np.int32)
        for segment in row["segments_info"]:
            categories[segment["id"]] = segment["category_id"]
        maps.append(categories[ids])
    return np.stack(maps)
