"""Videos: reading frames, predicting them, tracking segments over time, and writing a video."""
