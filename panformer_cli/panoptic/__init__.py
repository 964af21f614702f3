"""From masks to a panoptic map, and what that map is worth: merging, PQ, AP, drawing."""
