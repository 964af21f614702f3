"""Drawing of panoptic maps: colors, overlays and labels."""
