"""Checkpoints of the reference implementation: their names, their variants, and those that are published."""
