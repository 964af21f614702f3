"""From masks to a panoptic map, and what it looks like: merging, drawing, pages."""
