"""Evaluate a model from Python: the stage behind `panformer evaluate`, with its defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from panformer_cli.api.options import check_range, checkpoint_of, inference_of, precision_of, with_saved_model
from panformer_cli.api.reporters import reporter_of
from panformer_cli.api.wording import python_errors
from panformer_cli.engine.distributed.runtime import Process, explained_out_of_memory
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest
from panformer_cli.engine.evaluation.evaluate import evaluate as run_evaluation
from panformer_cli.engine.inference_changes import InferenceChanges
from panformer_cli.engine.runs import find_checkpoint, results_folder
from panformer_cli.errors import PanformerError
from panformer_cli.metrics.evaluator import MetricName


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The results of an evaluation. All qualities are in percent, 0..100, or NaN if there was nothing to measure.

    Attributes:
        folder: The folder with the predictions and all results.
        metrics: The content of `metrics.json` (docs/formats.md), with every metric that was computed.
    """

    folder: Path
    metrics: dict[str, Any]

    @property
    def pq(self) -> float:
        """Panoptic quality, the mean over all classes."""
        return self._quality("all", "pq")

    @property
    def sq(self) -> float:
        """Segmentation quality: the mean IoU of matched segments."""
        return self._quality("all", "sq")

    @property
    def rq(self) -> float:
        """Recognition quality: the F1 score of segments."""
        return self._quality("all", "rq")

    @property
    def pq_things(self) -> float:
        """PQ of things."""
        return self._quality("things", "pq")

    @property
    def pq_stuff(self) -> float:
        """PQ of stuff."""
        return self._quality("stuff", "pq")

    @property
    def images(self) -> int:
        """Number of images that were evaluated."""
        return int(self.metrics["images"])

    @property
    def pq_per_class(self) -> dict[str, float]:
        """PQ by the name of the category, for those in the ground truth or the predictions."""
        names = {row["id"]: row["name"] for row in self.metrics["categories"]}
        rows = self.metrics["panoptic"]["per_class"].items()
        return {names[int(number)]: float(row["pq"]) for number, row in rows}

    def _quality(self, group: str, name: str) -> float:
        return float(self.metrics["panoptic"][group][name])

    def __repr__(self) -> str:
        return f"Evaluation({self.images} images, PQ {self.pq:.1f}, SQ {self.sq:.1f}, RQ {self.rq:.1f}, {self.folder})"


@python_errors
def evaluate(
    checkpoint: str | PathLike[str] | None = None,
    *,
    data: str | PathLike[str] | None = None,
    split: str | None = None,
    out: str | PathLike[str] | None = None,
    metrics: Sequence[str] = ("panoptic", "semantic"),
    bootstrap: int = 1000,
    batch_size: int = 1,
    precision: str = "auto",
    device: str = "auto",
    tile: int | None = None,
    tile_overlap: int | None = None,
    tile_whole_image: bool = False,
    tta: str | Sequence[str | float] | None = None,
    mask_layers: int | None = None,
    short_side: int | None = None,
    long_side: int | None = None,
    label_map: str | PathLike[str] | Mapping[str | int, int] | None = None,
    hf_post_processing: bool = False,
    resume: bool = False,
    verbose: bool = True,
) -> Evaluation:
    """Evaluate a checkpoint on a split of a data set. Files are written as by `panformer evaluate`.

    Args:
        checkpoint: As for `load`; None for the newest run in `./runs`.
        data: Folder of the data set; None for the one used for training.
        split: Name of the split, such as `val2017`; None for the validation split used for training.
        out: Folder for the results; None for `evaluation` next to the checkpoint.
        metrics: Some of `panoptic`, `boundary`, `semantic`, `bbox` and `segm`. PQ is always computed.
        bootstrap: Resamples for the 95 % confidence intervals; 0 computes none.
        batch_size: Maximum number of equally sized images per forward pass. It changes results by rounding at most.
        precision: As for `load`.
        device: As for `load`.
        tile: As for `load`.
        tile_overlap: As for `load`.
        tile_whole_image: As for `load`.
        tta: As for `load`.
        mask_layers: As for `load`.
        short_side: As for `load`.
        long_side: As for `load`.
        label_map: As for `load`.
        hf_post_processing: As for `load`.
        resume: Resume an interrupted evaluation in `out`; if it is complete, return its results.
        verbose: Show progress and messages on stderr; otherwise messages go to the logger `panformer`.

    Raises:
        PanformerError: The checkpoint, the data or an option cannot be used, or their categories differ.
    """
    known = get_args(MetricName)
    if isinstance(metrics, str) or (unknown := sorted(set(metrics).difference(known))):
        shown = metrics if isinstance(metrics, str) else ", ".join(unknown)
        raise PanformerError(f"metrics has {shown!r}; expected a list with some of {', '.join(known)}")
    check_range("batch_size", batch_size, 1)
    check_range("bootstrap", bootstrap, 0)
    inference = inference_of(tile, tile_overlap, tile_whole_image, tta, mask_layers)
    choice, reporter, process = precision_of(precision), reporter_of(verbose), Process.single(device)
    changes = with_saved_model(
        InferenceChanges(), short_side, long_side, label_map, hf_post_processing=hf_post_processing
    )
    found = find_checkpoint(checkpoint_of(checkpoint), reporter)
    request = EvaluateRequest(
        checkpoint=found,
        out=results_folder(found) if out is None else Path(out),
        data_root=None if data is None else Path(data),
        split=split,
        batch_size=batch_size,
        precision=choice,
        resume=resume,
        inference=inference,
        changes=changes,
        metrics=tuple(name for name in known if name in metrics),  # the order of the command
        resamples=bootstrap,
    )
    with explained_out_of_memory():
        return Evaluation(request.out, run_evaluation(request, process, reporter))
