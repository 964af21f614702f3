"""Models: from images to class scores, boxes and masks (docs/model.md)."""
