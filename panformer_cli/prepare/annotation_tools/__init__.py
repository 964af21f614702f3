"""Convert exports of annotation tools: labelme, YOLO, CVAT."""
