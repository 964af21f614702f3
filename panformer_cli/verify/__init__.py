"""`prepare-data verify`: find and repair problems in a COCO panoptic data set."""
