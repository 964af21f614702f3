"""Results as objects of other packages, which are imported when they are used."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panformer_cli.errors import PanformerError

if TYPE_CHECKING:
    from panformer_cli.api.result import Result


def _package(name: str, user: str) -> Any:
    """Return a package, which is also the name of panformer's extra; `user` is what needs it.

    Raises:
        PanformerError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise PanformerError(
            f"{user} needs the package {name}, which cannot be imported ({error}); install it with: "
            f"pip install 'panformer[{name}]'"
        ) from error


def to_df(result: Result) -> Any:
    """Return a `pandas.DataFrame`; see `Result.to_df`."""
    pandas = _package("pandas", "to_df()")
    columns = ("source", "id", "name", "category_id", "is_thing", "score", "area", "x1", "y1", "x2", "y2")
    rows = [(result.source, s.id, s.name, s.category_id, s.is_thing, s.score, s.area, *s.box) for s in result.segments]
    return pandas.DataFrame(rows, columns=list(columns))


def to_supervision(result: Result, things_only: bool) -> Any:
    """Return a `supervision.Detections`; see `Result.to_supervision`."""
    supervision = _package("supervision", "to_supervision()")
    chosen = result.things if things_only else result.segments
    masks = [segment.mask for segment in chosen]
    return supervision.Detections(
        xyxy=np.array([segment.box for segment in chosen], np.float32).reshape(-1, 4),
        mask=np.stack(masks) if masks else np.zeros((0, *result.size), np.bool_),
        confidence=np.array([segment.score for segment in chosen], np.float32),
        class_id=np.array([segment.category_id for segment in chosen], int),
        data={
            "class_name": np.array([segment.name for segment in chosen], str),
            "segment_id": np.array([segment.id for segment in chosen], int),
            "is_thing": np.array([segment.is_thing for segment in chosen], bool),
        },
    )


def to_fiftyone(result: Result, filepath: str | Path | None) -> Any:
    """Return a `fiftyone.Sample`; see `Result.to_fiftyone`."""
    path = Path(filepath if filepath is not None else result.source or "")
    if not path.is_file():
        raise PanformerError(
            f"to_fiftyone() needs the file of the image, and {str(path) if path.name else 'an image in memory'} is "
            "none; write it to a file and pass its path: to_fiftyone('image.jpg')"
        )
    fiftyone = _package("fiftyone", "to_fiftyone()")
    height, width = result.size
    detections = []
    for segment in result.segments:
        x1, y1, x2, y2 = segment.box
        detections.append(
            fiftyone.Detection(
                label=segment.name,
                bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
                mask=segment.mask[y1:y2, x1:x2],
                confidence=segment.score,
                is_thing=segment.is_thing,
                segment_id=segment.id,
            )
        )
    return fiftyone.Sample(
        filepath=str(path.absolute()),
        segments=fiftyone.Detections(detections=detections),
        semantic=fiftyone.Segmentation(mask=result.semantic()),
    )
