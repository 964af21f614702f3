"""COCO's panoptic format on disk: JSON, PNGs, and an index of large JSONs."""
