"""Measure tracks on generated scenes whose objects move, cross and hide, with ground truth as predictions.

    python benchmarks/video_tracks.py --scenes 40

Segment ids and their order are new in every frame, so everything depends on the association. Without hidden objects, a
VPQ of 100 means that no id changed within four frames. `ids kept` counts the scenes in which no object ever changed its
id, and `ids shared` those in which an id went from one object to another. Both are counted over the whole video.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import replace

import numpy as np

from panformer_cli.console import print_table
from panformer_cli.data.scenes.moving import CATEGORIES, MovingOptions, moving_scene
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.data.structures import PanopticMap
from panformer_cli.engine.video.tracking import Tracker
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.video_quality import VideoQuality

FRAMES = 24
STEPS = (0.03, 0.08)
"""Largest distance from frame to frame, as a fraction of the short side."""
HIDDEN = (0, 4)
"""Largest number of frames for which one object of a scene is hidden."""
STRIDES = (1, 3)


def main() -> None:
    """Print one row for each kind of scenes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=12, help="scenes of each kind [default: 12]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = [measure(hidden, step, stride, options.scenes) for hidden in HIDDEN for step in STEPS for stride in STRIDES]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print_table("Tracks of ground-truth masks", list(rows[0]), [list(row.values()) for row in rows])


def measure(hidden: int, step: float, stride: int, scenes: int) -> dict[str, float]:
    """Return VPQ of all scenes of a kind, and the numbers of scenes without changed and with shared ids."""
    quality = VideoQuality(CATEGORIES)
    kept = shared = 0
    for seed in range(scenes):
        options = MovingOptions(SceneOptions(height=96, width=128), FRAMES, step, hidden)
        pairs = tracked([truth for _, truth in moving_scene(options, seed)], stride, np.random.default_rng(seed))
        quality.add(compare(*pair) for pair in pairs)
        tracks, objects = defaultdict(set), defaultdict(set)
        for found, truth in pairs:
            for segment in truth.segments:
                track = int(found.ids[truth.ids == segment.id][0])
                tracks[segment.id].add(track)
                objects[track].add(segment.id)
        kept += all(len(found) == 1 for found in tracks.values())
        shared += any(len(found) > 1 for found in objects.values())
    kind = {"hidden frames": hidden, "step, %": round(100 * step), "stride": stride, "scenes": scenes}
    return {**kind, "VPQ": round(quality.result().all, 2), "ids kept": kept, "ids shared": shared}


def tracked(
    frames: list[PanopticMap], stride: int, random: np.random.Generator
) -> list[tuple[PanopticMap, PanopticMap]]:
    """Return the tracks and the ground truth of every `stride`-th frame."""
    tracker = Tracker(CATEGORIES)
    return [
        (tracker.update(shuffled(truth, random), number), truth)
        for number, truth in enumerate(frames)
        if number % stride == 0
    ]


def shuffled(panoptic: PanopticMap, random: np.random.Generator) -> PanopticMap:
    """Return the map with other ids and another order of the segments."""
    new = (random.permutation(len(panoptic.segments)) + 1).tolist()
    ids = np.zeros_like(panoptic.ids)
    segments = []
    for segment, number in zip(panoptic.segments, new, strict=True):
        ids[panoptic.ids == segment.id] = number
        segments.append(replace(segment, id=number))
    return PanopticMap(ids, tuple(segments[position] for position in random.permutation(len(segments))))


if __name__ == "__main__":
    main()
