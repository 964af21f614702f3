"""Measure the peak memory of `panformer predict --tile` for a large image of generated scenes.

    python benchmarks/tiled_memory.py runs/tiny/best.safetensors
    python benchmarks/tiled_memory.py r50 --size 3000x4000 --tile 1024 --json

The checkpoint can be any one; one of the recipe `tiny`, which `panformer demo` makes, finds objects. A recipe gets
random weights that predict segments in every tile, as in `panformer benchmark`. The image is a mosaic of generated
scenes, each a little larger than a tile, so that objects lie on seams. `panformer predict` runs in a new process, from
the image file to overlay, PNG and JSON. The exit code is 1 if it takes more than 4 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.opencv import cv2
from panformer_cli.data.scenes.generator import generate_scene
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.benchmarking.random_model import random_model
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, save_checkpoint
from panformer_cli.recipe_io import built_in_recipes, load_recipe
from panformer_cli.visualization.drawing import save_image

LIMIT = 4e9
"""Bytes of resident memory that the process may take."""
SCENES = 8
"""Different scenes in the mosaic."""


def mosaic(height: int, width: int, side: int) -> ImageArray:
    """Return an image of generated scenes with this side, (height, width, 3) uint8 RGB."""
    options = SceneOptions(height=512, width=512)
    scenes = [cv2.resize(generate_scene(options, "val", number)[0], (side, side)) for number in range(SCENES)]
    image = np.empty((height, width, 3), np.uint8)
    for number, (top, left) in enumerate((y, x) for y in range(0, height, side) for x in range(0, width, side)):
        part = image[top : top + side, left : left + side]
        part[:] = scenes[number % SCENES][: part.shape[0], : part.shape[1]]
    return image


def checkpoint_of(model: str, folder: Path) -> Path:
    """Return the path of a checkpoint; for the name of a recipe, one with random weights in `folder`."""
    if model not in built_in_recipes():
        return Path(model)
    recipe, path = load_recipe(model), folder / "random.safetensors"
    save_checkpoint(path, random_model(recipe, COCO), recipe, COCO, TrainProgress())
    return path


def measure(checkpoint: Path, size: tuple[int, int], tile: int, overlap: int, folder: Path) -> dict[str, Any]:
    """Return time, memory and segments of one run of the command."""
    height, width = size
    save_image(folder / "mosaic.jpg", mosaic(height, width, tile + tile // 10))
    command = [
        sys.executable,
        "-m",
        "panformer_cli",
        "predict",
        str(folder / "mosaic.jpg"),
        "--out",
        str(folder / "out"),
    ]
    options = ["--checkpoint", str(checkpoint), "--tile", str(tile), "--tile-overlap", str(overlap), "--device", "cpu"]
    began = time.perf_counter()
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    content = json.loads((folder / "out" / "panoptic.json").read_text(encoding="utf-8"))
    return {
        "size": size,
        **content["images"][0]["inference"],
        "seconds": seconds,
        "cpu_seconds": resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        "segments": len(content["annotations"][0]["segments_info"]),
    }


def main() -> int:
    """Run the measurement and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="CHECKPOINT|RECIPE")
    parser.add_argument("--size", default="9000x12000", metavar="HxW", help="size of the image [9000x12000]")
    parser.add_argument("--tile", type=int, default=1024, metavar="N", help="side of a tile [1024]")
    parser.add_argument("--overlap", type=int, default=128, metavar="N", help="pixels that tiles share [128]")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    arguments = parser.parse_args()
    height, width = (int(side) for side in arguments.size.split("x"))
    with TemporaryDirectory() as folder:
        checkpoint = checkpoint_of(arguments.model, Path(folder))
        result = measure(checkpoint, (height, width), arguments.tile, arguments.overlap, Path(folder))
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print(
            f"{width} x {height} pixels in {result['tiles']} tiles, scale {result['scale']}: "
            f"{result['segments']} segments, {result['seconds']:.0f} s ({result['cpu_seconds']:.0f} s of CPU time), "
            f"peak memory {result['peak_bytes'] / 1e9:.2f} GB"
        )
    return int(result["peak_bytes"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
