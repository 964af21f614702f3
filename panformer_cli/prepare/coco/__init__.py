"""Sets that are in COCO's panoptic form already: COCO itself, fetched and unpacked, and those of users."""
