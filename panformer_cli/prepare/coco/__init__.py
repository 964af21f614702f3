"""Prepare data sets already in COCO panoptic format: COCO itself, with download, and custom ones."""
