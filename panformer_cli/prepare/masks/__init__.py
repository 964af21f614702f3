"""Convert common mask formats: COCO instances, folders of masks, pairs of PNGs."""
