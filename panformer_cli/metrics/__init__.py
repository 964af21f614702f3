"""Metrics of panoptic segmentation: image overlaps, matching, PQ, AP, and the analysis of errors."""
