"""Fit training into the memory of a device: which settings, measured how, and what to do when it runs out."""
