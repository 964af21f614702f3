"""Drawing panoptic maps: colors, overlays and labels."""
