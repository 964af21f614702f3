"""The network, from an image to class scores, boxes and masks (spec, sections 3 to 6)."""
