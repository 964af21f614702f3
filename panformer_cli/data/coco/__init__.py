"""COCO's panoptic format on disk: JSON, PNGs, and the index of both."""
