"""What only a GPU can show; skipped, saying so, where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from panformer_cli.data.scenes.generator import SceneOptions, write_scenes
from panformer_cli.engine.distributed.group import joined
from panformer_cli.engine.distributed.runtime import Process, ProcessOptions
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.train import TrainOptions, train
from panformer_cli.models.build import build_model
from panformer_cli.models.panoptic_segformer.output import InferenceOutput
from panformer_cli.recipe_io import load_recipe
from panformer_cli.reporting import SilentReporter
from tests.models.panoptic_segformer.small import table

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]


def test_a_gpu_computes_what_the_cpu_computes() -> None:
    torch.manual_seed(0)
    recipe = load_recipe("tiny")
    model = build_model(recipe.model, recipe.inference, table(things=3, stuff=2)).eval()
    images, padding_mask = torch.randn(1, 3, 96, 128), torch.zeros(1, 96, 128, dtype=torch.bool)
    with torch.inference_mode():
        on_cpu = model.infer(images, padding_mask)
        on_gpu = model.cuda().infer(images.cuda(), padding_mask.cuda())
    assert isinstance(on_cpu, InferenceOutput) and isinstance(on_gpu, InferenceOutput)
    # The boxes and masks of the things would be those of another query where two scores are almost equal.
    for name in ("scores", "stuff_scores"):
        torch.testing.assert_close(getattr(on_gpu, name).cpu(), getattr(on_cpu, name), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(on_gpu.stuff_masks.cpu(), on_cpu.stuff_masks, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_runs_on_a_gpu_and_goes_on(tmp_path: Path, precision: str) -> None:
    write_scenes(tmp_path / "scenes", SceneOptions(train_images=8, val_images=2), SilentReporter())
    overrides = [f"data.root={tmp_path / 'scenes'}", f"train.precision={precision}", "data.workers=0"]
    for steps in (2, 4):
        options = TrainOptions(out=tmp_path / "run", resume=steps == 4)
        recipe = load_recipe("tiny", [*overrides, f"train.max_steps={steps}"])
        with joined(ProcessOptions(gpus=1)) as process:
            result = train(recipe, options, process, SilentReporter())
    assert result.ended
    assert result.run.best.is_file()


def test_an_evaluation_on_a_gpu_has_the_figures_of_the_cpu(tmp_path: Path) -> None:
    """Results are finished by several threads beside a GPU, by one beside the CPU."""
    write_scenes(tmp_path / "scenes", SceneOptions(train_images=8, val_images=6), SilentReporter())
    recipe = load_recipe("tiny", [f"data.root={tmp_path / 'scenes'}", "data.workers=0", "train.max_steps=2"])
    run = train(recipe, TrainOptions(out=tmp_path / "run"), Process.single("cpu"), SilentReporter()).run
    figures = [
        evaluate(
            EvaluateRequest(
                run.best,
                tmp_path / device,
                metrics=("panoptic", "boundary", "semantic"),
                batch_size=4,
            ),
            Process.single(device),
            SilentReporter(),
        )
        for device in ("cpu", "cuda")
    ]
    assert figures[0]["images"] == figures[1]["images"] == 6
    for group in ("all", "things", "stuff"):
        assert figures[1]["panoptic"][group]["pq"] == pytest.approx(figures[0]["panoptic"][group]["pq"], abs=1)
    assert figures[1]["semantic"]["accuracy"] == pytest.approx(figures[0]["semantic"]["accuracy"], abs=1)
