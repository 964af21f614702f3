"""transformers' own panoptic post-processing of the same network output, to compare it with the original projects'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from panformer_cli.data.structures import IdMap
from panformer_cli.errors import DataError
from panformer_cli.models.hugging_face.architectures import Architecture
from panformer_cli.models.hugging_face.query_masks import QueryMasks


class ListedSegment(NamedTuple):
    """A segment in transformers' list, in which one id can occur several times, even with different labels."""

    id: int
    label: int
    score: float


def post_process(
    masks: QueryMasks, architecture: Architecture, thresholds: tuple[float, float] | None, stuff: Sequence[int]
) -> tuple[IdMap, list[ListedSegment]]:
    """Return the map and the segments of transformers' post-processing, with ids from 1 and void 0.

    Args:
        masks: masks of the image; transformers gets them with the padding.
        architecture: selects the processor.
        thresholds: score and overlap threshold; None for transformers' defaults, without stuff.
        stuff: labels to fuse.

    Raises:
        DataError: transformers cannot process an image of this size, which is much longer than wide.
    """
    import transformers

    processor_class = getattr(transformers, architecture.processor)
    processor = object.__new__(processor_class)  # without `__init__`: OneFormer's fetches a file from the Hub
    class_name, mask_name = architecture.outputs
    is_eomt = architecture.rounding == "square"
    if is_eomt:
        masks = _filling_square(masks)
    output = SimpleNamespace(**{class_name: masks.class_logits[None], mask_name: masks.mask_logits[None]})
    options: dict[str, Any] = {"target_sizes": [masks.size]}
    if thresholds is not None:
        score, overlap = thresholds
        options |= {"threshold": score, "overlap_mask_area_threshold": overlap}
        options |= {"stuff_classes": list(stuff)} if is_eomt else {"label_ids_to_fuse": set(stuff)}
    if is_eomt:
        options["size"] = {"shortest_edge": masks.canvas[0], "longest_edge": masks.canvas[0]}
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        (found,) = processor.post_process_panoptic_segmentation(output, **options)
    except RuntimeError as error:  # a side that EoMT's processor rounds to 0
        raise DataError(
            f"transformers cannot merge the masks of an image of {masks.size[1]} x {masks.size[0]} pixels ({error}); "
            "leave --hf-post-processing out"
        ) from error
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    first_id = int(is_eomt)  # EoMT's ids are from 0 and its void is -1
    ids = found["segmentation"].numpy().astype(np.int32) + first_id
    segments = [
        ListedSegment(int(row["id"]) + first_id, int(row["label_id"]), float(row["score"]))
        for row in found["segments_info"]
    ]
    return np.maximum(ids, 0), segments


def _filling_square(masks: QueryMasks) -> QueryMasks:
    """Return the masks with as much of the square as the long side of the image: transformers expects no more."""
    longest = max(masks.resized)
    if longest == masks.canvas[0]:
        return masks
    square = (longest, longest)
    logits = replace(masks, resized=square).resized_logits(list(range(len(masks.mask_logits))))
    return replace(masks, mask_logits=logits, canvas=square)
