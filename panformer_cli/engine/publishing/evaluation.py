"""Results of an evaluation, for the model card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panformer_cli.engine.evaluation.compare_inputs import is_evaluation_of
from panformer_cli.engine.results import METRICS
from panformer_cli.engine.runs import results_folder
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import file_stamp, sha256_of
from panformer_cli.storage.plain_json import parse as parse_json

_GROUPS = {"all": "", "things": " of things", "stuff": " of stuff"}
_QUALITIES = ("pq", "sq", "rq")


@dataclass(frozen=True)
class Score:
    """A metric in percent.

    Attributes:
        kind: Identifier, such as `pq_things`.
        name: For people.
        value: In percent.
        interval: 95 % interval; None if it was not computed.
    """

    kind: str
    name: str
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class EvaluationSummary:
    """An evaluation without paths.

    Attributes:
        split: Name of the split.
        images: Number of images.
        annotation_sha256: Of the annotation; None if the file is gone or was replaced.
        scores: All metrics, PQ first.
        settings: Settings of inference that the scores depend on, such as the precision.
    """

    split: str
    images: int
    annotation_sha256: str | None
    scores: tuple[Score, ...]
    settings: dict[str, Any]

    @property
    def has_intervals(self) -> bool:
        """Whether any score has an interval."""
        return any(score.interval is not None for score in self.scores)


def find_evaluation(checkpoint: Path, folder: Path | None, reporter: Reporter) -> EvaluationSummary | None:
    """Return the evaluation of a checkpoint; None if there is none.

    Args:
        checkpoint: The file.
        folder: Folder of the evaluation; None for the one beside the checkpoint, which may be of another checkpoint.
        reporter: Warned about such an evaluation.

    Raises:
        PanformerError: `folder` has no evaluation, or one of another checkpoint.
    """
    place = folder or results_folder(checkpoint)
    if not (place / METRICS).is_file():
        if folder is not None:
            raise PanformerError(
                f"--evaluation {folder} has no {METRICS}; give the folder of an evaluation of {checkpoint}"
            )
        return None
    if not is_evaluation_of(checkpoint, place):
        problem = f"{place} has the results of other weights than {checkpoint}"
        if folder is not None:
            raise CheckpointError(f"{problem}; evaluate it first: panformer evaluate {checkpoint} --out FOLDER")
        reporter.warn(f"{problem}, so the model card has no metrics; evaluate it first for a card with metrics")
        return None
    try:
        return _summary(_read(place / METRICS))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise PanformerError(
            f"{place / METRICS} lacks a part, or is of another version of panformer ({error!r}); evaluate the "
            "checkpoint again"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PanformerError(f"{path} cannot be read ({error}); evaluate the checkpoint again") from error
    if not isinstance(content, dict) or not isinstance(content.get("panoptic"), dict):
        raise PanformerError(f"{path} has no panoptic metrics; evaluate the checkpoint again")
    return content


def _summary(metrics: dict[str, Any]) -> EvaluationSummary:
    annotation, settings = Path(metrics["annotation"]), metrics["settings"]
    is_same = annotation.is_file() and file_stamp(annotation)[1:] == settings["annotation"][1:]
    return EvaluationSummary(
        split=annotation.stem.removeprefix("panoptic_"),
        images=metrics["images"],
        annotation_sha256=sha256_of(annotation) if is_same else None,
        scores=tuple(_scores(metrics)),
        settings={"precision": settings["precision"], **settings.get("inference", {})},
    )


def _scores(metrics: dict[str, Any]) -> Iterator[Score]:
    intervals = metrics.get("intervals", {})
    for group, of in _GROUPS.items():
        row = metrics["panoptic"][group]
        for quality in _QUALITIES if row["n"] else ():
            ends = intervals.get(group, {}).get(quality)
            kind = quality if group == "all" else f"{quality}_{group}"
            yield Score(kind, f"{quality.upper()}{of}", row[quality], (ends[0], ends[1]) if ends else None)
    if boundary := metrics.get("boundary"):
        yield Score("boundary_pq", "Boundary PQ", boundary["all"]["pq"])
    if semantic := metrics.get("semantic"):
        yield Score("mean_iou", "mIoU", semantic["miou"])
    for metric, name in (("bbox", "Box AP of things"), ("segm", "Mask AP of things")):
        if metric in metrics:
            yield Score(f"{metric}_ap", name, metrics[metric]["AP"])
