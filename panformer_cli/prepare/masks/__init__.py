"""Masks and ids that people have: COCO instances, folders of masks, pairs of PNGs."""
