"""Measure tracks on generated scenes whose objects move, cross and hide.

    python benchmarks/video_tracks.py --scenes 40
    python benchmarks/video_tracks.py runs/tiny/best.safetensors --scenes 20

Without a checkpoint, predictions are the ground truth with segment ids and an order that are new in every frame, so
everything depends on the association. Without hidden objects, a VPQ of 100 means that no id changed within four frames.
`ids kept` counts the scenes in which no object ever changed its id, and `ids shared` those in which an id went from one
object to another. Both are counted over the whole video.

With a checkpoint of the recipe `tiny` (`panformer demo` makes one), predictions are those of the model, with three
kinds of ids: new ones in every frame; those of the tracks; and `ideal` ones, which are those of the ground truth
segment that a segment matches in its frame. The columns are VPQ and the PQ of tubes in windows of 1 to 4 frames.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from panformer_cli.console import print_table
from panformer_cli.data.scenes.moving import CATEGORIES, MovingOptions, moving_scene
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.data.structures import PanopticMap
from panformer_cli.engine.checkpoints.checkpoint import load_model, read_checkpoint
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.video.tracking import Tracker
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.video_quality import VideoQuality

FRAMES = 24
STEPS = (0.03, 0.08)
"""Largest distance from frame to frame, as a fraction of the short side."""
HIDDEN = (0, 4)
"""Largest number of frames for which one object of a scene is hidden."""
STRIDES = (1, 3)
MATCHED = 0.5
"""A segment matches the one of the ground truth whose IoU with it is larger, as in PQ."""

Pair = tuple[PanopticMap, PanopticMap]
"""Prediction and ground truth of a frame."""


def main() -> None:
    """Print one row for each kind of scenes, and of ids."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="checkpoint to predict with")
    parser.add_argument("--scenes", type=int, default=12, help="scenes of each kind [default: 12]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    kinds = [(hidden, step) for hidden in HIDDEN for step in STEPS]
    if options.checkpoint is None:
        title = "Tracks of ground-truth masks"
        rows = [measure(*kind, stride, options.scenes) for kind in kinds for stride in STRIDES]
    else:
        title = "Tracks of predicted masks"
        predictor = predictor_of(options.checkpoint)
        rows = [row for kind in kinds for row in measure_model(predictor, *kind, options.scenes)]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(title, list(rows[0]), [list(row.values()) for row in rows])


def measure(hidden: int, step: float, stride: int, scenes: int) -> dict[str, Any]:
    """Return VPQ of all scenes of a kind, and the numbers of scenes without changed and with shared ids."""
    quality = VideoQuality(CATEGORIES)
    kept = shared = 0
    for seed in range(scenes):
        options = MovingOptions(SceneOptions(height=96, width=128), FRAMES, step, hidden)
        random = np.random.default_rng(seed)
        frames = [truth for _, truth in moving_scene(options, seed)]
        pairs = tracked([(shuffled(truth, random), truth) for truth in frames], stride)
        quality.add(compare(*pair) for pair in pairs)
        tracks, objects = defaultdict(set), defaultdict(set)
        for found, truth in pairs:
            for segment in truth.segments:
                track = int(found.ids[truth.ids == segment.id][0])
                tracks[segment.id].add(track)
                objects[track].add(segment.id)
        kept += all(len(found) == 1 for found in tracks.values())
        shared += any(len(found) > 1 for found in objects.values())
    kind = {**kind_of(hidden, step), "stride": stride, "scenes": scenes}
    return {**kind, "VPQ": round(quality.result().all, 2), "ids kept": kept, "ids shared": shared}


def measure_model(predictor: Predictor, hidden: int, step: float, scenes: int) -> list[dict[str, Any]]:
    """Return VPQ of a model for all scenes of a kind: one row for each kind of ids."""
    qualities = {name: VideoQuality(CATEGORIES) for name in IDS}
    for seed in range(scenes):
        frames = moving_scene(MovingOptions(SceneOptions(), FRAMES, step, hidden), seed)
        pairs = [(predictor(image).panoptic, truth) for image, truth in frames]
        for name, with_ids in IDS.items():
            qualities[name].add(compare(*pair) for pair in with_ids(pairs))
    rows = []
    for name, quality in qualities.items():
        result = quality.result()
        windows = {f"k = {size}": round(window.all.pq, 1) for size, window in result.windows.items()}
        kind = {**kind_of(hidden, step), "scenes": scenes, "ids": name}
        rows.append({**kind, "VPQ": round(result.all, 1), **windows})
    return rows


def kind_of(hidden: int, step: float) -> dict[str, Any]:
    """Return the columns that describe the scenes."""
    return {"hidden frames": hidden, "step, %": round(100 * step)}


def predictor_of(checkpoint: Path) -> Predictor:
    """Return the model of a checkpoint, on the CPU."""
    read = read_checkpoint(checkpoint)
    model = load_model(read)
    model.optimize_for_inference()
    return Predictor(model, read.recipe, torch.device("cpu"))


def tracked(pairs: Sequence[Pair], stride: int = 1) -> list[Pair]:
    """Return every `stride`-th frame with track ids."""
    tracker = Tracker(CATEGORIES)
    return [
        (tracker.update(found, number), truth) for number, (found, truth) in enumerate(pairs) if number % stride == 0
    ]


def new_in_every_frame(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the frames with ids that are used only once."""
    ids = count(1)
    return [(with_ids(found, [next(ids) for _ in found.segments]), truth) for found, truth in pairs]


def ideal(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the frames with the ids of the ground truth; segments that match none have ids that are used only once."""
    unmatched = count(1 + max(segment.id for _, truth in pairs for segment in truth.segments))
    named = []
    for found, truth in pairs:
        of_segment = matches(found, truth)
        ids = [of_segment[segment.id] if segment.id in of_segment else next(unmatched) for segment in found.segments]
        named.append((with_ids(found, ids), truth))
    return named


def matches(found: PanopticMap, truth: PanopticMap) -> dict[int, int]:
    """Return the id of the ground truth segment that each matched segment shows."""
    matched = {}
    for segment in found.segments:
        mask = found.ids == segment.id
        for other in truth.segments:
            shown = truth.ids == other.id
            union = ((mask | shown) & (truth.ids != 0)).sum()
            if other.category_id == segment.category_id and (mask & shown).sum() > MATCHED * union:
                matched[segment.id] = other.id
    return matched


IDS: dict[str, Callable[[Sequence[Pair]], list[Pair]]] = {
    "new in every frame": new_in_every_frame,
    "tracks": tracked,
    "ideal": ideal,
}


def shuffled(panoptic: PanopticMap, random: np.random.Generator) -> PanopticMap:
    """Return the map with other ids and another order of the segments."""
    renamed = with_ids(panoptic, (random.permutation(len(panoptic.segments)) + 1).tolist())
    order = random.permutation(len(panoptic.segments))
    return replace(renamed, segments=tuple(renamed.segments[position] for position in order))


def with_ids(panoptic: PanopticMap, new: Sequence[int]) -> PanopticMap:
    """Return the map with these ids of its segments."""
    ids = np.zeros_like(panoptic.ids)
    for segment, number in zip(panoptic.segments, new, strict=True):
        ids[panoptic.ids == segment.id] = number
    pairs = zip(panoptic.segments, new, strict=True)
    return PanopticMap(ids, tuple(replace(segment, id=number) for segment, number in pairs))


if __name__ == "__main__":
    main()
