"""Shared by the tests of annotation tools: conversion, and its result in a form that is easy to compare."""

from __future__ import annotations

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.source import Source
from panformer_cli.reporting import SilentReporter


def converted_train(source: Source) -> CocoPanoptic:
    """Convert the split `train` of a source into `out` next to its folder."""
    out = source.root.parent / "out"
    convert(source, out, ("train",), ConvertOptions(), SilentReporter())
    return CocoPanoptic(out, "train")


def areas(data: CocoPanoptic, index: int = 0) -> list[tuple[str, int, tuple[float, ...]]]:
    """Return class name, area in pixels and box of each segment of an image."""
    segments = data.annotation(index).segments
    return [(data.categories.by_id(s.category_id).name, s.area, s.bbox) for s in segments]
