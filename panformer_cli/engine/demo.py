"""Run the whole pipeline on generated scenes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panformer_cli.data.scenes.generator import write_scenes
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.evaluation.report import report_evaluation
from panformer_cli.engine.predict import PredictRequest, predict
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.engine.visualize import VisualizeRequest, visualize
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import Reporter


@dataclass(frozen=True)
class DemoFolders:
    """The files that the demo writes."""

    out: Path

    @property
    def scenes(self) -> Path:
        return self.out / "scenes"

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.out / "run")

    @property
    def evaluation(self) -> Path:
        return self.out / "evaluation"

    @property
    def predictions(self) -> Path:
        return self.out / "predictions"

    @property
    def gallery(self) -> Path:
        return self.out / "gallery" / "index.html"

    @property
    def report(self) -> Path:
        return self.out / "report" / "index.html"


def demo(
    recipe: Recipe, folders: DemoFolders, options: SceneOptions, process: Process, reporter: Reporter
) -> dict[str, Any]:
    """Generate scenes, train on them, evaluate and predict held-out ones, and show the results on pages.

    If interrupted, the same call resumes.

    Returns:
        The metrics of `evaluate`.

    Raises:
        KeyboardInterrupt: Training was stopped; its last step is saved.
    """
    process.on_first(lambda: write_scenes(folders.scenes, options, reporter))
    recipe = replace(recipe, data=replace(recipe.data, root=str(folders.scenes)))
    recipe = _with_short_warmup(recipe, options.train_images)
    resume = process.on_first(folders.run.last.is_file)
    if not train(recipe, TrainOptions(out=folders.run.path, resume=resume), process, reporter).ended:
        raise KeyboardInterrupt
    checkpoint = folders.run.checkpoint
    assert checkpoint is not None, "training ends with a checkpoint"
    metrics = evaluate(EvaluateRequest(checkpoint, folders.evaluation, folders.scenes), process, reporter)
    held_out = sorted((folders.scenes / "images" / recipe.data.val_split).iterdir())[:PICTURES]
    predict(PredictRequest([str(path) for path in held_out], checkpoint, folders.predictions), process, reporter)
    request = VisualizeRequest(
        folders.gallery.parent,
        data_root=folders.scenes,
        split=recipe.data.val_split,
        predictions=folders.evaluation / "panoptic.json",
        run=folders.run.path,
        limit=PICTURES,
    )
    process.on_first(lambda: _write_pages(request, folders, reporter))
    return metrics


def _write_pages(request: VisualizeRequest, folders: DemoFolders, reporter: Reporter) -> None:
    """Write the gallery, and the report with a link to it."""
    visualize(request, reporter)
    links = [(f"Gallery of {PICTURES} scenes, and the training curves", f"../{folders.gallery.parent.name}/index.html")]
    report_evaluation(folders.evaluation, folders.report.parent, reporter, links)


PICTURES = 24
"""Number of held-out scenes that are predicted and shown on the page."""


def _with_short_warmup(recipe: Recipe, images: int) -> Recipe:
    """Return a recipe whose warm-up takes at most half of the run, which a demo with few scenes is too short for."""
    steps = recipe.train.epochs * max(1, images // recipe.train.batch_size)
    return replace(recipe, train=replace(recipe.train, warmup_steps=min(recipe.train.warmup_steps, steps // 2)))
