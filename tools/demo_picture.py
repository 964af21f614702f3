"""Draw the first picture of the README: `python -m tools.demo_picture docs/images/demo.jpg --data S --predictions P`.

S are the generated scenes of `panformer demo`, such as demo/scenes, and P is demo/evaluation/panoptic.json, the
evaluation of the trained model. The picture has the first six held-out scenes: image, ground truth and prediction.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.engine.annotated_images import AnnotatedImage, Predictions
from panformer_cli.visualization.drawing import draw_panoptic, save_image

SHOWN, SIDE, GAP = 6, 240, 4


def main() -> None:
    """Parse the command line and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the picture")
    parser.add_argument("--data", type=Path, required=True, help="generated scenes")
    parser.add_argument("--predictions", type=Path, required=True, help="panoptic JSON of their split val")
    arguments = parser.parse_args()
    found = Predictions(arguments.predictions, arguments.data / "images" / "val", CocoPanoptic(arguments.data, "val"))
    columns = [np.vstack([framed(cell) for cell in cells(found[index])]) for index in range(SHOWN)]
    save_image(arguments.out, np.hstack(columns), jpeg_quality=88)


def cells(annotated: AnnotatedImage) -> list[ImageArray]:
    """Return the image and its drawn maps, enlarged before they are drawn, so that outlines and labels are sharp."""
    image = np.asarray(cv2.resize(annotated.image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)
    maps = ((enlarged(panoptic), categories) for _, panoptic, categories in annotated.maps)
    return [image, *(draw_panoptic(image, panoptic, categories) for panoptic, categories in maps)]


def enlarged(panoptic: PanopticMap) -> PanopticMap:
    """Return a map of SIDE x SIDE pixels."""
    rows, columns = (np.arange(SIDE) * side // SIDE for side in panoptic.ids.shape)
    ids = panoptic.ids[rows][:, columns]
    of_id = {segment.id: segment.category_id for segment in panoptic.segments}
    return PanopticMap(ids, segments_of(ids, of_id, [segment.id for segment in panoptic.segments if segment.is_crowd]))


def framed(cell: ImageArray) -> ImageArray:
    """Return a cell with half of the gap to its neighbors, white."""
    half = GAP // 2
    return np.pad(cell, ((half, half), (half, half), (0, 0)), constant_values=255)


if __name__ == "__main__":
    main()
