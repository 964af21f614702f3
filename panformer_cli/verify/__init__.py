"""`prepare-data verify`: what is wrong with a data set in COCO's panoptic form, and what can be repaired."""
