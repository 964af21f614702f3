"""Write segments in the formats of labeling tools."""
