"""Exports of annotation tools: labelme, YOLO, CVAT."""
