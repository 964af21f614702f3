"""Panoptic segmentation with Panoptic SegFormer (CVPR 2022)."""

__version__ = "0.2.0"
